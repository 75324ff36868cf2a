// fuzz_options.c - the command lines of the examples: words on lines of their own, read by
// common_read_options and by a slow and obvious reader.
#include <stdarg.h>
#include <stdio.h>

// What is printed is caught, and its first line looked at.
static char printed[8192];
static size_t printed_size;

static int __attribute__((format(printf, 2, 3))) catch_printf(FILE *out, const char *fmt, ...)
{
    va_list args;
    (void)out;
    va_start(args, fmt);
    size_t room = sizeof printed - printed_size;
    int size = vsnprintf(printed + printed_size, room, fmt, args);
    va_end(args);
    printed_size += (size_t)size < room ? (size_t)size : room - 1;
    return size;
}

static int catch_puts(const char *text, FILE *out)
{
    return catch_printf(out, "%s", text);
}

#define IOCPNET_IMPLEMENTATION
#define IOCPNET_STATIC
#define IOCPNET_NO_SERVER
#include "../../iocpnet.h"
#include "fuzz.h"

#define fprintf     catch_printf
#define fputs       catch_puts
#define fflush(out) (void)(out)
#include "../../examples/common.h"
#undef fprintf
#undef fputs
#undef fflush

enum { WORDS = 32, OPTIONS = 8 };

static struct values {
    bool flag;
    uint32_t number, tight, choice, range[2];
    uint64_t bytes;
    const char *text;
} got, want;

static const common_option options[OPTIONS] = {
    { "--f", NULL, COMMON_FLAG, &got.flag, 0, 0, "a flag" },
    { "--n", "N", COMMON_NUMBER, &got.number, 0, UINT32_MAX, "a number" },
    { "--m", "N", COMMON_NUMBER, &got.tight, 10, 4096, "one of less range" },
    { "--b", "N", COMMON_BYTES, &got.bytes, 0, UINT64_MAX, "a large number" },
    { "--t", "TEXT", COMMON_TEXT, &got.text, 0, 0, "a text" },
    { "--r", "MIN:MAX", COMMON_RANGE, got.range, 1, 10000, "a range" },
    { "--c", "a|ab|b", COMMON_CHOICE, &got.choice, 0, 0, "a choice" },
    { "--nn", "N", COMMON_NUMBER, &got.number, 0, 9, "one whose name is longer" },
};

// ---- slow and obvious ---------------------------------------------------------------------------

// A number of size digits, from min to max; compared as text.
FUZZ_SLOW bool slow_number(const char *text, size_t size, uint64_t min, uint64_t max,
                           uint64_t *value)
{
    char low[24], high[24], digits[24];

    if (!size || strspn(text, "0123456789") < size) return false;
    while (size > 1 && *text == '0') {
        text++;
        size--;
    }
    if (size > 20) return false;
    memset(digits, '0', 20);
    memcpy(digits + 20 - size, text, size);
    digits[20] = 0;
    snprintf(low, sizeof low, "%020llu", (unsigned long long)min);
    snprintf(high, sizeof high, "%020llu", (unsigned long long)max);
    if (strcmp(digits, low) < 0 || strcmp(digits, high) > 0) return false;
    *value = strtoull(digits, NULL, 10);
    return true;
}

FUZZ_SLOW bool slow_range(const char *text)
{
    const char *colon = strchr(text, ':');
    uint64_t low = 0, high = 0;

    if (!colon || !slow_number(text, (size_t)(colon - text), 1, 10000, &low)) return false;
    if (!slow_number(colon + 1, strlen(colon + 1), 1, 10000, &high) || low > high) return false;
    want.range[0] = (uint32_t)low;
    want.range[1] = (uint32_t)high;
    return true;
}

FUZZ_SLOW bool slow_value(const char *name, const char *text)
{
    uint64_t n = 0;
    size_t size = strlen(text);

    switch (name[2]) {
    case 'n':
        if (!slow_number(text, size, 0, name[3] ? 9 : UINT32_MAX, &n)) return false;
        want.number = (uint32_t)n;
        return true;
    case 'm':
        if (!slow_number(text, size, 10, 4096, &n)) return false;
        want.tight = (uint32_t)n;
        return true;
    case 'b':
        return slow_number(text, size, 0, UINT64_MAX, &want.bytes);
    case 't':
        if (!*text || (text[0] == '-' && text[1] == '-')) return false;
        want.text = text;
        return true;
    case 'r':
        return slow_range(text);
    default:
        if (strcmp(text, "a") && strcmp(text, "ab") && strcmp(text, "b")) return false;
        want.choice = text[0] == 'b' ? 2 : text[1] ? 1 : 0;
        return true;
    }
}

// What main is to return, or -1. The first line that is printed must have both texts in it.
FUZZ_SLOW int slow_options(int count, char **words, const char **one, const char **two)
{
    *one = "program";
    *two = "";
    for (int i = 1; i < count; i++) {
        const char *name = words[i];
        *two = name;
        if (!strcmp(name, "--help") || !strcmp(name, "/help")) {
            *two = "about";
            return 0;
        }
        bool known = strcmp(name, "--nn") == 0;
        if (strlen(name) == 3 && !memcmp(name, "--", 2) && strchr("fnmbtrc", name[2])) known = true;
        if (!known) {
            *one = "program: unknown option";
            return 2;
        }
        if (name[2] == 'f') {
            want.flag = true;
        } else if (i + 1 == count || !slow_value(name, words[++i])) {
            *one = "needs";
            return 2;
        }
    }
    return -1;
}

// -------------------------------------------------------------------------------------------------

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fuzz_area area;
    char *words[WORDS + 1], *text = (char *)fuzz_lend(&area, size + 1);
    const char *one = NULL, *two = NULL;
    int count = 1;

    if (size) memcpy(text, data, size);
    text[size] = 0;
    if (strlen(text) != size) return 0;  // a word ends with a NUL
    words[0] = (char *)(uintptr_t) "program";
    for (char *at = text; at && *at && count < WORDS; count++) {
        words[count] = at;
        at = strchr(at, '\n');
        if (at) *at++ = 0;
    }
    words[count] = NULL;
    memset(&got, 0, sizeof got);
    memset(&want, 0, sizeof want);
    printed_size = 0;
    printed[0] = 0;

    int wanted = slow_options(count, words, &one, &two);
    int result = common_read_options(count, words, "program", "about", options, OPTIONS);
    FUZZ_CHECK(result == wanted);
    FUZZ_CHECK((printed_size > 0) == (result >= 0));
    if (result < 0) {
        FUZZ_CHECK(!memcmp(&got, &want, sizeof got));
        return 0;
    }
    char *usage = strstr(printed, "usage: program [options]\n");
    char *help = usage ? strstr(usage, "--help") : NULL;
    FUZZ_CHECK(help);
    // One line behind the help says what is wrong, unless the word itself has more.
    const char *said = result ? help : printed;
    FUZZ_CHECK(strstr(said, one) && strstr(said, two));
    return 0;
}
