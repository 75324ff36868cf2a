@echo off
rem run.bat FOLDER: starts the echo server of FOLDER, drives it with the echo client and shows what both
rem report. A batch file cannot press Ctrl-C, so the server stops by itself, after 10 seconds.
setlocal EnableExtensions DisableDelayedExpansion
set folder=%1
if not exist %folder%\run mkdir %folder%\run
set server=%folder%\run\server.txt
if exist %server% del %server%

start "" /b %folder%\examples\echo_server.exe --port 0 --seconds 10 >%server% 2>&1

set port=
set tries=0
:wait_for_port
set /a tries=%tries%+1
for /f "usebackq tokens=1,4 delims=: " %%a in ("%server%") do if "%%a"=="listening" set port=%%b
if defined port goto listening
if %tries%==20 goto no_server
call :pause_a_second
goto wait_for_port

:no_server
echo the echo server did not come up:
type %server%
exit /b 1

:listening
echo echo_server listens on port %port%; 64 connections, 200 messages of 1024 bytes on each, 4 on their way
%folder%\examples\echo_client.exe --host 127.0.0.1 --port %port% --connections 64 --size 1024 --messages 200 --depth 4
set code=%errorlevel%

echo echo_server stops within 10 seconds
set tries=0
set counters=
:wait_for_counters
set /a tries=%tries%+1
for /f "usebackq delims=" %%l in ("%server%") do set counters=%%l
if "%counters:~0,1%"=="{" goto counted
if %tries%==30 goto no_counters
call :pause_a_second
goto wait_for_counters

:no_counters
echo FAILED: the echo server did not stop; what it said:
type %server%
exit /b 1

:counted
echo echo_server counted:
echo %counters%
if %code%==0 exit /b 0
echo FAILED: exit code of echo_client %code%
exit /b 1

:pause_a_second
ping -n 2 127.0.0.1 >nul
goto :eof
