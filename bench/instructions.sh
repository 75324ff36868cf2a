#!/bin/bash
# instructions.sh [--check]: the kit's own instructions per echo and the like, counted by callgrind
# in the simulator (tests/sim): the same number each time, with the same compiler. The last line is
# "N passed, N failed, N skipped".
#
# Counted is what was compiled from iocpnet.h, atomics included. The system's side, memcpy and the
# program's callbacks are not. --check: fails above the bounds below.

cd "$(dirname "$0")/.." || exit 1
tests/tools/setup.sh instructions || exit 1

out=build/instructions
mkdir -p "$out"
rm -f "$out"/callgrind.out*
flags='-O2 -g -fshort-wchar -DSIM_NO_POINTS'
for part in sim_os sim_net; do
    gcc -std=gnu99 -O2 -g -fshort-wchar -w -c -o "$out/$part.o" "tests/sim/$part.c" || exit 1
done
gcc -std=c99 $flags -w -Itests/sim/include -o "$out/instructions" tests/sim/instructions.c \
    "$out/sim_os.o" "$out/sim_net.o" -lpthread || exit 1
SIM_CALM=1 timeout 600 valgrind --tool=callgrind --instr-atstart=no --dump-line=yes \
    --callgrind-out-file="$out/callgrind.out" "$out/instructions" \
    >"$out/said.txt" 2>"$out/log.txt" </dev/null
if ! grep -q '^PASS' "$out/said.txt"; then
    cat "$out/said.txt"
    tail -n 5 "$out/log.txt"
    echo "FAIL instructions: the run did not end"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
python3 - "$out" "${1:-}" <<'END'
import glob, os, re, sys

folder, check = sys.argv[1:3]
bounds = {'echo, 1 connections': 598, 'echo, 1000 connections': 598, 'echo, 10000 connections': 598,
          'name looked up': 90, 'broadcast, a call': 250,
          'buffer taken and given': 60}
failed = []

def kit(path):
    """Exclusive instructions of lines of iocpnet.h and of the atomics, and all of them."""
    names, own, every, current, skip = {}, 0, 0, '', False
    name = ''
    for line in open(path, errors='replace'):
        line = line.rstrip('\n')
        if line.startswith('desc: Trigger: Client Request: '):
            name = line.split(': ', 3)[3] if line.count(': ') > 2 else line.split(': ')[-1]
        match = re.match(r'(fl|fi|fe)=\((\d+)\)(?: (.*))?$', line)
        if match:
            if match.group(3):
                names[match.group(2)] = match.group(3)
            current = names.get(match.group(2), '')
            continue
        match = re.match(r'cfi?l?=\((\d+)\)(?: (.*))?$', line)
        if match and match.group(2) and line.startswith('cf') and not line.startswith('cfn'):
            names[match.group(1)] = match.group(2)
            continue
        if line.startswith('calls='):
            skip = True
            continue
        match = re.match(r'[+\-*0-9]\S* (\d+)$', line)
        if match:
            if not skip:
                every += int(match.group(1))
                if os.path.basename(current) in ('iocpnet.h', 'sim_windows.h'):
                    own += int(match.group(1))
            skip = False
    return name, own, every

rows = []
for path in sorted(glob.glob(folder + '/callgrind.out*'),
                   key=lambda p: int((re.findall(r'\.(\d+)$', p) or ['0'])[0])):
    name, own, every = kit(path)
    if '/' not in name:
        continue
    what, times = name.rsplit('/', 1)
    rows.append((what, own / int(times)))
for what, per in rows:
    bound = bounds.get(what)
    print('%-52s %8.1f instructions%s' % (what, per, '' if not bound else
          '   at most %d%s' % (bound, '' if per <= bound else '   MISSED')))
    if bound and per > bound:
        failed.append(what)
# A layer between an echo's two messages: what it adds for one of them.
costs = dict(rows)
base = costs.get('echo, 1000 connections', 0)
for what, bound in (('echo, 1 layers', 60), ('echo, 1 layers with functions', 270)):
    per = (costs.get(what, 1e9) - base) / 2
    print('%-52s %8.1f instructions   at most %d%s' % (
        'a message through' + what.replace('echo,', '').replace('layers', 'layer'), per, bound,
        '' if per <= bound else '   MISSED'))
    if per > bound:
        failed.append(what)
flat = [per for what, per in rows if what.startswith('echo') and what.endswith('connections')]
if len(flat) != 3:
    print('FAIL instructions: %d counts of an echo' % len(flat))
    print('0 passed, 1 failed, 0 skipped')
    sys.exit(1)
print('%-52s %8.2f' % ('echo, 10000 connections by 1', flat[2] / flat[0]))
if flat[2] > 1.1 * flat[0]:
    failed.append('flat')
if check and failed:
    print('FAIL instructions: ' + ', '.join(failed))
    print('0 passed, 1 failed, 0 skipped')
    sys.exit(1)
print('PASS instructions: %d tests, %d checks, 0 skipped' % (1, len(rows)))
print('1 passed, 0 failed, 0 skipped')
END
