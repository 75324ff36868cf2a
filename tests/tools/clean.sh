#!/bin/bash
# Ends what still runs in Wine's prefixes, then removes build/.
cd "$(dirname "$0")/../.." || exit 1
. tests/tools/wine.sh
for WINEPREFIX in "$PWD"/build/wine*/; do
    WINEPREFIX=${WINEPREFIX%/}
    [ -e "$WINEPREFIX/system.reg" ] || continue
    wine_quiet $wine_server -k
    wine_quiet $wine_server -w
done
rm -rf --one-file-system build
