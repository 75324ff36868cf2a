#!/bin/bash
# What the sources and README say, compared with what is there: contents list and sections, names in
# prose, doc comments, README's programs, the one place of OS calls, imports of programs, lines.

cd "$(dirname "$0")/.." || exit 1
. tests/tools/wine.sh

command -v python3 >/dev/null || { echo "FAIL text: no python3"; exit 1; }
cc=x86_64-w64-mingw32-gcc objdump=x86_64-w64-mingw32-objdump nm=x86_64-w64-mingw32-nm
command -v $cc >/dev/null || { cc=gcc objdump=objdump nm=nm; }

build=${T_BUILD:-build/x64}
work=$build/text
rm -rf "$work"
mkdir -p "$work"

run=
if command -v $wine_command >/dev/null && wine_begin; then
    run=$wine_command
    trap wine_end EXIT
fi

python3 - "$build" "$work" "$cc" "$objdump" "$nm" "$run" <<'END'
import os, re, subprocess, sys

build, work, cc, objdump, nm, run = sys.argv[1:7]
tests, checks, failed, bad = 0, 0, 0, 0


def read(path):
    with open(path, encoding='utf-8', newline='') as f:
        return f.read()


def test(name):
    """Begins a test; the failures that follow are its own."""
    global tests, failed, bad
    if bad:
        failed += 1
    bad = 0
    tests += 1
    test.name = name


def check(ok, message):
    global checks, bad
    checks += 1
    if not ok:
        bad += 1
        if bad <= 10:
            print('%s: %s' % (test.name, message))


def command(*arguments, **options):
    done = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **options)
    return done.returncode, done.stdout.decode('utf-8', 'replace')


def strip(code):
    """Code without comments and without what is in strings; the lines stay where they are."""
    def blank(match):
        text = match.group(0)
        if text[0] == '"':
            return '""'
        if text[0] == "'":
            return "' '"
        return '\n' * text.count('\n')
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, code,
                  flags=re.S)


header = read('iocpnet.h')
readme = read('README.md')
lines = header.split('\n')
begin = header.index('#ifndef IOCPNET_H')
end = header.index('#endif  // IOCPNET_H')
manual, declared, implemented = header[:begin], header[begin:end], header[end:]
sources = ['iocpnet.h']
for folder in ('examples', 'tests', 'tests/tools', 'tests/msvc', 'tests/fuzz', 'tests/sim',
               'tests/sim/include', 'bench', 'bench/peers'):
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if re.search(r'\.(c|cpp|h|sh)$', name):
            sources.append(folder + '/' + name)

# ---- sections

test('the contents list is that of the sections')
contents = {}
for match in re.finditer(r'^// +(\d+|M) +(\w+) +.*? (D\d+|M1 \.\. M\d+) +(I\d+|-)$', manual, re.M):
    contents[match.group(1)] = match.groups()[1:]
sections = re.findall(r'^// ---- ([MDI])(\d+) (\w+)', header, re.M)
check(len(contents) > 8, 'only %d rows found' % len(contents))
for number, (topic, declares, implements) in contents.items():
    if number == 'M':
        count = sum(1 for kind, n, word in sections if kind == 'M')
        check(declares == 'M1 .. M%d' % count, '%d sections, not %s' % (count, declares))
        continue
    check(declares == 'D' + number and implements == 'I' + number, 'row %s: %s %s' %
          (number, declares, implements))
    check(('D', number, topic) in sections, 'no section D%s %s' % (number, topic))
    check(('I', number, topic) in sections, 'no section I%s %s' % (number, topic))
    if number not in ('1', '4', '12'):
        check(os.path.exists('tests/test_%s.c' % topic), 'no tests/test_%s.c' % topic)
for kind in 'MDI':
    numbers = [int(n) for k, n, word in sections if k == kind]
    check(numbers == sorted(set(numbers)), '%s sections are not in order: %s' % (kind, numbers))
for kind, number, word in sections:
    if kind != 'M':
        check(number in contents and contents[number][0] == word,
              '%s%s %s is not in the contents list' % (kind, number, word))

test('the manual has at most 200 lines before the first declaration, and the list of functions')
count = re.sub(r'^// FUNCTIONS\n.*?(?=^// ---- M1)', '', manual, flags=re.S | re.M).count('\n')
check(count <= 200, '%d lines, at most 200: shorten M8, or another section' % count)

test('the version is the same everywhere')
version = re.search(r'#define IOCPNET_VERSION +(\d+)', declared)
text = re.search(r'#define IOCPNET_VERSION_TEXT +"([^"]+)"', declared)
check(version and text, 'no version')
if version and text:
    n = int(version.group(1))
    check('%d.%d.%d' % (n // 10000, n // 100 % 100, n % 100) == text.group(1), 'two versions')
    check('Version %s.' % text.group(1) in lines[0], 'the first line says another')
    check(re.search(r'^// %s ' % re.escape(text.group(1)), manual, re.M), 'no change is told of it')

# ---- names in prose

test('every name in the manual, the comments and README is declared')
code = strip(declared)
names = set(re.findall(r'\b(?:iocpnet|IOCPNET)_\w+', code))
names |= set(re.findall(r'^//   (IOCPNET_\w+)', declared, re.M))  # the macros that the user defines


def known(word):
    if word in names or '__' in word or (word.endswith('s') and word[:-1] in names):
        return True
    return word.endswith('_') and any(name.startswith(word) for name in names)


for where, prose in (('manual', manual), ('README.md', readme),
                     ('comments', '\n'.join(re.findall(r'//[^\n]*', declared)))):
    for word in sorted(set(re.findall(r'\b(?:iocpnet|IOCPNET)_\w+', prose))):
        check(known(word), '%s: %s is not declared' % (where, word))

test('every code that a comment names has a constant, and no number stands without its name')
codes = re.search(r'enum \{\n    IOCPNET_EACCESSDENIED.*?\n\};', declared, re.S).group(0)
constants = dict((n, c) for c, n in re.findall(r' = (\d+),? +// (\w+)', codes))
about = re.findall(r'//[^\n]*', declared.replace(codes, ''))
check(len(constants) >= 38, 'only %d constants found' % len(constants))
named = set(re.findall(r'\b(?:WSAE[A-Z]+|ERROR_[A-Z_]+|WSA_(?!FLAG)[A-Z_]+|WSASYS\w+)\b',
                       '\n'.join(about)))
for word in sorted(named - set(constants)):
    check(False, '%s is named, and has no constant' % word)
bare = r'(?<!\[)\b(258|259|995|1168|100[0-6]\d|10107)\b(?! WSAE| is WSAE| \*)'
for line in about:
    for number in re.findall(bare, line):
        check(re.search(r'\b[A-Z_]+ \(%s\)' % number, line), 'a bare number: ' + line)

test('every file and test that README names is there')
for path in sorted(set(re.findall(r'`((?:examples|tests|bench)/[\w./]+\w)`', readme))):
    check(os.path.exists(path), path)
for name in sorted(set(re.findall(r'`((?:test|check)_\w+)(?:\.\w+)?`', readme))):
    check(any(os.path.exists('tests/%s%s' % (name, x)) for x in ('.c', '.sh')), name)

test('every field that README lists is one of its struct')
for struct, fields in re.findall(r'^\| `(iocpnet_\w+_desc)` \| (.*) \|$', readme, re.M):
    body = re.search(r'typedef struct %s \{(.*?)\n\} %s;' % (struct, struct), code, re.S)
    check(body, 'no struct ' + struct)
    for field in re.findall(r'`(\w+)`', fields) if body else []:
        check(re.search(r'\b%s\b' % field, body.group(1)), '%s has no %s' % (struct, field))

# ---- doc comments

test('every public function says what it returns and who may call it')
comment, fresh, functions = '', True, []
text_of = declared.split('\n')
for i, line in enumerate(text_of):
    if line.startswith('//'):
        comment = comment + line + '\n' if fresh else line + '\n'
        fresh = True
    elif line.startswith('IOCPNET_API'):
        name = re.search(r'\b(iocpnet_\w+)\(', line + text_of[i + 1])
        functions.append(name.group(1))
        check(re.search(r'^// Returns  ', comment, re.M), name.group(1) + ' has no Returns')
        check(re.search(r'^// Threads  ', comment, re.M), name.group(1) + ' has no Threads')
        fresh = False
    elif not line.strip():
        comment, fresh = ('', True) if fresh else (comment, fresh)
    elif line.startswith(('typedef', 'enum', '#', 'struct')):
        comment, fresh = '', True
check(len(functions) > 50, 'only %d functions found' % len(functions))
check(len(functions) == len(set(functions)), 'one is declared twice')

test('every setting has its comment')
for struct, body in re.findall(r'typedef struct (iocpnet_\w+_desc) \{(.*?)\n\}', declared, re.S):
    for line in body.split('\n'):
        if re.match(r' +[\w *]+;$', line) and not re.search(r'\bon_\w+;', line):
            check(False, '%s: no comment behind "%s"' % (struct, line.strip()))
        elif line.strip():
            check(True, '')

# ---- README's programs

test('the smallest server in README is the example, of at most 26 lines')
block = re.search(r'<!-- file: (\S+) -->\n```c\n(.*?)```', readme, re.S)
check(block, 'no block')
if block:
    example = read(block.group(1))
    check(block.group(2) == example, 'README and %s differ' % block.group(1))
    code_lines = [line for line in example.split('\n') if line.strip() and
                  not line.strip().startswith('//')]
    check(len(code_lines) <= 26, '%d lines of code' % len(code_lines))

test('every snippet of README compiles, links and runs, with the line below it')
snippets = re.findall(r'<!-- snippet: (\w+) -->\n```c\n(.*?)```\n(.*?)(?=\n<!--|\n## |\Z)', readme,
                      re.S)
check(len(snippets) >= 3, 'only %d snippets' % len(snippets))
with open(work + '/iocpnet.h', 'w', newline='') as f:
    f.write(header)
for name, body, below in snippets:
    check(body.count('\n') <= 10, '%s has %d lines' % (name, body.count('\n')))
    said = re.search(r'^    (?:x86_64-w64-mingw32-)?gcc (.*)$', below, re.M)
    check(re.search(r'^    cl ', below, re.M), name + ' has no line for cl')
    check(said, name + ' has no line for gcc')
    if not said:
        continue
    words = said.group(1).split()
    source = [word for word in words if word.endswith('.c')]
    program = words[words.index('-o') + 1]
    with open('%s/%s' % (work, source[0]), 'w', newline='') as f:
        f.write(body)
    code, out = command(cc, *words, cwd=work)
    check(code == 0 and not out, '%s: %s' % (name, out[:500]))
    code, out = command(cc, '-Wall', '-Wextra', '-Werror', *words, cwd=work)
    check(code == 0 and not out, '%s with warnings: %s' % (name, out[:500]))
    if code == 0 and run:
        code, out = command(*(run.split() + ['%s/%s' % (work, program)]))
        check(code == 0, '%s ends with %d' % (name, code))
    if name == 'pool' and os.path.exists('%s/%s' % (work, program)):
        code, out = command(objdump, '-p', '%s/%s' % (work, program))
        check('KERNEL32.dll' in out, 'objdump says nothing of ' + program)
        check('ws2_32' not in out.lower(), 'a program with the pool alone imports ws2_32')

# ---- OS calls

test('no call into Windows is made outside IOCPNET_OS(')
wrapped = set(re.findall(r'IOCPNET_OS\((\w+)\)', implemented)) - {'fn'}
plain = re.sub(r'^WINBASEAPI [^;]*;', '', strip(implemented), flags=re.M)
for name in sorted(wrapped):
    for match in re.finditer(r'(?<!->)(?<!\.)\b%s\b\s*\(' % name, plain):
        before = plain[max(0, match.start() - 20):match.start()]
        check(False, '%s is called past the seam: ...%s%s' % (name, before.strip(), match.group(0)))
check(len(wrapped) > 40, 'only %d functions' % len(wrapped))
for flags in ([], ['-DIOCPNET_NO_SERVER']):
    code, out = command(cc, '-std=c99', '-O1', '-c', '-o', work + '/all.o', *flags,
                        'tests/compile_all.c')
    check(code == 0, out[:500])
    code, out = command(nm, '-u', work + '/all.o')
    imports = set(re.findall(r'\bU (\S+)', out))
    c_library = {'memcpy', 'memset', 'memcmp', 'memmove', 'memchr', 'strlen', '___chkstk_ms',
                 '__main'}
    check(len(imports) > 30, 'nm found %d imports' % len(imports))
    for symbol in sorted(imports - c_library):
        name = re.sub(r'^(__imp_)?_*', '', symbol)
        check(name in wrapped, symbol + ' is imported, but is no IOCPNET_OS(')

test('the list of locks in the header is that of its locks')
locks = re.findall(r'^ *(?:static )?SRWLOCK (\w+)', strip(implemented), re.M)
listed = re.findall(r'^//   (\w+(?:\.\w+)?)  +', re.search(
    r'The locks of this file.*?\n//?\n?(.*?)\n\n', implemented, re.S).group(0), re.M)
check(len(locks) == len(listed), '%s are not %s' % (locks, listed))
for name in listed:
    check(name.split('.')[-1] in locks, 'no lock ' + name)

test('the list of functions in the header is that of its functions')
tag, functions = '', []
for match in re.finditer(r'^// ---- (D\d+) |^IOCPNET_API [^;]*?\b(iocpnet_\w+)\(', header, re.M):
    if match.group(1):
        tag = match.group(1)
    else:
        functions.append((tag, match.group(2)))
listed = re.findall(r'^//   (D\d+) +(iocpnet_\w+)  *\S', re.search(
    r'^// FUNCTIONS\n(.*?)^// ---- M1', header, re.S | re.M).group(1), re.M)
check(len(functions) > 50, 'only %d functions' % len(functions))
for row in functions:
    check(row in listed, '%s %s is not in it' % row)
for row in listed:
    check(row in functions, '%s %s is none' % row)
check(functions == listed, 'the order is not that of the declarations')

test('a sub-section has about 400 lines at most')
tags = [(m.group(1), header.count('\n', 0, m.start())) for m in
        re.finditer(r'^// ---- (I13\w|licence) ', header, re.M)]
check(len(tags) > 8, 'sub-sections of I13: %d' % len(tags))
for (name, begin), (_, end) in zip(tags, tags[1:]):
    check(end - begin <= 440, '%s has %d, at most 440: move a topic elsewhere' %
          (name, end - begin))

test('nothing that one compiler alone knows')
for path in sources:
    # The simulator, the fuzzers and the load generator run on Linux only.
    if not re.match(r'iocpnet\.h|(examples|tests|bench|bench/peers)/\w+\.(c|h)$', path) or \
            path == 'bench/load.c':
        continue
    part = strip(read(path))
    # What cl does not see: the other half of an #ifdef _MSC_VER, and what is for MinGW.
    part = re.sub(r'^#ifdef _MSC_VER\n(.*?)^#else\n.*?^#endif', r'\1', part, flags=re.S | re.M)
    part = re.sub(r'^#ifdef __MINGW\w+\n(.*?)^#(else|endif)', '', part, flags=re.S | re.M)
    for word in ('__attribute__', '__builtin_', 'typeof', '__extension__', '__typeof'):
        check(word not in part, '%s: %s' % (path, word))
    check(not re.search(r'[^\w\s]\s*\(\s*\{', part), path + ': a statement expression')
    check('#pragma once' not in part, path + ': #pragma once')
    check(not re.search(r'\b(?:case)\b[^:\n]*\.\.\.', part), path + ': a case range')

test('pitfall 55: SIO_LOOPBACK_FAST_PATH is not offered')
check('LOOPBACK_FAST_PATH' not in strip(header), 'it is')
check(not re.search(r'IOC_VENDOR \| 16\b|0x98000010', strip(header)), 'it is, by number')

test('pitfall 26: accept is not called, which could block')
check(not re.search(r'\b(?:WSAA|a)ccept\)?\s*\(', strip(header)), 'it is')

# ---- programs

test('no program but one imports mswsock, and none needs a DLL that Windows lacks')
own = re.compile(r'^(kernel32|ws2_32|msvcrt|ucrtbase|advapi32|user32|ntdll|api-ms-win-[\w-]+)'
                 r'\.dll$', re.I)
seen = 0
for folder in ('examples', 'tests', 'bench'):
    path = '%s/%s' % (build, folder)
    for name in sorted(os.listdir(path)) if os.path.isdir(path) else []:
        if not name.endswith('.exe'):
            continue
        seen += 1
        code, out = command(objdump, '-p', '%s/%s' % (path, name))
        dlls = re.findall(r'DLL Name: (\S+)', out)
        imports = 'mswsock.dll' in [dll.lower() for dll in dlls]
        check(imports == (name == 'bench_ext.exe'), name + ': mswsock')  # which measures it
        for dll in dlls:
            check(own.match(dll) or (imports and dll.lower() == 'mswsock.dll'),
                  '%s imports %s' % (name, dll))
if not seen:
    print('left out: no programs in %s' % build)

# ---- lines

test('no tab, no trailing blank, no line over 100 columns, no carriage return')
for path in sources:
    for i, line in enumerate(read(path).split('\n'), 1):
        place = '%s:%d' % (path, i)
        check('\r' not in line, place + ': a carriage return')
        check('\t' not in line or path.endswith('.sh'), place + ': a tab')
        check(line == line.rstrip(), place + ': a trailing blank')
        check(len(line) <= 100, place + ': %d columns' % len(line))
for i, line in enumerate(readme.split('\n'), 1):
    check(line == line.rstrip() and '\t' not in line, 'README.md:%d' % i)

test('every file belongs here')
code, out = command('git', 'ls-files')
tracked = out.splitlines() if code == 0 else []
for path in tracked:
    check(re.match(r'[\w./-]+$', path), 'a strange name: "%s"' % path)
    check(not path.endswith(('.log', '.exe', '.o', 'lock')), path)
if not tracked:
    print('left out: no list of files, as this is no git checkout')

test('the workflow is well-formed: jobs with a runner and steps that run or use something')
try:
    import yaml
    jobs = yaml.safe_load(read('.github/workflows/ci.yml'))['jobs']
    check(len(jobs) > 3, 'only %d jobs' % len(jobs))
    for name, job in jobs.items():
        check('runs-on' in job and job.get('steps'), name + ' has no runner or no steps')
        for step in job.get('steps', []):
            check(('run' in step) != ('uses' in step), '%s: %s' % (name, step))
            for words in re.findall(r'build\.bat (.*)', step.get('run', '')):
                check(words.split()[0] in ('run', 'test', 'bench', 'check'), words)
except ImportError:
    print('left out: the workflow, as there is no python3-yaml')

test('nothing is left to do, and no path of one machine is in any file')
later = re.compile(r'\b(TO' + r'DO|FIX' + r'ME|XX' + r'X)\b')
machine = re.compile('/wor' + 'k/|/hom' + r'e/\w|/ro' + r'ot/\w')
for path in sources + ['README.md', 'Makefile.mingw', 'build.bat', 'tests/PITFALLS.md',
                       'tests/COVERAGE.md', 'tests/PLANTS.md', '.ci/run',
                       '.github/workflows/ci.yml']:
    for i, line in enumerate(read(path).split('\n') if os.path.exists(path) else [], 1):
        check(not later.search(line), '%s:%d: %s' % (path, i, line.strip()))
        check(not machine.search(line), '%s:%d: %s' % (path, i, line.strip()))

# ---- the list of pitfalls

test('every pitfall of the list has a test that exists, or a reason')
wanted = range(1, 59)
listed = {}
for row in re.findall(r'^\| (\d+) \|(.*)\|$', read('tests/PITFALLS.md'), re.M):
    listed[int(row[0])] = row[1]
for number in sorted(wanted):
    check(number in listed, 'no row for pitfall %d' % number)
for number, row in sorted(listed.items()):
    named = re.findall(r'`((?:test|check)_\w+)(?:\.\w+)?`(?:: `(\w+)`)?', row)
    check(named or 'real Windows' in row, 'pitfall %d: neither test nor reason' % number)
    for name, claim in named:
        path = 'tests/%s.c' % name if name.startswith('test_') else 'tests/%s.sh' % name
        check(os.path.exists(path), 'pitfall %d: no %s' % (number, path))
        if claim and os.path.exists(path):
            check(re.search(r'T_RUN\(%s\)|\b%s\b' % (claim, claim), read(path)),
                  'pitfall %d: no %s in %s' % (number, claim, path))

test('')
tests -= 1
if failed:
    print('FAIL text: %d of %d tests failed' % (failed, tests))
    sys.exit(1)
print('PASS text: %d tests, %d checks, 0 skipped' % (tests, checks))
END
code=$?
rm -rf "$work"
exit $code
