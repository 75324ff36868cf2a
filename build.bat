@echo off
goto begin

:help
echo build.bat [TARGET] [x64, x86 or arm64] [debug or release] [NAME ...]
echo.
echo   run       builds, starts the echo server, drives it with verified load, reports
echo   test      builds everything and runs all tests, or those named: build.bat test pool frame
echo   full      the tests of what it must withstand at full size: minutes
echo   bench     builds and runs the benchmarks
echo   examples  only builds the examples (this is the default); tests only builds the tests
echo   check     cl /analyze over header, examples and tests
echo   format    clang-format over all sources
echo   clean     removes what this file makes
echo   help      shows this
exit /b 0

rem With Visual Studio 2015 or later, any edition, or its Build Tools: cl is taken from PATH if it makes
rem what is asked for (x64 unless you say otherwise), else the newest is looked for. One line for each
rem program; the first that does not compile ends it, with cl's exit code. release is the default, with
rem the runtime linked in; CRT=/MD takes the one in a DLL. Everything goes to build\msvc, or
rem build\msvc-x86 and so on.
rem
rem It is kept to what Wine's cmd understands too, where the tests run it with a stand-in for cl: no
rem and-and, no or-or, no where, no exit from within a for, no file read by for with a rest of a line.

:begin
setlocal EnableExtensions DisableDelayedExpansion
cd /d "%~dp0"
set target=
set arch=
set config=
set names=
set failed=

:word
if "%~1"=="" goto words_are_read
call :take_word "%~1"
if defined failed exit /b 2
shift
goto word
:words_are_read
if not defined target set target=examples
if not defined arch set arch=x64
if not defined config set config=release

set out=build\msvc
if not "%arch%"=="x64" set out=%out%-%arch%
if "%config%"=="debug" set out=%out%-debug
if "%target%"=="clean" goto clean
if "%target%"=="format" goto format
if "%target%"=="help" goto help

set runs=
for %%t in (run test full bench) do if "%target%"=="%%t" set runs=1
if not defined runs goto runnable
if not "%arch%"=="arm64" goto runnable
if "%PROCESSOR_ARCHITECTURE%"=="ARM64" goto runnable
echo build.bat: this machine runs no programs for arm64; examples, tests and check only build
exit /b 2
:runnable

call :find_cl
if defined failed exit /b 1
for %%d in (build %out% %out%\obj %out%\examples %out%\tests %out%\bench %out%\bench\peers) do if not exist %%d mkdir %%d
call :flags_of_cl

if "%target%"=="check" goto check
rem The header alone, as C and as C++; then what uses it.
call :compile_header C /TC
call :compile_header C++ /TP
if not "%target%"=="tests" for %%f in (examples\*.c) do call :compile examples %%f
set benches=
if "%target%"=="test" set benches=1
if "%target%"=="bench" set benches=1
if defined benches for %%f in (bench\*.c) do call :compile bench %%f
if defined benches for %%f in (bench\peers\*.c) do call :compile bench\peers %%f
set flags=%flags% /DIOCPNET_DEBUG
if "%target%"=="test" for %%f in (tests\test_*.c) do call :compile tests %%f
if "%target%"=="tests" for %%f in (tests\test_*.c) do call :compile tests %%f
set with_dll=
if "%target%"=="test" set with_dll=1
if "%target%"=="tests" set with_dll=1
if defined with_dll call :compile_dll tests\unload_dll.c
if "%target%"=="full" for %%f in (tests\test_withstand.c tests\test_listener.c) do call :compile tests %%f
if defined failed exit /b %failed%

if "%target%"=="run" goto run
if "%target%"=="test" goto test
if "%target%"=="full" goto full
if "%target%"=="bench" goto bench
exit /b 0

:run
call tests\tools\run.bat %out%
exit /b %errorlevel%

:test
call tests\tools\run_tests.bat %out%%names%
exit /b %errorlevel%

:full
set FULL=1
call tests\tools\run_tests.bat %out% withstand listener
exit /b %errorlevel%

:bench
echo left out: the servers beside each other and asio, whose load generator is for Linux
if not defined BENCH_JSON set BENCH_JSON=%out%\bench\results.jsonl
if exist %BENCH_JSON% del %BENCH_JSON%
for %%f in (%out%\bench\bench_*.exe) do call :bench_one %%f
echo figures: %BENCH_JSON%
if defined failed exit /b 1
exit /b 0

:check
for %%f in (tests\compile_all.c examples\*.c tests\test_*.c) do call :analyze %%f
if defined failed exit /b %failed%
echo PASS check: cl /analyze has nothing to say
exit /b 0

:format
for %%f in (iocpnet.h examples\*.h examples\*.c tests\*.h tests\*.c bench\*.h bench\*.c bench\peers\*.h bench\peers\*.c) do clang-format -i %%f
exit /b %errorlevel%

:clean
rem Only what this file makes. Wine's rmdir follows symbolic links out of the folder, and a Wine prefix
rem in build has links to the whole system.
if exist %out% rmdir /s /q %out%
exit /b 0

rem ---- subroutines; they set failed ------------------------------------------------------------------

:take_word
for %%a in (x64 x86 arm64) do if /i "%~1"=="%%a" goto is_arch
for %%c in (debug release) do if /i "%~1"=="%%c" goto is_config
if defined target goto is_name
for %%t in (run test full bench examples tests check format clean help) do if /i "%~1"=="%%t" goto is_target
echo build.bat: unknown target %~1; run, test, full, bench, examples, tests, check, format, clean or help
set failed=1
goto :eof
:is_arch
set arch=%~1
goto :eof
:is_config
set config=%~1
goto :eof
:is_target
set target=%~1
goto :eof
:is_name
if "%target%"=="test" goto is_test_name
echo build.bat: %target% takes no %~1: x64, x86, arm64, debug or release
set failed=1
goto :eof
:is_test_name
if exist tests\test_%~1.c goto is_known_name
echo build.bat: no test is named %~1; the names are those of tests\test_*.c, as pool for test_pool.c
set failed=1
goto :eof
:is_known_name
set names=%names% %~1
goto :eof

rem What cl 2015 calls an extension at /W4 and is plain C99: 4204 and 4221 (initializers that are no
rem constants). 4127 is about constant conditions, as in do ... while (0).
:flags_of_cl
set flags=/nologo /W4 /WX /wd4127 /wd4204 /wd4221 /D_WIN32_WINNT=0x0601 /D_CRT_SECURE_NO_WARNINGS
if "%config%"=="debug" goto debug_flags
if not defined CRT set CRT=/MT
set flags=%flags% /O2 %CRT%
goto strict_flags
:debug_flags
if not defined CRT set CRT=/MTd
set flags=%flags% /Od /Zi /Fd%out%\obj\ %CRT% /DIOCPNET_DEBUG
:strict_flags
rem From 2017 on cl can be strict.
set cl_version=0
echo _MSC_VER>%out%\version.c
cl /nologo /EP %out%\version.c >%out%\version.txt 2>nul
for /f "usebackq" %%v in ("%out%\version.txt") do set cl_version=%%v
if %cl_version% GEQ 1910 set flags=%flags% /permissive-
goto :eof

:compile_header
if defined failed goto :eof
echo cl iocpnet.h as %1
cl %flags% %2 /c /Fo%out%\obj\ tests\compile_all.c >%out%\cl.txt 2>&1
set code=%errorlevel%
if %code%==0 goto :eof
set failed=%code%
type %out%\cl.txt
echo build.bat: iocpnet.h does not compile as %1
goto :eof

:compile
if defined failed goto :eof
rem The load generator of the benchmarks is for Linux.
if "%~n2"=="load" goto :eof
echo cl %2
cl %flags% /Fo%out%\obj\ /Fe%out%\%1\%~n2.exe %2 ws2_32.lib >%out%\cl.txt 2>&1
set code=%errorlevel%
if %code%==0 goto :eof
set failed=%code%
type %out%\cl.txt
echo build.bat: %2 does not compile
goto :eof

:compile_dll
if defined failed goto :eof
echo cl %1
cl %flags% /LD /Fo%out%\obj\ /Fe%out%\tests\%~n1.dll %1 ws2_32.lib >%out%\cl.txt 2>&1
set code=%errorlevel%
if %code%==0 goto :eof
set failed=%code%
type %out%\cl.txt
echo build.bat: %1 does not compile
goto :eof

:analyze
if defined failed goto :eof
echo cl /analyze %1
cl %flags% /analyze /c /Fo%out%\obj\ %1 >%out%\cl.txt 2>&1
set code=%errorlevel%
if %code%==0 goto :eof
set failed=%code%
type %out%\cl.txt
echo FAIL check: %1
goto :eof

:bench_one
echo == %~n1
%1
if errorlevel 1 set failed=1
goto :eof

rem A cl on PATH that was set up for another processor does not do; one that was not set up by Visual
rem Studio's own scripts is believed.
:find_cl
if not defined VSCMD_ARG_TGT_ARCH goto cl_on_path
if not "%VSCMD_ARG_TGT_ARCH%"=="%arch%" goto look_for_cl
:cl_on_path
for %%c in (cl.exe) do if not "%%~$PATH:c"=="" goto :eof
:look_for_cl
set studio=
set tools=x86.x64
if "%arch%"=="arm64" set tools=ARM64
set vswhere=%ProgramFiles(x86)%\Microsoft Visual Studio\Installer\vswhere.exe
if not exist "%vswhere%" set vswhere=%ProgramFiles%\Microsoft Visual Studio\Installer\vswhere.exe
if not exist "%vswhere%" goto old_studio
for /f "usebackq delims=" %%p in (`"%vswhere%" -latest -prerelease -products * -requires Microsoft.VisualStudio.Component.VC.Tools.%tools% -property installationPath`) do set studio=%%p\VC\Auxiliary\Build\vcvarsall.bat
:old_studio
if not defined studio if defined VS140COMNTOOLS set studio=%VS140COMNTOOLS%..\..\VC\vcvarsall.bat
if not defined studio goto no_cl
if not exist "%studio%" goto no_cl
set host=amd64
if "%PROCESSOR_ARCHITECTURE%"=="ARM64" set host=arm64
set processor=%arch%
if "%arch%"=="x64" set processor=amd64
set setup=%host%_%processor%
if "%host%"=="%processor%" set setup=%host%
call "%studio%" %setup% >nul
for %%c in (cl.exe) do if not "%%~$PATH:c"=="" goto :eof
:no_cl
echo build.bat: needs cl of Visual Studio 2015 or later for %arch%: install "Build Tools for Visual Studio" with C++
set failed=1
goto :eof
