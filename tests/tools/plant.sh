#!/bin/bash
# plant.sh [--apply | --table] [NAME ...]: plants the bugs of tests/plants one at a time into a
# copy of the header, and shows which check finds each. Those whose names contain a NAME; without
# one all of them.
#
# A plant is a patch with two lines above it: what the bug is, and which check is expected to find
# it: "play", or a test program and the names of tests in it. The checks, from cheap to costly,
# until one fails; a hang is a find too:
#
#   play          random programs on the simulator, under AddressSanitizer and UBSan: a few, and
#                 after the test program as many as PLANT_SEEDS says [120]
#   TEST          the test program, on the simulator, under the same
#   tsan play     random programs on real threads, under ThreadSanitizer
#   wine TEST     the test program under Wine
#
# The header as it is must pass all of these first. --apply only looks whether every patch applies
# and compiles. A line for each plant; the last one is "N passed, N failed, N skipped", where passed
# means found.
#
# --table writes tests/PLANTS.md from what the runs so far have left in the folder below.
#
#   PLANT_JOBS    plants side by side [2]
#   PLANT_OUT     folder for what is made [build/plant]; two runs side by side need two
#   PLANT_CC      the compiler [clang-19, else clang]; it needs the sanitizers

cd "$(dirname "$0")/../.." || exit 1

apply_only= table_only=
[ "${1:-}" = --apply ] && apply_only=1 && shift
[ "${1:-}" = --table ] && table_only=1 && shift
names=("$@")
first=16
seeds=${PLANT_SEEDS:-120}
jobs=${PLANT_JOBS:-2}
cc=${PLANT_CC:-$(command -v clang-19 || command -v clang)}
out=${PLANT_OUT:-build/plant}
mkdir -p "$out"

# table: a row for each plant, as its last run has shown
table()
{
    local file name found=0 missed=0 unrun=0 seconds=0 cells
    {
        echo '# Planted bugs'
        echo
        echo 'Each row is a bug of `tests/plants`, the check that found it, and what that said.'
        echo '`tests/tools/plant.sh` plants them; with `--table` it writes this from its last runs.'
        echo
        echo '| plant | bug | found by | how it was seen |'
        echo '| --- | --- | --- | --- |'
        for file in tests/plants/*.patch; do
            name=$(basename "$file" .patch)
            if [ -e "$out/$name.how" ]; then
                cells=$(sed -n '3s/|/\\|/g; 3p' "$out/$name.how")
                cells="$(sed -n 1p "$out/$name.how") | $cells"
                seconds=$((seconds + $(sed -n 2p "$out/$name.how")))
                found=$((found + 1))
            elif [ -e "$out/$name.sum" ]; then
                cells='**not found** | '
                missed=$((missed + 1))
            else
                cells='not run | '
                unrun=$((unrun + 1))
            fi
            echo "| \`${name%%_*}\` ${name#*_} | $(head -n 1 "$file") | $cells |"
        done
        echo
        echo "$found found, $missed not found, $unrun not run. Those found took $seconds s in all."
    } >tests/PLANTS.md
    tail -n 2 tests/PLANTS.md
}
if [ -n "$table_only" ]; then
    table
    exit
fi

if [ -z "$cc" ]; then
    echo "SKIP plant: no clang"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi

export ASAN_OPTIONS=detect_stack_use_after_return=0:halt_on_error=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=0
export TSAN_OPTIONS=halt_on_error=1:exitcode=66

# Those of native.sh.
common='-O1 -gline-tables-only -fno-omit-frame-pointer -fshort-wchar'
asan='-fsanitize=address,undefined -fno-sanitize-recover=all'
tsan='-fsanitize=thread -mllvm -tsan-distinguish-volatile -Wno-unused-command-line-argument'

# flags KIND
flags()
{
    case $1 in
        asan) echo "$common $asan" ;;
        tsan) echo "$common $tsan" ;;
        *) echo "$common" ;;
    esac
}

# The simulator itself, once for each kind.
simulator()
{
    local kind=$1 f
    mkdir -p "$out/sim_$kind"
    for f in sim_os sim_net; do
        [ -n "$(find tests/sim -newer "$out/sim_$kind/$f.o" 2>/dev/null || echo new)" ] || continue
        $cc -std=gnu99 $(flags "$kind") -c "tests/sim/$f.c" -o "$out/sim_$kind/$f.o" || return 1
    done
}

# build FOLDER KIND SOURCE PROGRAM: for the simulator, against the folder's header
build()
{
    $cc -std=c99 $(flags "$2") -Wno-format -DIOCPNET_DEBUG \
        -I"$out/base/tests/sim/include" -c "$1/tests/$3" -o "$1/$4.o" &&
        $cc $(flags "$2") "$1/$4.o" "$out/sim_$2/sim_os.o" "$out/sim_$2/sim_net.o" -o "$1/$4" \
            -lpthread && rm -f "$1/$4.o"
}

# A line that tells what was found.
evidence()
{
    local line
    line=': MUST|: CHECK|: REQUIRE|Assertion|ERROR: AddressSanitizer|runtime error|rule is broken'
    line=$(grep -aE -m 1 "$line|WARNING: ThreadSanitizer" "$1" | sed 's/\r$//')
    case $line in
        *ThreadSanitizer* | *AddressSanitizer*)
            line="$line $(grep -aE -m 1 '^ +#[0-9]+ (0x[0-9a-f]+ in )?iocpnet' "$1" |
                sed 's/^ *#[0-9]* \(0x[0-9a-f]* in \)\?//; s/ .*//')" ;;
    esac
    [ -n "$line" ] || line=$(grep -aE -m 1 'failed with status|FAIL' "$1" | sed 's/\r$//')
    [ -n "$line" ] || line="exit code $2"
    [ "$2" = 124 ] || [ "$2" = 137 ] && line="it hangs"
    echo "$line" | sed -E "s#[^ ]*/(tests/|iocpnet\.h)#\1#g; s/==[0-9]+==//; s/ \(pid=[0-9]+\)//
        s/0x[0-9a-f]{6,}[^ ]*//g; s/^tests\/sim\///" | cut -c 1-130
}

# check FOLDER CHECK ...: 0 if it passes; else why is in FOLDER/why. Makes what it needs.
check()
{
    local folder=$1 kind=$2 text=$1/out.txt code
    shift 2
    case $kind in
        play)
            [ -e "$folder/play" ] || build "$folder" asan sim/test_play.c play || return 2
            PLAY_FIRST=1 PLAY_JOBS=1 PLAY_SECONDS=${PLANT_SECONDS:-30} PLAY_SEED=$1 PLAY_SEEDS=$2 \
                timeout -k 5 300 "$folder/play" >"$text" 2>&1
            code=$? ;;
        tsan)
            [ -e "$folder/tsan" ] || build "$folder" tsan sim/test_play.c tsan || return 2
            SIM_THREADS=1 PLAY_FIRST=1 PLAY_JOBS=2 PLAY_SECONDS=60 PLAY_STEPS=400 \
                PLAY_SEED=1 PLAY_SEEDS=$1 timeout -k 5 300 "$folder/tsan" >"$text" 2>&1
            code=$? ;;
        native)
            [ -e "$folder/$1" ] || build "$folder" asan "test_$1.c" "$1" || return 2
            timeout -k 5 60 "$folder/$1" "${@:2}" >"$text" 2>&1
            code=$? ;;
        wine)
            [ -e "$folder/$1.exe" ] ||
                $mingw -std=c99 -O1 -D_WIN32_WINNT=0x0601 -DIOCPNET_DEBUG -static \
                    -o "$folder/$1.exe" "$folder/tests/test_$1.c" -lws2_32 || return 2
            timeout -s INT -k 5 120 $wine_command "$folder/$1.exe" "${@:2}" </dev/null >"$text" \
                2>&1 9>&-
            code=$? ;;
    esac
    [ $code = 0 ] && return 0
    evidence "$text" $code >"$folder/why"
    return 1
}

# A folder with what is compiled: the header, and tests that find it in the folder above. As it was
# when this began, whatever is edited meanwhile.
rm -rf "$out/base"
mkdir -p "$out/base/tests/sim"
cp iocpnet.h "$out/base/"
cp tests/*.c tests/*.h "$out/base/tests/"
cp -r tests/sim/*.[ch] tests/sim/include "$out/base/tests/sim/"
tree()
{
    rm -rf "$1"
    cp -r "$out/base" "$1"
}

# result NAME KIND TEXT: the plant's line
result()
{
    local name=$1 kind=$2
    echo "$kind" >"$out/$name.sum"
    {
        flock -x 8
        echo "$name: $3"
    } 8>"$out/lock"
}

# plant FILE
plant()
{
    local file=$1 name folder expected begin how words
    name=$(basename "$file" .patch)
    folder=$out/$name
    expected=$(sed -n '2s/^Found by: //p' "$file")
    begin=$SECONDS
    tree "$folder"
    if ! patch -s -p0 -d "$folder" <"$file" >"$folder/out.txt" 2>&1; then
        result "$name" failed "does not apply: $(head -n 1 "$folder/out.txt")"
        return
    fi
    if [ -n "$apply_only" ]; then
        if $cc -std=c99 -fshort-wchar -fsyntax-only -Wall -Wextra -Werror -Wno-format \
            -DIOCPNET_DEBUG -Itests/sim/include "$folder/tests/sim/test_play.c" \
            >"$folder/out.txt" 2>&1; then
            result "$name" passed "applies"
            rm -rf "$folder"
        else
            result "$name" failed "does not compile: $(grep -m 1 error "$folder/out.txt")"
        fi
        return
    fi
    words=($expected)
    case ${words[0]} in play | tsan) words=() ;; esac
    how=
    [ ${#words[@]} -gt 0 ] || check "$folder" play 1 $first || how=play
    if [ -z "$how" ] && [ ${#words[@]} -gt 0 ]; then
        check "$folder" native "${words[@]}" || how=${words[0]}
    fi
    [ -n "$how" ] || check "$folder" play $((first + 1)) $((seeds - first)) || how=play
    [ -n "$how" ] || [ -n "${PLANT_NO_TSAN:-}" ] || check "$folder" tsan 6 || how='tsan play'
    if [ -z "$how" ] && [ ${#words[@]} -gt 0 ] && [ -n "$wine_ready" ]; then
        check "$folder" wine "${words[@]}" || how="wine ${words[0]}"
    fi
    if [ -n "$how" ] && [ -e "$folder/why" ]; then
        printf '%s\n' "$how" "$((SECONDS - begin))" "$(cat "$folder/why")" >"$out/$name.how"
        result "$name" passed "$how, $((SECONDS - begin)) s: $(cat "$folder/why")"
        rm -rf "$folder"
    elif [ -n "$how" ]; then
        result "$name" failed "was not built for $how"
    else
        result "$name" failed "NOT FOUND, $((SECONDS - begin)) s"
    fi
}

files=()
for file in tests/plants/*.patch; do
    name=$(basename "$file" .patch)
    if [ ${#names[@]} -gt 0 ]; then
        chosen=
        for filter in "${names[@]}"; do [[ $name == *$filter* ]] && chosen=1; done
        [ -n "$chosen" ] || continue
    fi
    files+=("$file")
    rm -f "$out/$name.sum"
    [ -n "$apply_only" ] || rm -f "$out/$name.how"
done

# The header as it is.
clean()
{
    local folder=$out/clean file word bad=
    tree "$folder"
    if ! check "$folder" play 1 "$seeds"; then
        echo "the header fails in play: $(cat "$folder/why")"
        bad=1
    fi
    sed -n '2s/^Found by: //p' -s "${files[@]}" | grep -vE '^(play|tsan play)$' | sort -u |
        while read -r word; do
            check "$folder" native $word ||
                { echo "the header fails in $word: $(cat "$folder/why")"; touch "$folder/bad"; }
        done
    [ -e "$folder/bad" ] && bad=1
    check "$folder" tsan 6 || { echo "the header fails in tsan play: $(cat "$folder/why")"; bad=1; }
    [ -z "$bad" ]
}

passed=0 failed=0 skipped=0
wine_ready=
trap 'kill $(jobs -p) 2>/dev/null; exit 130' INT TERM
if [ -z "$apply_only" ]; then
    simulator asan && simulator tsan || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }
    mingw=$(command -v x86_64-w64-mingw32-gcc)
    . tests/tools/wine.sh
    if [ -n "$mingw" ] && [ -z "${PLANT_NO_WINE:-}" ] && command -v $wine_command >/dev/null; then
        wine_begin && wine_ready=1 && trap wine_end EXIT
    fi
    if [ -z "${PLANT_NO_CLEAN:-}" ]; then
        begin=$SECONDS
        if clean; then
            echo "the header as it is: clean, $((SECONDS - begin)) s"
        else
            failed=1
        fi
    fi
fi
for file in "${files[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    plant "$file" &
done
wait
for file in "${files[@]}"; do
    case $(cat "$out/$(basename "$file" .patch).sum" 2>/dev/null) in
        passed) passed=$((passed + 1)) ;;
        *) failed=$((failed + 1)) ;;
    esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
