@echo off
rem build.bat [run | test | full | bench | examples | tests | check | format | clean]   with MSVC 2015 or later
rem
rem   run       builds, starts the echo server, drives it with verified load, reports
rem   test      builds everything and runs all tests; names behind it choose: build.bat test pool
rem   full      the tests of what it must withstand at full size: minutes
rem   bench     builds and runs the benchmarks
rem   examples  only builds the examples (this is the default); tests only builds the tests
rem   check     cl /analyze over header and examples
rem
rem Set CRT=/MD for the runtime in a DLL, ARCH=x86 or ARCH=x64_arm64 for another processor than x64.
rem cl is taken from PATH, else Visual Studio is looked for. Everything goes to build\msvc.

rem It is kept to what Wine's cmd understands too, where the tests run it with a stand-in for cl: no
rem and-and, no or-or, no where, no exit from within a for.
setlocal EnableExtensions DisableDelayedExpansion
cd /d "%~dp0"
set target=%1
if "%target%"=="" set target=examples
if "%CRT%"=="" set CRT=/MT
if "%ARCH%"=="" set ARCH=x64
set out=build\msvc
set failed=

for %%t in (run test full bench examples tests check format clean) do if "%target%"=="%%t" goto known
echo build.bat: unknown target %target%; run, test, full, bench, examples, tests, check, format or clean
exit /b 2
:known

if "%target%"=="clean" goto clean
if "%target%"=="format" goto format
call :find_cl
if defined failed exit /b 1
for %%d in (build %out% %out%\obj %out%\examples %out%\tests %out%\bench) do if not exist %%d mkdir %%d

rem What cl 2015 calls an extension at /W4 and is plain C99: 4204 and 4221 (initializers that are no
rem constants). 4127 is about constant conditions, as in do ... while (0).
set flags=/nologo /W4 /WX /O2 %CRT% /wd4127 /wd4204 /wd4221 /D_WIN32_WINNT=0x0601 /D_CRT_SECURE_NO_WARNINGS

if "%target%"=="check" goto check
if not "%target%"=="tests" for %%f in (examples\*.c) do call :compile examples %%f
if "%target%"=="test" for %%f in (bench\*.c) do call :compile bench %%f
if "%target%"=="bench" for %%f in (bench\*.c) do call :compile bench %%f
set flags=%flags% /DIOCPNET_DEBUG
if "%target%"=="test" for %%f in (tests\test_*.c) do call :compile tests %%f
if "%target%"=="tests" for %%f in (tests\test_*.c) do call :compile tests %%f
if "%target%"=="full" for %%f in (tests\test_withstand.c tests\test_listener.c) do call :compile tests %%f
if defined failed exit /b 1

if "%target%"=="run" goto run
if "%target%"=="test" goto test
if "%target%"=="full" goto full
if "%target%"=="bench" goto bench
exit /b 0

:run
call tests\tools\run.bat %out%
exit /b %errorlevel%

:test
call tests\tools\run_tests.bat %out% %2 %3 %4 %5 %6 %7 %8 %9
exit /b %errorlevel%

:full
set FULL=1
call tests\tools\run_tests.bat %out% withstand listener
exit /b %errorlevel%

:bench
for %%f in (%out%\bench\bench_*.exe) do call :bench_one %%f
if defined failed exit /b 1
exit /b 0

:check
for %%f in (examples\*.c) do call :analyze %%f
if defined failed exit /b 1
exit /b 0

:format
for %%f in (iocpnet.h examples\*.h examples\*.c tests\*.h tests\*.c bench\*.c) do clang-format -i %%f
exit /b %errorlevel%

:clean
rem Only what this file makes. Wine's rmdir follows symbolic links out of the folder, and a Wine prefix
rem in build has links to the whole system.
if exist %out% rmdir /s /q %out%
exit /b 0

rem ---- subroutines; they set failed ------------------------------------------------------------------

:compile
if defined failed goto :eof
rem The load generator of the benchmarks is for Linux.
if "%~n2"=="load" goto :eof
echo cl %2
cl %flags% /Fo%out%\obj\ /Fe%out%\%1\%~n2.exe %2 ws2_32.lib >%out%\cl.txt 2>&1
if not errorlevel 1 goto :eof
set failed=1
type %out%\cl.txt
echo build.bat: %2 does not compile
goto :eof

:analyze
echo cl /analyze %1
cl /nologo /W4 /analyze /c /D_WIN32_WINNT=0x0601 /D_CRT_SECURE_NO_WARNINGS /Fo%out%\obj\ %1
if errorlevel 1 set failed=1
goto :eof

:bench_one
echo == %~n1
%1
if errorlevel 1 set failed=1
goto :eof

:find_cl
for %%c in (cl.exe) do if not "%%~$PATH:c"=="" goto :eof
set studio=
set vswhere=%ProgramFiles(x86)%\Microsoft Visual Studio\Installer\vswhere.exe
if not exist "%vswhere%" goto old_studio
for /f "usebackq delims=" %%p in (`"%vswhere%" -latest -products * -requires Microsoft.VisualStudio.Component.VC.Tools.x86.x64 -property installationPath`) do set studio=%%p\VC\Auxiliary\Build\vcvarsall.bat
:old_studio
if not defined studio if defined VS140COMNTOOLS set studio=%VS140COMNTOOLS%..\..\VC\vcvarsall.bat
if not defined studio goto no_cl
if not exist "%studio%" goto no_cl
if "%ARCH%"=="x64" set ARCH=amd64
call "%studio%" %ARCH% >nul
for %%c in (cl.exe) do if not "%%~$PATH:c"=="" goto :eof
:no_cl
echo build.bat: needs cl of Visual Studio 2015 or later: install "Build Tools for Visual Studio" with C++
set failed=1
goto :eof
