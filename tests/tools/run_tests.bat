@echo off
rem run_tests.bat FOLDER [NAME ...]: runs FOLDER\tests\test_*.exe, or those named (pool for test_pool).
rem One line a program; a failed one shows its output. The last line is "N passed, N failed, N skipped";
rem exit code 1 when anything failed. A program has passed when its last line is "PASS topic: ..." and
rem its exit code 0; its own watch thread ends one that hangs. With FULL=1 set, at full size: all that
rem a program says is shown.
setlocal EnableExtensions DisableDelayedExpansion
set folder=%1
set names=%2 %3 %4 %5 %6 %7 %8 %9
if "%names: =%"=="" set names=
if not exist %folder%\tests\out mkdir %folder%\tests\out
rem Windows has all that the tests probe for: a skip there is a failure.
if not defined T_NO_SKIP set T_NO_SKIP=1
set passed=0
set failed=0
set skipped=0
for %%f in (%folder%\tests\test_*.exe) do call :program %%f
rem The scripts tests\check_*.sh are for Linux; this is said, not counted.
echo left out: tests\check_*.sh, which run on Linux
if "%passed%%failed%%skipped%"=="000" goto nothing
echo %passed% passed, %failed% failed, %skipped% skipped
if %failed%==0 exit /b 0
exit /b 1

:nothing
echo no test was found
echo 0 passed, 1 failed, 0 skipped
exit /b 1

:program
set name=%~n1
set topic=%name:~5%
rem An old program whose source is gone is no test.
if not exist tests\%name%.c goto :eof
if not defined names goto chosen
for %%n in (%names%) do if "%%n"=="%topic%" goto chosen
goto :eof
:chosen
set said=%folder%\tests\out\%name%.txt
set closing=
%1 <nul >%said% 2>&1
set code=%errorlevel%
for /f "usebackq delims=" %%l in ("%said%") do set closing=%%l
if not "%code%"=="0" goto failed
if not "%closing:~0,5%"=="PASS " goto failed
if defined FULL type %said%
for /f "usebackq tokens=2,3,7 delims=:, " %%a in ('%closing%') do call :count_pass %%a %%b %%c
echo %closing%
goto :eof

:count_pass
if not "%1"=="%topic%" goto failed
set /a skipped=%skipped%+%3
set /a passed=%passed%+%2-%3
goto :eof

:failed
echo ---- %name% failed, exit code %code%; its output:
type %said%
echo ----
if not "%closing:~0,5%"=="FAIL " goto failed_once
for /f "usebackq tokens=3,4,5 delims=:, " %%a in ('%closing%') do call :count_fail %%a %%b %%c
goto :eof
:failed_once
set /a failed=%failed%+1
goto :eof

:count_fail
if not "%2"=="of" goto failed_once
set /a failed=%failed%+%1
set /a passed=%passed%+%3-%1
goto :eof
