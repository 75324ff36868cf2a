// sim_windows.h - the part of Windows' headers that iocpnet.h and its tests use, for a native build
// on Linux against the simulator. A test double: nothing of it is shipped. Types have Windows'
// sizes (a LONG has 32 bits), constants Windows' values; names that the C library has too lead to
// functions whose symbols begin with sim_. Build with -std=c99 -fshort-wchar: strictly C99, so
// that the C library's headers keep Unix's names to themselves, and a WCHAR of 16 bits.
#ifndef SIM_WINDOWS_H
#define SIM_WINDOWS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <bits/types/struct_timeval.h>

#define _WINSOCK2API_
#if UINTPTR_MAX > 0xffffffffu
#define _WIN64 1
#endif

#define WINAPI
#define PASCAL
#define CALLBACK
#define APIENTRY
#define __cdecl
#define __stdcall
#define CP_ACP  0u
#define CP_UTF8 65001u
#define __declspec(what) __attribute__((what))

// ---- types --------------------------------------------------------------------------------------

#define WINBASEAPI

typedef int BOOL, INT, *LPINT;
typedef uint8_t BYTE, UCHAR, BOOLEAN;
typedef uint16_t WORD, USHORT;
typedef uint32_t DWORD, ULONG, UINT;
typedef int32_t LONG, HRESULT;
typedef int64_t LONG64, LONGLONG;
typedef uint64_t ULONG64, ULONGLONG, DWORDLONG, DWORD64;
typedef uintptr_t ULONG_PTR, DWORD_PTR, SIZE_T, KAFFINITY, SOCKET, UINT_PTR;
typedef intptr_t LONG_PTR, SSIZE_T;
typedef void VOID, *PVOID, *LPVOID, *HANDLE, *HMODULE;
typedef const void *LPCVOID;
typedef char CHAR, *LPSTR;
typedef const char *LPCSTR;
typedef wchar_t WCHAR, *LPWSTR;
typedef const wchar_t *LPCWSTR;
typedef DWORD *LPDWORD, *PDWORD;
typedef BOOL *LPBOOL;
typedef HANDLE *PHANDLE, *LPHANDLE;
typedef ULONG_PTR *PULONG_PTR;
typedef unsigned int GROUP;

// The C library's are twice as long.
#define u_long  ULONG
#define u_short USHORT
#define u_int   UINT
#define u_char  UCHAR

typedef union LARGE_INTEGER {
    struct {
        DWORD LowPart;
        LONG HighPart;
    };
    struct {
        DWORD LowPart;
        LONG HighPart;
    } u;
    LONGLONG QuadPart;
} LARGE_INTEGER;

typedef struct GUID {
    uint32_t Data1;
    uint16_t Data2, Data3;
    uint8_t Data4[8];
} GUID;

typedef struct OVERLAPPED {
    ULONG_PTR Internal, InternalHigh;
    union {
        struct {
            DWORD Offset, OffsetHigh;
        };
        PVOID Pointer;
    };
    HANDLE hEvent;
} OVERLAPPED, *LPOVERLAPPED, WSAOVERLAPPED, *LPWSAOVERLAPPED;

typedef struct OVERLAPPED_ENTRY {
    ULONG_PTR lpCompletionKey;
    OVERLAPPED *lpOverlapped;
    ULONG_PTR Internal;
    DWORD dwNumberOfBytesTransferred;
} OVERLAPPED_ENTRY, *LPOVERLAPPED_ENTRY;

typedef struct SECURITY_ATTRIBUTES {
    DWORD nLength;
    void *lpSecurityDescriptor;
    BOOL bInheritHandle;
} SECURITY_ATTRIBUTES, *LPSECURITY_ATTRIBUTES;

typedef struct SRWLOCK {
    void *Ptr;
} SRWLOCK, *PSRWLOCK;
#define SRWLOCK_INIT \
    {                \
        NULL         \
    }

typedef struct SLIST_ENTRY {
    struct SLIST_ENTRY *Next;
    void *unused;  // Windows has it 16 bytes long and so aligned
} SLIST_ENTRY, *PSLIST_ENTRY;
typedef struct SLIST_HEADER {
    SLIST_ENTRY *first;
    uint64_t depth;
} SLIST_HEADER, *PSLIST_HEADER;

typedef struct GROUP_AFFINITY {
    KAFFINITY Mask;
    WORD Group;
    WORD Reserved[3];
} GROUP_AFFINITY, *PGROUP_AFFINITY;

typedef struct MEMORYSTATUSEX {
    DWORD dwLength, dwMemoryLoad;
    DWORDLONG ullTotalPhys, ullAvailPhys, ullTotalPageFile, ullAvailPageFile, ullTotalVirtual,
        ullAvailVirtual, ullAvailExtendedVirtual;
} MEMORYSTATUSEX;

typedef struct OSVERSIONINFOEXW {
    DWORD dwOSVersionInfoSize, dwMajorVersion, dwMinorVersion, dwBuildNumber, dwPlatformId;
    WCHAR szCSDVersion[128];
    WORD wServicePackMajor, wServicePackMinor, wSuiteMask;
    BYTE wProductType, wReserved;
} OSVERSIONINFOEXW;

typedef struct EXCEPTION_RECORD {
    DWORD ExceptionCode;
    void *ExceptionAddress;
} EXCEPTION_RECORD;
typedef struct EXCEPTION_POINTERS {
    EXCEPTION_RECORD *ExceptionRecord;
} EXCEPTION_POINTERS;

typedef struct PROCESS_INFORMATION {
    HANDLE hProcess, hThread;
    DWORD dwProcessId, dwThreadId;
} PROCESS_INFORMATION;
typedef struct STARTUPINFOA {
    DWORD cb, dwFlags;
    HANDLE hStdInput, hStdOutput, hStdError;
} STARTUPINFOA;

typedef DWORD(WINAPI *LPTHREAD_START_ROUTINE)(void *);
typedef void(CALLBACK *WAITORTIMERCALLBACK)(void *, BOOLEAN);
typedef BOOL(CALLBACK *PHANDLER_ROUTINE)(DWORD);
typedef void(CALLBACK *PFLS_CALLBACK_FUNCTION)(void *);
typedef LONG(WINAPI *LPTOP_LEVEL_EXCEPTION_FILTER)(EXCEPTION_POINTERS *);
typedef intptr_t(WINAPI *FARPROC)(void);

// ---- Winsock's types ----------------------------------------------------------------------------

typedef struct WSAData {
    WORD wVersion, wHighVersion;
    char szDescription[257], szSystemStatus[129];
    unsigned short iMaxSockets, iMaxUdpDg;
    char *lpVendorInfo;
} WSADATA;

typedef uint16_t ADDRESS_FAMILY;
typedef int socklen_t_of_windows;
struct sockaddr {
    ADDRESS_FAMILY sa_family;
    char sa_data[14];
};
typedef struct sockaddr SOCKADDR;
struct in_addr {
    union {
        struct {
            UCHAR s_b1, s_b2, s_b3, s_b4;
        } S_un_b;
        uint32_t S_addr;
    } S_un;
};
#define s_addr S_un.S_addr
struct sockaddr_in {
    ADDRESS_FAMILY sin_family;
    uint16_t sin_port;
    struct in_addr sin_addr;
    char sin_zero[8];
};
struct in6_addr {
    union {
        UCHAR Byte[16];
        USHORT Word[8];
    } u;
};
#define s6_addr u.Byte
struct sockaddr_in6 {
    ADDRESS_FAMILY sin6_family;
    uint16_t sin6_port;
    uint32_t sin6_flowinfo;
    struct in6_addr sin6_addr;
    uint32_t sin6_scope_id;
};
struct sockaddr_storage {
    ADDRESS_FAMILY ss_family;
    char pad[6];
    int64_t align;
    char more[112];
};
typedef struct sockaddr_storage SOCKADDR_STORAGE;
typedef struct sockaddr_in SOCKADDR_IN;
typedef struct sockaddr_in6 SOCKADDR_IN6;

struct linger {
    u_short l_onoff, l_linger;
};

typedef struct WSABUF {
    ULONG len;
    char *buf;
} WSABUF, *LPWSABUF;

typedef struct WSAPROTOCOLCHAIN {
    int ChainLen;
    DWORD ChainEntries[7];
} WSAPROTOCOLCHAIN;
typedef struct WSAPROTOCOL_INFOW {
    DWORD dwServiceFlags1, dwServiceFlags2, dwServiceFlags3, dwServiceFlags4, dwProviderFlags;
    GUID ProviderId;
    DWORD dwCatalogEntryId;
    WSAPROTOCOLCHAIN ProtocolChain;
    int iVersion, iAddressFamily, iMaxSockAddr, iMinSockAddr, iSocketType, iProtocol,
        iProtocolMaxOffset, iNetworkByteOrder, iSecurityScheme;
    DWORD dwMessageSize, dwProviderReserved;
    WCHAR szProtocol[256];
} WSAPROTOCOL_INFOW, *LPWSAPROTOCOL_INFOW;

typedef struct WSAMSG {
    struct sockaddr *name;
    INT namelen;
    WSABUF *lpBuffers;
    ULONG dwBufferCount;
    WSABUF Control;
    ULONG dwFlags;
} WSAMSG, *LPWSAMSG;

struct in_pktinfo {
    struct in_addr ipi_addr;
    ULONG ipi_ifindex;
};
struct in6_pktinfo {
    struct in6_addr ipi6_addr;
    ULONG ipi6_ifindex;
};
typedef struct WSACMSGHDR {
    SIZE_T cmsg_len;
    INT cmsg_level, cmsg_type;
} WSACMSGHDR;

typedef struct TRANSMIT_FILE_BUFFERS {
    void *Head;
    DWORD HeadLength;
    void *Tail;
    DWORD TailLength;
} TRANSMIT_FILE_BUFFERS, *LPTRANSMIT_FILE_BUFFERS;

typedef struct TRANSMIT_PACKETS_ELEMENT {
    ULONG dwElFlags, cLength;
    union {
        struct {
            LARGE_INTEGER nFileOffset;
            HANDLE hFile;
        };
        void *pBuffer;
    };
} TRANSMIT_PACKETS_ELEMENT, *LPTRANSMIT_PACKETS_ELEMENT;

typedef void(CALLBACK *LPWSAOVERLAPPED_COMPLETION_ROUTINE)(DWORD, DWORD, OVERLAPPED *, DWORD);
typedef BOOL(PASCAL *LPFN_ACCEPTEX)(SOCKET, SOCKET, void *, DWORD, DWORD, DWORD, DWORD *,
                                    OVERLAPPED *);
typedef void(PASCAL *LPFN_GETACCEPTEXSOCKADDRS)(void *, DWORD, DWORD, DWORD, struct sockaddr **,
                                                int *, struct sockaddr **, int *);
typedef BOOL(PASCAL *LPFN_CONNECTEX)(SOCKET, const struct sockaddr *, int, void *, DWORD, DWORD *,
                                     OVERLAPPED *);
typedef BOOL(PASCAL *LPFN_DISCONNECTEX)(SOCKET, OVERLAPPED *, DWORD, DWORD);
typedef BOOL(PASCAL *LPFN_TRANSMITFILE)(SOCKET, HANDLE, DWORD, DWORD, OVERLAPPED *,
                                        TRANSMIT_FILE_BUFFERS *, DWORD);
typedef BOOL(PASCAL *LPFN_TRANSMITPACKETS)(SOCKET, TRANSMIT_PACKETS_ELEMENT *, DWORD, DWORD,
                                           OVERLAPPED *, DWORD);
typedef int(PASCAL *LPFN_WSARECVMSG)(SOCKET, WSAMSG *, DWORD *, OVERLAPPED *,
                                     LPWSAOVERLAPPED_COMPLETION_ROUTINE);
typedef int(PASCAL *LPFN_WSASENDMSG)(SOCKET, WSAMSG *, DWORD, DWORD *, OVERLAPPED *,
                                     LPWSAOVERLAPPED_COMPLETION_ROUTINE);

enum { SIM_FD_SETSIZE = 64 };
typedef struct sim_fd_set {
    u_int fd_count;
    SOCKET fd_array[SIM_FD_SETSIZE];
} sim_fd_set;
#define fd_set sim_fd_set
#undef FD_SET
#undef FD_ZERO
#undef FD_ISSET
#undef FD_CLR
#undef FD_SETSIZE
#define FD_SETSIZE       SIM_FD_SETSIZE
#define FD_ZERO(set)     ((set)->fd_count = 0)
#define FD_SET(s, set)   sim_fd_add((s), (set))
#define FD_ISSET(s, set) sim_fd_isset((s), (set))

// ---- constants ----------------------------------------------------------------------------------

#define TRUE                 1
#define FALSE                0
#define INFINITE             0xffffffffu
#define INVALID_HANDLE_VALUE ((HANDLE)(intptr_t)-1)
#define INVALID_SOCKET       (~(SOCKET)0)
#define SOCKET_ERROR         (-1)
#define MAX_PATH             260
#define MAXDWORD             0xffffffffu
#define MAKEWORD(a, b)       ((WORD)((a) | (b) << 8))
#define LOBYTE(w)            ((BYTE)(w))
#define HIBYTE(w)            ((BYTE)((w) >> 8))

#define WAIT_OBJECT_0    0u
#define WAIT_TIMEOUT     258u
#define WSA_WAIT_TIMEOUT 258
#define WAIT_FAILED      0xffffffffu
#define WAIT_ABANDONED   0x80u
#define STILL_ACTIVE     259u

#define TLS_OUT_OF_INDEXES 0xffffffffu
#define FLS_OUT_OF_INDEXES 0xffffffffu

#define MEM_COMMIT     0x1000u
#define MEM_RESERVE    0x2000u
#define MEM_DECOMMIT   0x4000u
#define MEM_RELEASE    0x8000u
#define PAGE_NOACCESS  1u
#define PAGE_READONLY  2u
#define PAGE_READWRITE 4u

#define HEAP_ZERO_MEMORY 8u

#define GENERIC_READ              0x80000000u
#define GENERIC_WRITE             0x40000000u
#define FILE_SHARE_READ           1u
#define FILE_SHARE_WRITE          2u
#define FILE_SHARE_DELETE         4u
#define CREATE_NEW                1u
#define CREATE_ALWAYS             2u
#define OPEN_EXISTING             3u
#define FILE_ATTRIBUTE_NORMAL     0x80u
#define FILE_ATTRIBUTE_TEMPORARY  0x100u
#define FILE_FLAG_OVERLAPPED      0x40000000u
#define FILE_FLAG_DELETE_ON_CLOSE 0x04000000u
#define FILE_FLAG_SEQUENTIAL_SCAN 0x08000000u
#define FILE_TYPE_UNKNOWN         0u
#define FILE_TYPE_DISK            1u
#define FILE_TYPE_CHAR            2u
#define FILE_TYPE_PIPE            3u
#define FILE_BEGIN                0u
#define FILE_CURRENT              1u
#define FILE_END                  2u
#define FSCTL_SET_SPARSE          0x900c4u

#define HANDLE_FLAG_INHERIT    1u
#define DUPLICATE_CLOSE_SOURCE 1u
#define DUPLICATE_SAME_ACCESS  2u
#define CREATE_SUSPENDED       4u
#define STARTF_USESTDHANDLES   0x100u

#define FILE_SKIP_COMPLETION_PORT_ON_SUCCESS 1
#define FILE_SKIP_SET_EVENT_ON_HANDLE        2

#define WT_EXECUTEDEFAULT      0u
#define WT_EXECUTEINWAITTHREAD 4u
#define WT_EXECUTEONLYONCE     8u

#define CTRL_C_EVENT        0u
#define CTRL_BREAK_EVENT    1u
#define CTRL_CLOSE_EVENT    2u
#define CTRL_LOGOFF_EVENT   5u
#define CTRL_SHUTDOWN_EVENT 6u

#define ALL_PROCESSOR_GROUPS 0xffff
#define VER_EQUAL            1
#define VER_PRODUCT_TYPE     0x80u
#define VER_NT_WORKSTATION   1
#define VER_NT_SERVER        3

#define FORMAT_MESSAGE_FROM_SYSTEM    0x1000u
#define FORMAT_MESSAGE_IGNORE_INSERTS 0x200u

#define STD_INPUT_HANDLE  ((DWORD)-10)
#define STD_OUTPUT_HANDLE ((DWORD)-11)
#define STD_ERROR_HANDLE  ((DWORD)-12)

#define EXCEPTION_EXECUTE_HANDLER  1
#define SEM_FAILCRITICALERRORS     1u
#define SEM_NOGPFAULTERRORBOX      2u
#define SEM_NOOPENFILEERRORBOX     0x8000u
#define EXCEPTION_ACCESS_VIOLATION 0xc0000005u

#define NO_ERROR                         0
#define ERROR_SUCCESS                    0
#define ERROR_INVALID_FUNCTION           1
#define ERROR_FILE_NOT_FOUND             2
#define ERROR_PATH_NOT_FOUND             3
#define ERROR_TOO_MANY_OPEN_FILES        4
#define ERROR_ACCESS_DENIED              5
#define ERROR_INVALID_HANDLE             6
#define ERROR_NOT_ENOUGH_MEMORY          8
#define ERROR_INVALID_DATA               13
#define ERROR_OUTOFMEMORY                14
#define ERROR_NO_MORE_FILES              18
#define ERROR_NOT_READY                  21
#define ERROR_READ_FAULT                 30
#define ERROR_SHARING_VIOLATION          32
#define ERROR_CRC                        23
#define ERROR_LOCK_VIOLATION             33
#define ERROR_HANDLE_EOF                 38
#define ERROR_NOT_SUPPORTED              50
#define ERROR_REM_NOT_LIST               51
#define ERROR_DUP_NAME                   52
#define ERROR_BAD_NETPATH                53
#define ERROR_NETWORK_BUSY               54
#define ERROR_BAD_NET_RESP               58
#define ERROR_UNEXP_NET_ERR              59
#define ERROR_NETNAME_DELETED            64
#define ERROR_TOO_MANY_NAMES             68
#define ERROR_REQ_NOT_ACCEP              71
#define ERROR_INVALID_PARAMETER          87
#define ERROR_BROKEN_PIPE                109
#define ERROR_SEM_TIMEOUT                121
#define ERROR_INSUFFICIENT_BUFFER        122
#define ERROR_PROC_NOT_FOUND             127
#define ERROR_ALREADY_EXISTS             183
#define ERROR_PIPE_NOT_CONNECTED         233
#define ERROR_MORE_DATA                  234
#define ERROR_NO_MORE_ITEMS              259
#define ERROR_PARTIAL_COPY               299
#define ERROR_MR_MID_NOT_FOUND           317
#define ERROR_INVALID_ADDRESS            487
#define ERROR_PIPE_CONNECTED             535
#define ERROR_HANDLES_CLOSED             676
#define ERROR_ABANDONED_WAIT_0           735
#define ERROR_OPERATION_ABORTED          995
#define ERROR_IO_INCOMPLETE              996
#define ERROR_IO_PENDING                 997
#define ERROR_NOACCESS                   998
#define ERROR_NOT_FOUND                  1168
#define ERROR_INVALID_NETNAME            1214
#define ERROR_CONNECTION_REFUSED         1225
#define ERROR_GRACEFUL_DISCONNECT        1226
#define ERROR_ADDRESS_ALREADY_ASSOCIATED 1227
#define ERROR_ADDRESS_NOT_ASSOCIATED     1228
#define ERROR_CONNECTION_INVALID         1229
#define ERROR_CONNECTION_ACTIVE          1230
#define ERROR_NETWORK_UNREACHABLE        1231
#define ERROR_HOST_UNREACHABLE           1232
#define ERROR_PROTOCOL_UNREACHABLE       1233
#define ERROR_PORT_UNREACHABLE           1234
#define ERROR_REQUEST_ABORTED            1235
#define ERROR_CONNECTION_ABORTED         1236
#define ERROR_HOST_DOWN                  1256
#define ERROR_NO_SYSTEM_RESOURCES        1450
#define ERROR_WORKING_SET_QUOTA          1453
#define ERROR_PAGEFILE_QUOTA             1454
#define ERROR_COMMITMENT_LIMIT           1455
#define ERROR_TIMEOUT                    1460
#define ERROR_INVALID_USER_BUFFER        1784
#define ERROR_NOT_ENOUGH_QUOTA           1816

#define WSA_IO_PENDING         997
#define WSA_IO_INCOMPLETE      996
#define WSA_OPERATION_ABORTED  995
#define WSA_INVALID_HANDLE     6
#define WSA_INVALID_PARAMETER  87
#define WSA_NOT_ENOUGH_MEMORY  8
#define WSAEINTR               10004
#define WSAEBADF               10009
#define WSAEACCES              10013
#define WSAEFAULT              10014
#define WSAEINVAL              10022
#define WSAEMFILE              10024
#define WSAEWOULDBLOCK         10035
#define WSAEINPROGRESS         10036
#define WSAEALREADY            10037
#define WSAENOTSOCK            10038
#define WSAEDESTADDRREQ        10039
#define WSAEMSGSIZE            10040
#define WSAEPROTOTYPE          10041
#define WSAENOPROTOOPT         10042
#define WSAEPROTONOSUPPORT     10043
#define WSAESOCKTNOSUPPORT     10044
#define WSAEOPNOTSUPP          10045
#define WSAEPFNOSUPPORT        10046
#define WSAEAFNOSUPPORT        10047
#define WSAEADDRINUSE          10048
#define WSAEADDRNOTAVAIL       10049
#define WSAENETDOWN            10050
#define WSAENETUNREACH         10051
#define WSAENETRESET           10052
#define WSAECONNABORTED        10053
#define WSAECONNRESET          10054
#define WSAENOBUFS             10055
#define WSAEISCONN             10056
#define WSAENOTCONN            10057
#define WSAESHUTDOWN           10058
#define WSAETOOMANYREFS        10059
#define WSAETIMEDOUT           10060
#define WSAECONNREFUSED        10061
#define WSAEHOSTDOWN           10064
#define WSAEHOSTUNREACH        10065
#define WSAEPROCLIM            10067
#define WSASYSNOTREADY         10091
#define WSAVERNOTSUPPORTED     10092
#define WSANOTINITIALISED      10093
#define WSAEDISCON             10101
#define WSAEPROVIDERFAILEDINIT 10106
#define WSASYSCALLFAILURE      10107
#define WSAHOST_NOT_FOUND      11001

#define AF_UNSPEC         0
#define AF_INET           2
#define AF_INET6          23
#define PF_INET           AF_INET
#define SOCK_STREAM       1
#define SOCK_DGRAM        2
#define IPPROTO_IP        0
#define IPPROTO_TCP       6
#define IPPROTO_UDP       17
#define IPPROTO_IPV6      41
#define INADDR_ANY        0u
#define INADDR_LOOPBACK   0x7f000001u
#define INADDR_NONE       0xffffffffu
#define SOMAXCONN         0x7fffffff
#define SOMAXCONN_HINT(b) (-(b))
#define INET_ADDRSTRLEN   22
#define INET6_ADDRSTRLEN  65

#define SD_RECEIVE  0
#define SD_SEND     1
#define SD_BOTH     2
#define MSG_PEEK    2
#define MSG_OOB     1
#define MSG_PARTIAL 0x8000
#define MSG_TRUNC   0x0100
#define MSG_CTRUNC  0x0200

#define SOL_SOCKET                0xffff
#define SO_REUSEADDR              4
#define SO_KEEPALIVE              8
#define SO_LINGER                 0x80
#define SO_EXCLUSIVEADDRUSE       (~SO_REUSEADDR)
#define SO_SNDBUF                 0x1001
#define SO_RCVBUF                 0x1002
#define SO_SNDTIMEO               0x1005
#define SO_RCVTIMEO               0x1006
#define SO_ERROR                  0x1007
#define SO_TYPE                   0x1008
#define SO_PROTOCOL_INFOW         0x2005
#define SO_UPDATE_ACCEPT_CONTEXT  0x700b
#define SO_CONNECT_TIME           0x700c
#define SO_UPDATE_CONNECT_CONTEXT 0x7010
#define TCP_NODELAY               1
#define IPV6_V6ONLY               27
#define IP_PKTINFO                19
#define IPV6_PKTINFO              19

#define IOC_VOID                           0x20000000u
#define IOC_OUT                            0x40000000u
#define IOC_IN                             0x80000000u
#define IOC_INOUT                          0xc0000000u
#define IOC_WS2                            0x08000000u
#define IOC_VENDOR                         0x18000000u
#define FIONBIO                            0x8004667eu
#define FIONREAD                           0x4004667fu
#define SIO_GET_EXTENSION_FUNCTION_POINTER 0xc8000006u

#define WSA_FLAG_OVERLAPPED        1u
#define WSA_FLAG_NO_HANDLE_INHERIT 0x80u
#define XP1_IFS_HANDLES            0x20000u
#define FROM_PROTOCOL_INFO         (-1)

#define FD_READ    1
#define FD_WRITE   2
#define FD_ACCEPT  8
#define FD_CONNECT 16
#define FD_CLOSE   32

#define TF_DISCONNECT     1u
#define TF_REUSE_SOCKET   2u
#define TF_WRITE_BEHIND   4u
#define TP_ELEMENT_MEMORY 1u
#define TP_ELEMENT_FILE   2u
#define TP_ELEMENT_EOP    4u
#define TP_DISCONNECT     TF_DISCONNECT
#define TP_REUSE_SOCKET   TF_REUSE_SOCKET

#define SIM_GUID(a, b, c, d, e, f, g, h, i, j, k) \
    {                                             \
        a, b, c,                                  \
        {                                         \
            d, e, f, g, h, i, j, k                \
        }                                         \
    }
#define WSAID_ACCEPTEX \
    SIM_GUID(0xb5367df1, 0xcbac, 0x11cf, 0x95, 0xca, 0x00, 0x80, 0x5f, 0x48, 0xa1, 0x92)
#define WSAID_TRANSMITFILE \
    SIM_GUID(0xb5367df0, 0xcbac, 0x11cf, 0x95, 0xca, 0x00, 0x80, 0x5f, 0x48, 0xa1, 0x92)
#define WSAID_GETACCEPTEXSOCKADDRS \
    SIM_GUID(0xb5367df2, 0xcbac, 0x11cf, 0x95, 0xca, 0x00, 0x80, 0x5f, 0x48, 0xa1, 0x92)
#define WSAID_CONNECTEX \
    SIM_GUID(0x25a207b9, 0xddf3, 0x4660, 0x8e, 0xe9, 0x76, 0xe5, 0x8c, 0x74, 0x06, 0x3e)
#define WSAID_DISCONNECTEX \
    SIM_GUID(0x7fda2e11, 0x8630, 0x436f, 0xa0, 0x31, 0xf5, 0x36, 0xa6, 0xee, 0xc1, 0x57)
#define WSAID_TRANSMITPACKETS \
    SIM_GUID(0xd9689da0, 0x1f90, 0x11d3, 0x99, 0x71, 0x00, 0xc0, 0x4f, 0x68, 0xc8, 0x76)
#define WSAID_WSARECVMSG \
    SIM_GUID(0xf689d7c8, 0x6f1f, 0x436b, 0x8a, 0x53, 0xe5, 0x4f, 0xe3, 0x51, 0xc3, 0x22)
#define WSAID_WSASENDMSG \
    SIM_GUID(0xa441e712, 0x754f, 0x43ca, 0x84, 0xa7, 0x0d, 0xee, 0x44, 0xcf, 0x60, 0x6d)

#define CONTAINING_RECORD(p, type, field) ((type *)(void *)((char *)(p)-offsetof(type, field)))
#define UNREFERENCED_PARAMETER(p)         ((void)(p))
#define _O_BINARY                         0x8000

// ---- atomics: places where another thread may run -----------------------------------------------

// Called before and after what other threads can see. barrier: after a plain load and before a
// plain store of the header's atomics.
// Without them (SIM_NO_POINTS) these are instructions alone, to be counted.
#ifdef SIM_NO_POINTS
#define sim_point()   ((void)0)
#define sim_barrier() __asm__ volatile("" ::: "memory")
#else
void sim_point(void);
void sim_barrier(void);
#endif

#define _ReadWriteBarrier() sim_barrier()
#define MemoryBarrier()     sim_barrier()
#define YieldProcessor()    sim_point()

static inline LONG InterlockedExchangeAdd(volatile LONG *p, LONG n)
{
    sim_point();
    return __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST);
}
static inline LONG InterlockedIncrement(volatile LONG *p)
{
    return InterlockedExchangeAdd(p, 1) + 1;
}
static inline LONG InterlockedDecrement(volatile LONG *p)
{
    return InterlockedExchangeAdd(p, -1) - 1;
}
static inline LONG InterlockedExchange(volatile LONG *p, LONG value)
{
    sim_point();
    return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);
}
static inline LONG InterlockedOr(volatile LONG *p, LONG bits)
{
    sim_point();
    return __atomic_fetch_or(p, bits, __ATOMIC_SEQ_CST);
}
static inline LONG InterlockedAnd(volatile LONG *p, LONG bits)
{
    sim_point();
    return __atomic_fetch_and(p, bits, __ATOMIC_SEQ_CST);
}
static inline LONG InterlockedCompareExchange(volatile LONG *p, LONG to, LONG from)
{
    sim_point();
    __atomic_compare_exchange_n(p, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return from;
}
static inline LONG64 InterlockedExchangeAdd64(volatile LONG64 *p, LONG64 n)
{
    sim_point();
    return __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST);
}
static inline LONG64 InterlockedIncrement64(volatile LONG64 *p)
{
    return InterlockedExchangeAdd64(p, 1) + 1;
}
static inline LONG64 InterlockedExchange64(volatile LONG64 *p, LONG64 value)
{
    sim_point();
    return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);
}
static inline LONG64 InterlockedCompareExchange64(volatile LONG64 *p, LONG64 to, LONG64 from)
{
    sim_point();
    __atomic_compare_exchange_n(p, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return from;
}
static inline void *InterlockedExchangePointer(void *volatile *p, void *value)
{
    sim_point();
    return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);
}
static inline void *InterlockedCompareExchangePointer(void *volatile *p, void *to, void *from)
{
    sim_point();
    __atomic_compare_exchange_n(p, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return from;
}
#define InterlockedAdd(p, n) (InterlockedExchangeAdd((p), (n)) + (n))

// ---- functions: sim_os.c ------------------------------------------------------------------------

// Where a thread has its first 64 values. Source: TEB structure (winternl.h), TlsSlots. Where it is
// to be counted it is one load from the thread's block, as on Windows.
#ifdef SIM_NO_POINTS
extern char *sim_teb;
static inline uint64_t __readgsqword(DWORD offset)
{
    return *(volatile uint64_t *)(sim_teb + offset);
}
#else
uint64_t __readgsqword(DWORD offset);
#endif
DWORD __readfsdword(DWORD offset);

DWORD GetLastError(void);
void SetLastError(DWORD code);
ULONGLONG GetTickCount64(void);
DWORD GetTickCount(void);
BOOL QueryPerformanceCounter(LARGE_INTEGER *count);
BOOL QueryPerformanceFrequency(LARGE_INTEGER *count);
void Sleep(DWORD ms);
BOOL SwitchToThread(void);

HANDLE CreateThread(SECURITY_ATTRIBUTES *security, SIZE_T stack, LPTHREAD_START_ROUTINE fn,
                    void *user, DWORD flags, DWORD *id);
uintptr_t _beginthreadex(void *security, unsigned stack, unsigned (*fn)(void *), void *user,
                         unsigned flags, unsigned *id);
DWORD ResumeThread(HANDLE thread);
DWORD GetCurrentThreadId(void);
BOOL IsThreadAFiber(void);
DWORD GetCurrentProcessId(void);
HANDLE GetCurrentProcess(void);
HANDLE GetCurrentThread(void);
BOOL GetExitCodeThread(HANDLE thread, DWORD *code);
BOOL GetExitCodeProcess(HANDLE process, DWORD *code);
BOOL TerminateProcess(HANDLE process, UINT code);
BOOL CreateProcessA(const char *name, char *line, SECURITY_ATTRIBUTES *p, SECURITY_ATTRIBUTES *t,
                    BOOL inherit, DWORD flags, void *env, const char *folder, STARTUPINFOA *start,
                    PROCESS_INFORMATION *info);
BOOL SetThreadGroupAffinity(HANDLE thread, const GROUP_AFFINITY *to, PGROUP_AFFINITY before);

HANDLE CreateEventW(SECURITY_ATTRIBUTES *security, BOOL manual, BOOL set, const WCHAR *name);
BOOL SetEvent(HANDLE event);
BOOL ResetEvent(HANDLE event);
DWORD WaitForSingleObject(HANDLE h, DWORD ms);
DWORD WaitForMultipleObjects(DWORD count, const HANDLE *h, BOOL all, DWORD ms);
BOOL RegisterWaitForSingleObject(HANDLE *wait, HANDLE object, WAITORTIMERCALLBACK fn, void *user,
                                 ULONG ms, ULONG flags);
BOOL UnregisterWaitEx(HANDLE wait, HANDLE event);
BOOL CloseHandle(HANDLE h);
BOOL DuplicateHandle(HANDLE from, HANDLE h, HANDLE to, HANDLE *same, DWORD access, BOOL inherit,
                     DWORD how);
BOOL GetHandleInformation(HANDLE h, DWORD *flags);
BOOL SetHandleInformation(HANDLE h, DWORD mask, DWORD flags);

void InitializeSRWLock(SRWLOCK *lock);
void AcquireSRWLockExclusive(SRWLOCK *lock);
void ReleaseSRWLockExclusive(SRWLOCK *lock);
void AcquireSRWLockShared(SRWLOCK *lock);
void ReleaseSRWLockShared(SRWLOCK *lock);
void InitializeSListHead(SLIST_HEADER *head);
SLIST_ENTRY *InterlockedPushEntrySList(SLIST_HEADER *head, SLIST_ENTRY *entry);
SLIST_ENTRY *InterlockedPopEntrySList(SLIST_HEADER *head);
USHORT QueryDepthSList(SLIST_HEADER *head);

DWORD TlsAlloc(void);
BOOL TlsFree(DWORD index);
void *TlsGetValue(DWORD index);
BOOL TlsSetValue(DWORD index, void *value);
DWORD FlsAlloc(PFLS_CALLBACK_FUNCTION fn);
BOOL FlsFree(DWORD index);
void *FlsGetValue(DWORD index);
BOOL FlsSetValue(DWORD index, void *value);

void *VirtualAlloc(void *at, SIZE_T size, DWORD type, DWORD protect);
BOOL VirtualFree(void *at, SIZE_T size, DWORD type);
BOOL VirtualProtect(void *at, SIZE_T size, DWORD protect, DWORD *before);
HANDLE GetProcessHeap(void);
void *HeapAlloc(HANDLE heap, DWORD flags, SIZE_T size);
BOOL HeapFree(HANDLE heap, DWORD flags, void *p);
BOOL GlobalMemoryStatusEx(MEMORYSTATUSEX *memory);

HANDLE CreateFileA(const char *name, DWORD access, DWORD share, SECURITY_ATTRIBUTES *security,
                   DWORD how, DWORD flags, HANDLE model);
HANDLE CreateFileW(const WCHAR *name, DWORD access, DWORD share, SECURITY_ATTRIBUTES *security,
                   DWORD how, DWORD flags, HANDLE model);
BOOL DeleteFileA(const char *name);
BOOL ReadFile(HANDLE h, void *data, DWORD size, DWORD *got, OVERLAPPED *o);
BOOL WriteFile(HANDLE h, const void *data, DWORD size, DWORD *written, OVERLAPPED *o);
DWORD GetFileType(HANDLE h);
BOOL GetFileSizeEx(HANDLE h, LARGE_INTEGER *size);
BOOL SetFilePointerEx(HANDLE h, LARGE_INTEGER to, LARGE_INTEGER *now, DWORD how);
BOOL SetEndOfFile(HANDLE h);
BOOL DeviceIoControl(HANDLE h, DWORD what, void *in, DWORD in_size, void *out, DWORD out_size,
                     DWORD *got, OVERLAPPED *o);
DWORD GetTempPathA(DWORD size, char *path);
BOOL CreatePipe(HANDLE *from, HANDLE *to, SECURITY_ATTRIBUTES *security, DWORD size);
HANDLE GetStdHandle(DWORD which);
DWORD GetEnvironmentVariableA(const char *name, char *value, DWORD size);
BOOL SetEnvironmentVariableA(const char *name, const char *value);
DWORD GetModuleFileNameA(HMODULE module, char *name, DWORD size);
int MultiByteToWideChar(UINT page, DWORD flags, const char *from, int size, WCHAR *to, int room);
HMODULE GetModuleHandleA(const char *name);
FARPROC GetProcAddress(HMODULE module, const char *name);
DWORD FormatMessageA(DWORD flags, const void *source, DWORD id, DWORD language, char *text,
                     DWORD size, va_list *more);

DWORD GetActiveProcessorCount(WORD group);
WORD GetActiveProcessorGroupCount(void);
ULONGLONG VerSetConditionMask(ULONGLONG mask, DWORD type, BYTE condition);
BOOL VerifyVersionInfoW(OSVERSIONINFOEXW *info, DWORD type, DWORDLONG mask);
BOOL SetConsoleCtrlHandler(PHANDLER_ROUTINE fn, BOOL add);
LPTOP_LEVEL_EXCEPTION_FILTER SetUnhandledExceptionFilter(LPTOP_LEVEL_EXCEPTION_FILTER filter);
UINT SetErrorMode(UINT mode);
BOOL IsDebuggerPresent(void);
int _setmode(int file, int mode);
int _fileno(void *stream);

// ---- functions: sim_net.c -----------------------------------------------------------------------

HANDLE CreateIoCompletionPort(HANDLE h, HANDLE port, ULONG_PTR key, DWORD threads);
BOOL PostQueuedCompletionStatus(HANDLE port, DWORD bytes, ULONG_PTR key, OVERLAPPED *o);
BOOL GetQueuedCompletionStatus(HANDLE port, DWORD *bytes, ULONG_PTR *key, OVERLAPPED **o, DWORD ms);
BOOL GetQueuedCompletionStatusEx(HANDLE port, OVERLAPPED_ENTRY *entries, ULONG room, ULONG *count,
                                 DWORD ms, BOOL alertable);
BOOL SetFileCompletionNotificationModes(HANDLE h, UCHAR flags);
BOOL CancelIoEx(HANDLE h, OVERLAPPED *o);
BOOL GetOverlappedResult(HANDLE h, OVERLAPPED *o, DWORD *got, BOOL wait);
BOOL WSAGetOverlappedResult(SOCKET s, OVERLAPPED *o, DWORD *got, BOOL wait, DWORD *flags);

int WSAStartup(WORD version, WSADATA *data);
int WSACleanup(void);
int WSAGetLastError(void);
void WSASetLastError(int code);
SOCKET WSASocketW(int family, int type, int protocol, WSAPROTOCOL_INFOW *info, UINT group,
                  DWORD flags);
int WSADuplicateSocketW(SOCKET s, DWORD process, WSAPROTOCOL_INFOW *info);
int closesocket(SOCKET s);
int ioctlsocket(SOCKET s, long what, u_long *value);
int WSAIoctl(SOCKET s, DWORD what, void *in, DWORD in_size, void *out, DWORD out_size, DWORD *bytes,
             OVERLAPPED *o, LPWSAOVERLAPPED_COMPLETION_ROUTINE fn);
int WSAEventSelect(SOCKET s, HANDLE event, long events);
int WSASend(SOCKET s, WSABUF *bufs, DWORD count, DWORD *sent, DWORD flags, OVERLAPPED *o,
            LPWSAOVERLAPPED_COMPLETION_ROUTINE fn);
int WSARecv(SOCKET s, WSABUF *bufs, DWORD count, DWORD *got, DWORD *flags, OVERLAPPED *o,
            LPWSAOVERLAPPED_COMPLETION_ROUTINE fn);
int WSASendTo(SOCKET s, WSABUF *bufs, DWORD count, DWORD *sent, DWORD flags,
              const struct sockaddr *to, int size, OVERLAPPED *o,
              LPWSAOVERLAPPED_COMPLETION_ROUTINE fn);
int WSARecvFrom(SOCKET s, WSABUF *bufs, DWORD count, DWORD *got, DWORD *flags,
                struct sockaddr *from, int *size, OVERLAPPED *o,
                LPWSAOVERLAPPED_COMPLETION_ROUTINE fn);

// The simulator itself includes Unix's headers and knows them by their symbols.
#ifdef SIM_INSIDE
#define SIM_AS(result, name, parameters) result sim_##name parameters
#else
#define SIM_AS(result, name, parameters) result name parameters __asm__("sim_" #name)
#endif

SIM_AS(SOCKET, socket, (int family, int type, int protocol));
SIM_AS(int, bind, (SOCKET s, const struct sockaddr *name, int size));
SIM_AS(int, listen, (SOCKET s, int backlog));
SIM_AS(SOCKET, accept, (SOCKET s, struct sockaddr *name, int *size));
SIM_AS(int, connect, (SOCKET s, const struct sockaddr *name, int size));
SIM_AS(int, send, (SOCKET s, const char *data, int size, int flags));
SIM_AS(int, recv, (SOCKET s, char *data, int size, int flags));
SIM_AS(int, sendto,
       (SOCKET s, const char *data, int size, int flags, const struct sockaddr *to, int n));
SIM_AS(int, recvfrom, (SOCKET s, char *data, int size, int flags, struct sockaddr *from, int *n));
SIM_AS(int, shutdown, (SOCKET s, int how));
SIM_AS(int, select,
       (int unused, fd_set *read, fd_set *write, fd_set *except, const struct timeval *timeout));
SIM_AS(int, getsockname, (SOCKET s, struct sockaddr *name, int *size));
SIM_AS(int, getpeername, (SOCKET s, struct sockaddr *name, int *size));
SIM_AS(int, getsockopt, (SOCKET s, int level, int name, char *value, int *size));
SIM_AS(int, setsockopt, (SOCKET s, int level, int name, const char *value, int size));
SIM_AS(int, inet_pton, (int family, const char *text, void *address));
SIM_AS(const char *, inet_ntop, (int family, const void *address, char *text, size_t size));
SIM_AS(uint16_t, htons, (uint16_t n));
SIM_AS(uint16_t, ntohs, (uint16_t n));
SIM_AS(uint32_t, htonl, (uint32_t n));
SIM_AS(uint32_t, ntohl, (uint32_t n));
void sim_fd_add(SOCKET s, fd_set *set);
int sim_fd_isset(SOCKET s, fd_set *set);

#endif  // SIM_WINDOWS_H
