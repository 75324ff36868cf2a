# Sourced: wine_functions PROCESSOR-LANGUAGE, options for clang-cl.
#
# Wine's headers define as functions what clang has built in for ARM64 or, in C++, everywhere. Other
# names keep them apart.
wine_functions()
{
    local name processor=${1%-*}
    case $1 in
        x86_64-C++) set -- CompareExchange128 ;;
        i686-C++)
            set -- And64 CompareExchangePointer ExchangeAdd64 ExchangePointer Increment64 \
                Decrement64 Or64 Xor64
            ;;
        aarch64-* | arm64ec-*) set -- CompareExchange128 ;;
        *) set -- ;;
    esac
    # They take ARM64EC for x64, whose registers they then name; cl defines no __x86_64__ either.
    [ "$processor" != arm64ec ] || printf ' -U__x86_64__ -D__aarch64__'
    for name; do printf ' -D_Interlocked%s=wine_Interlocked%s' "$name" "$name"; done
}
