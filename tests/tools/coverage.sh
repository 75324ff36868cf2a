#!/bin/bash
# coverage.sh [NAME ...]: which lines and branches of iocpnet.h the tests take. Builds all test
# programs with gcc's --coverage, runs them under Wine; builds those that run natively on the
# simulated Windows, and its random programs, and runs them there; merges what they took; prints
# the figure and every branch that was never taken, but for those that tests/COVERAGE.md says
# cannot be. The last line is "N passed, N failed, N skipped" of the programs and the list.
#
#   NAME     only programs whose names contain one; what earlier runs of others took stays counted
#   WHERE    wine, native, or both of them [wine native]
#   AGAIN=1  judges what earlier runs have taken, runs nothing
#   SEEDS    random programs on the simulator [100], of STEPS steps each [2000]

cd "$(dirname "$0")/../.." || exit 1

out=build/coverage
where=${WHERE:-wine native}
filters=("$@")
cross=x86_64-w64-mingw32-
options=(-O0 --coverage -fprofile-update=atomic -DIOCPNET_DEBUG -w)

chosen()
{
    local filter
    [ ${#filters[@]} -eq 0 ] && return 0
    for filter in "${filters[@]}"; do [[ $1 == *$filter* ]] && return 0; done
    return 1
}

wanted()
{
    [ -z "${AGAIN:-}" ] && [[ " $where " == *" $1 "* ]]
}

# stale FILE SOURCE...: whether FILE has to be made
stale()
{
    local made=$1 source
    shift
    for source in "$@" iocpnet.h tests/*.h; do
        [ "$source" -nt "$made" ] && return 0
    done
    return 1
}

# The notes lie beside the objects, and the counts go there, wherever a program is run.
build_wine()
{
    local source name
    mkdir -p $out/wine/tests
    for source in tests/test_*.c; do
        name=$(basename "$source" .c)
        chosen "$name" || continue
        stale "$out/wine/tests/$name.exe" "$source" || continue
        rm -f "$out/wine/tests/$name".*
        echo "cc $out/wine/tests/$name.exe"
        "${cross}gcc" -std=c99 "${options[@]}" -D_WIN32_WINNT=0x0601 -c "$source" \
            -o "$out/wine/tests/$name.o" &&
            "${cross}gcc" -static --coverage "$out/wine/tests/$name.o" \
                -o "$out/wine/tests/$name.exe" -lws2_32
    done
}

# At -O0 and beside others a test takes longer.
run_wine()
{
    local names=("${filters[@]}") name
    [ ${#names[@]} -eq 0 ] && names=(test_)
    for name in "${names[@]}"; do rm -f $out/wine/tests/*"$name"*.gcda; done
    T_SECONDS=${T_SECONDS:-60} tests/tools/run_tests.sh $out/wine/tests "${names[@]}" \
        >"$out/wine.txt" 2>&1
    cat "$out/wine.txt"
    tail -n 1 "$out/wine.txt" >"$out/wine.sum"
}

build_native()
{
    local part source name
    mkdir -p $out/native
    for part in sim_os sim_net; do
        stale "$out/native/$part.o" tests/sim/$part.c tests/sim/*.h tests/sim/include/*.h ||
            continue
        gcc -std=gnu99 -O1 -g -fshort-wchar -w -c tests/sim/$part.c -o "$out/native/$part.o" ||
            return 1
    done
    for source in tests/test_*.c tests/sim/test_*.c; do
        name=$(basename "$source" .c)
        chosen "$name" || continue
        stale "$out/native/$name" "$source" tests/sim/*.[ch] tests/sim/include/*.h || continue
        rm -f "$out/native/$name" "$out/native/$name".*
        echo "cc $out/native/$name"
        gcc -std=c99 "${options[@]}" -fshort-wchar -Itests/sim/include -Itests/sim -c "$source" \
            -o "$out/native/$name.o" >"$out/native/$name.log" 2>&1 &&
            gcc --coverage "$out/native/$name.o" $out/native/sim_os.o $out/native/sim_net.o \
                -o "$out/native/$name" -lpthread >>"$out/native/$name.log" 2>&1
    done
}

# What does not pass there is no failure here: that is for native.sh to say. But what it took is not
# counted.
run_native()
{
    local program name seed ran=0 left=''
    for program in $out/native/test_*; do
        name=$(basename "$program")
        [ -x "$program" ] && [[ $name != *.* ]] && chosen "$name" || continue
        rm -f "$program.gcda" "$program.gcda.before"
        for seed in ${SIM_SEEDS:-calm 1 2}; do
            # The random programs have seeds of their own.
            [ "$name" = test_play ] && [ "$seed" != 1 ] && continue
            [ -e "$program.gcda" ] && cp "$program.gcda" "$program.gcda.before"
            if SIM_SEED=$seed SIM_CALM=$([ "$seed" = calm ] && echo 1 || echo 0) \
                T_SECONDS=${T_SECONDS:-60} PLAY_SEEDS=${SEEDS:-100} PLAY_STEPS=${STEPS:-2000} \
                timeout -k 5 "${T_NATIVE_SECONDS:-180}" "$program" \
                </dev/null >"$program.$seed.txt" 2>&1; then
                ran=$((ran + 1))
            else
                left+=" ${name#test_}:$seed"
                rm -f "$program.gcda"
                [ -e "$program.gcda.before" ] && mv "$program.gcda.before" "$program.gcda"
            fi
        done
    done
    echo "natively: $ran runs${left:+; not counted, as they do not pass there:$left}"
}

if wanted wine; then
    build_wine
    run_wine
fi
if wanted native; then
    build_native
    run_native
fi
[ -e $out/wine.sum ] || echo "0 passed, 0 failed, 0 skipped" >$out/wine.sum

python3 - "$out" "$cross" "$(cat $out/wine.sum)" "${#filters[@]}" <<'END_OF_PYTHON'
import glob, json, os, re, subprocess, sys

out, cross, closing, filters = sys.argv[1:5]
with open('iocpnet.h', encoding='utf-8') as f:
    source = [''] + f.read().split('\n')

lines = {}      # line: times run
shapes = {}     # line: {number of branches: [programs, [times each was taken]]}
native = {}     # the same, of the programs on the simulator
function_of = {}
functions = {}  # name: times called


def read(notes, gcov, branches):
    done = subprocess.run([gcov, '-b', '-c', '--json-format', '--stdout', notes],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL)
    for text in done.stdout.decode().split('\n'):
        if not text.strip():
            continue
        for file in json.loads(text)['files']:
            if os.path.basename(file['file']) != 'iocpnet.h':
                continue
            for function in file['functions']:
                name = function['name']
                functions[name] = functions.get(name, 0) + function['execution_count']
            for line in file['lines']:
                number = line['line_number']
                lines[number] = lines.get(number, 0) + line['count']
                function_of[number] = line.get('function_name', '')
                taken = [branch['count'] for branch in line['branches']]
                # An assertion never fails in a test that passes.
                if not taken or 'IOCPNET_ASSERT(' in source[number]:
                    continue
                shape = branches.setdefault(number, {}).setdefault(
                    len(taken), [0, [0] * len(taken)])
                shape[0] += 1
                shape[1] = [a + b for a, b in zip(shape[1], taken)]


programs = [0, 0]
for i, (folder, gcov, branches) in enumerate((('wine/tests', cross + 'gcov', shapes),
                                              ('native', 'gcov', native))):
    for counts in sorted(glob.glob('%s/%s/test_*.gcda' % (out, folder))):
        if os.path.getmtime(counts[:-4] + 'gcno') < os.path.getmtime('iocpnet.h'):
            print('%s was built before iocpnet.h was changed: not counted' % counts)
            continue
        read(counts[:-4] + 'gcno', gcov, branches)
        programs[i] += 1

# A line's branches are the same in all programs, unless a macro of the program's own is in it.
# Then those count that most programs have; and under Wine, whose compiler is that of Windows.
merged, odd = {}, []
for number in sorted(set(shapes) | set(native)):
    of_wine, of_native = shapes.get(number, {}), native.get(number, {})
    kinds = of_wine or of_native
    size = max(kinds, key=lambda n: (kinds[n][0], n))
    taken = list(kinds[size][1])
    if kinds is of_wine and size in of_native:
        taken = [a + b for a, b in zip(taken, of_native[size][1])]
    if len(set(of_wine) | set(of_native)) > 1:
        odd.append(number)
    merged[number] = taken


def plain(text):
    return re.sub(r'\s+', ' ', text.split('  //')[0]).strip()


# ---- what is said to be out of reach

said, bad = [], 0
path = 'tests/COVERAGE.md'
if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
        for row in f:
            cells = re.match(r'\| `(\w+)` \| `(.*?)` \| (~?)(\d+) \| (.+) \|$', row.rstrip('\n'))
            if cells:
                said.append(cells.groups())
            elif row.startswith('| `'):
                print('%s: this row cannot be read: %s' % (path, row.strip()))
                bad += 1

listed = {}  # line: branches that are listed
for function, text, by_chance, count, reason in said:
    text = text.replace('\\|', '|')
    places = [n for n in lines if function_of[n] == function and plain(source[n]) == text]
    if not places:
        print('%s: nothing is so in %s: %s' % (path, function, text))
        bad += 1
        continue
    missed = sum(merged.get(n, []).count(0) for n in places)
    if missed < int(count) and not by_chance and filters == '0':
        print('%s: %d of %s are taken after all in %s: %s' %
              (path, int(count) - missed, count, function, text))
        bad += 1
    left = int(count)
    for n in places:
        here = min(left, merged.get(n, []).count(0))
        listed[n] = listed.get(n, 0) + here
        left -= here

# ---- what was not taken

shown = 0
for number in sorted(merged):
    missed = merged[number].count(0) - listed.get(number, 0)
    if missed <= 0:
        continue
    which = ' '.join(str(i) for i, count in enumerate(merged[number]) if not count)
    print('iocpnet.h:%d: %s: branch %s of %d: %s' %
          (number, function_of[number], which, len(merged[number]), plain(source[number])))
    shown += missed
for number in sorted(lines):
    if not lines[number] and not any(
            n in merged and not all(merged[n]) for n in range(number - 3, number)):
        if functions.get(function_of[number], 1):
            print('iocpnet.h:%d: %s: never run: %s' %
                  (number, function_of[number], plain(source[number])))
never = sorted(name for name in functions if not functions[name])
if never:
    print('never called: ' + ' '.join(never))

run = sum(1 for n in lines if lines[n])
branches = sum(len(taken) for taken in merged.values())
taken = branches - sum(taken.count(0) for taken in merged.values())
out_of_reach = sum(listed.values())
print('%d programs under Wine, %d on the simulator; %d lines have other branches in some of them; '
      '%d of %d functions called' % (programs[0], programs[1], len(odd),
                                     len(functions) - len(never), len(functions)))
print('iocpnet.h: %d of %d lines (%.2f %%), %d of %d branches (%.2f %%); %d branches are listed '
      'as out of reach, %d are missing' %
      (run, len(lines), 100.0 * run / max(1, len(lines)), taken, branches,
       100.0 * taken / max(1, branches), out_of_reach, shown))
passed, failed, skipped = [int(n) for n in re.findall(r'\d+', closing)]
print('%d passed, %d failed, %d skipped' %
      (passed + (0 if bad else 1), failed + (1 if bad else 0), skipped))
sys.exit(1 if bad or failed else 0)
END_OF_PYTHON
