#!/bin/bash
# cl.sh BASE: what the stand-in cl.exe asks. BASE is a Windows path; BASE.ask holds the Windows
# folder and the arguments. The answer: what was said in BASE.said, then the exit code in BASE.code.

unix_path()
{
    local path=${1#[Zz]:}
    printf '%s\n' "${path//\\//}"
}

base=$(unix_path "$1")
{ read -r folder && read -r arguments; } <"$base.ask"
unix_path "$arguments" | sed 's/\([ "]\)[Zz]:\//\1\//g' >"$base.ask"
sdk=$(cd "$(dirname "$base")/.." && pwd)
wine_headers=/usr/include/wine/wine

. "$(dirname "${BASH_SOURCE[0]}")/names.sh"
language=C
[[ " $arguments " != *" /TP "* ]] || language=C++

# Wine's import libraries and a start-up of our own in place of Microsoft's.
export LINK="/libpath:$sdk/lib $sdk/crt0.obj /entry:mainCRTStartup /nodefaultlib:libcmt
    /nodefaultlib:msvcrt /nodefaultlib:oldnames ucrtbase.lib kernel32.lib ntdll.lib winecrt0.lib"
LINK=${LINK//$'\n'/ }
# A DLL is started by its own DllMain.
[[ " $arguments " != *" /LD "* ]] || LINK=${LINK/"/entry:mainCRTStartup"//entry:DllMain}
{
    cd "$(unix_path "$folder")" &&
        clang-cl-19 --target=x86_64-pc-windows-msvc -fms-compatibility-version=19.39 \
            -fuse-ld=lld-link-19 -Wgnu -Wvla \
            -imsvc $wine_headers/msvcrt -imsvc $wine_headers/windows \
            $(wine_functions x86_64-$language) -DInterlockedExchange64=_InterlockedExchange64 \
            --rsp-quoting=windows "@$base.ask"
} >"$base.said" 2>&1
echo $? >"$base.part"
rm -f "$base.ask"
mv "$base.part" "$base.code"  # whole, when it is there
