// fuzz_address.c - numeric addresses: read, written and read again, and any bytes in place of one.
//
// What is a numeric address is the system's inet_pton to say; here it is the C library's. So the
// slow reader shows that the kit asks it rightly, and that what comes out is what went in.
#define IOCPNET_IMPLEMENTATION
#define IOCPNET_STATIC
#include "../../iocpnet.h"
#include "fuzz.h"

// ---- slow and obvious ---------------------------------------------------------------------------
//
// Its branches are counted, as those of the C library are not: they lead to the texts of interest.

// Four numbers from 0 to 255 without leading zeros. Returns where they end, or NULL.
static const char *slow_v4(const char *text, unsigned char *bytes)
{
    for (int i = 0; i < 4; i++) {
        int value = 0, digits = 0;
        if (i && *text++ != '.') return NULL;
        while (digits < 4 && *text >= '0' && *text <= '9') {
            value = value * 10 + (*text++ - '0');
            digits++;
        }
        if (!digits || digits > 3 || value > 255 ||
            (digits > 1 && value < (digits == 2 ? 10 : 100)))
            return NULL;
        bytes[i] = (unsigned char)value;
    }
    return text;
}

static int slow_digit(char c)
{
    const char *digits = "0123456789abcdef0123456789ABCDEF";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) % 16 : -1;
}

// Groups of up to four digits, one gap "::" of at least one group, an IPv4 address for the last
// two groups.
static bool slow_v6(const char *text, unsigned char *bytes)
{
    unsigned char groups[16] = { 0 };
    int count = 0, gap = -1;  // bytes so far, and where the gap is

    if (text[0] == ':' && text[1] != ':') return false;
    for (;;) {
        int value = 0, digits = 0;
        if (text[0] == ':' && text[1] == ':') {
            if (gap >= 0) return false;
            gap = count;
            text += 2;
            if (!*text) break;
        } else if (count) {
            if (*text++ != ':') return false;
        }
        if (count <= 12 && slow_v4(text, groups + count) && !*slow_v4(text, groups + count)) {
            count += 4;
            break;
        }
        while (slow_digit(*text) >= 0 && digits < 5) {
            value = value * 16 + slow_digit(*text++);
            digits++;
        }
        if (!digits || digits > 4 || count > 14) return false;
        groups[count++] = (unsigned char)(value >> 8);
        groups[count++] = (unsigned char)value;
        if (!*text) break;
    }
    if (gap < 0 ? count != 16 : count > 14) return false;
    if (gap < 0) gap = count;
    memset(bytes, 0, 16);
    memcpy(bytes, groups, (size_t)gap);
    memcpy(bytes + 16 - (count - gap), groups + gap, (size_t)(count - gap));
    return true;
}

// -------------------------------------------------------------------------------------------------

static fuzz_area text_area;

// In room of every size from 0 on the text is the front of the whole one.
static void text_is_cut(const iocpnet_address *address, const char *whole, size_t size)
{
    char *text = (char *)fuzz_lend(&text_area, size);
    size_t length = strlen(whole);

    FUZZ_CHECK(iocpnet_address_text(address, text, size) == text);
    if (!size) return;
    if (length > size - 1) length = size - 1;
    FUZZ_CHECK(strlen(text) == length && !memcmp(text, whole, length));
}

static void is_written(const iocpnet_address *address, size_t size)
{
    enum { MOST = IOCPNET_ADDRESS_TEXT };
    char *whole = (char *)fuzz_lend(&text_area, MOST), copy[MOST];
    size_t length;

    iocpnet_address_text(address, whole, MOST);
    length = strlen(whole);
    FUZZ_CHECK(length && length < MOST - 1);  // not cut: so much is always enough
    strcpy(copy, whole);
    text_is_cut(address, copy, size);
}

// The text before a zone, and the zone. False: what stands behind the % is no number that fits.
static bool slow_zone(const char *text, char *front, uint32_t *zone)
{
    const char *percent = strchr(text, '%');
    double number = 0;
    size_t i, size = percent ? (size_t)(percent - text) : strlen(text);

    memcpy(front, text, size);
    front[size] = 0;
    *zone = 0;
    if (!percent) return true;
    if (!percent[1] || strspn(percent + 1, "0123456789") != strlen(percent + 1)) return false;
    for (i = 1; percent[i] && number < 1e10; i++)
        number = number * 10 + (percent[i] - '0');
    if (number > 4294967295.0) return false;
    *zone = (uint32_t)number;
    return true;
}

static void text_comes_back(const char *text, uint16_t port, size_t size)
{
    iocpnet_address address, again;
    unsigned char bytes[16];
    char whole[IOCPNET_ADDRESS_TEXT], host[IOCPNET_ADDRESS_TEXT], front[256];
    const char *v4_end = slow_v4(text, bytes);
    uint32_t zone = 0, kept;
    bool v4 = v4_end && !*v4_end, zoned = slow_zone(text, front, &zone);
    bool v6 = !v4 && zoned && slow_v6(front, bytes);

    memset(&address, 0xDD, sizeof address);
    FUZZ_CHECK(iocpnet_address_parse(&address, text, port) == (v4 || v6 ? 0 : WSAEINVAL));
    FUZZ_CHECK(address.size == (v4 ? 16 : v6 ? 28 : 0));
    FUZZ_CHECK(iocpnet_address_port(&address) == (v4 || v6 ? port : 0));
    if (v4 || v6) {
        FUZZ_CHECK(address.u.family == (v4 ? AF_INET : AF_INET6));
        FUZZ_CHECK(!memcmp(address.u.bytes + (v4 ? 4 : 8), bytes, v4 ? 4 : 16));
        memcpy(&kept, address.u.bytes + 24, sizeof kept);
        FUZZ_CHECK(v4 || kept == zone);
        iocpnet_address_text(&address, whole, sizeof whole);
        size_t length = strlen(whole), begin = v6 ? 1 : 0;
        size_t end = (size_t)(strrchr(whole, ':') - whole) - begin;
        FUZZ_CHECK(atoi(strrchr(whole, ':') + 1) == port && length < 64);
        FUZZ_CHECK(!v6 || (whole[0] == '[' && whole[end] == ']'));
        memcpy(host, whole + begin, end - begin);
        host[end - begin] = 0;
        FUZZ_CHECK(iocpnet_address_parse(&again, host, port) == 0);
        FUZZ_CHECK(!memcmp(&again, &address, sizeof again));
        snprintf(host, sizeof host, ":%u", port);
        FUZZ_CHECK(!strcmp(strrchr(whole, ':'), host));
    }
    is_written(&address, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    iocpnet_address address;
    char text[256];

    bool is_text = fuzz_pick(&in, 4) != 0;
    size_t room = fuzz_pick(&in, 64);
    uint16_t port = (uint16_t)(fuzz_pick(&in, 64) << 10 | fuzz_pick(&in, 64) << 4);
    if (in.size > sizeof text - 1) in.size = sizeof text - 1;
    if (is_text) {
        memcpy(text, in.at, in.size);
        text[in.size] = 0;
        text_comes_back(text, port, room);
        return 0;
    }

    // What the system gives: nothing of it is believed.
    memset(&address, 0xDD, sizeof address);
    iocpnet__address_set(&address, in.at, (int)in.size);
    FUZZ_CHECK(address.size == (in.size <= sizeof address.u ? (int32_t)in.size : 0));
    FUZZ_CHECK(!memcmp(address.u.bytes, in.at, (size_t)address.size));
    is_written(&address, room);
    return 0;
}
