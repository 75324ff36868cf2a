#!/bin/bash
# table.sh [FILE]: the servers beside each other as a table for README.md, from the figures of a run
# of bench.sh [build/bench/results.jsonl]. "-": not measured in that run.

cd "$(dirname "$0")/.." || exit 1
figures=${1:-build/bench/results.jsonl}
[ -s "$figures" ] || { echo "table.sh: no $figures: run bench first" >&2; exit 1; }

awk '
function member(name, at, rest) {
    at = index($0, "\"" name "\":")
    if (!at) return ""
    rest = substr($0, at + length(name) + 3)
    if (substr(rest, 1, 1) == "\"") { split(substr(rest, 2), part, "\""); return part[1] }
    match(rest, /^[-0-9.e+]+/)
    return substr(rest, 1, RLENGTH)
}
{
    key = member("bench") SUBSEP member("case")
    median[key] = member("median")
    ratio[key] = member("ratio")
    low[key] = member("ratio_low")
    high[key] = member("ratio_high")
}
function rate(bench, server, key) {
    key = bench SUBSEP server
    if (!(key in median)) return "-"
    if (server == "raw_echo") return sprintf("%d per s", median[key])
    return sprintf("%.2f [%.2f-%.2f]", ratio[key], low[key], high[key])
}
function plain(bench, server, form, key) {
    key = bench SUBSEP server
    return key in median ? sprintf(form, median[key]) : "-"
}
END {
    print "| server | 1 connection | 64 | 64, 16 KiB | 1,000 | connect, echo, close |" \
        " requests per echo | KiB per idle connection |"
    print "| --- | --- | --- | --- | --- | --- | --- | --- |"
    n = split("raw_echo echo_server asio_echo select_echo threads_echo raw_echo_again", servers,
        " ")
    for (i = 1; i <= n; i++) {
        s = servers[i]
        idle = plain("idle 1000", s, "%.1f")
        if (idle == "-") idle = plain("idle 500", s, "%.1f")
        name = s == "raw_echo_again" ? "raw_echo, a second one" : "`" s "`"
        printf "| %s | %s | %s | %s | %s | %s | %s | %s |\n", name, rate("echo 1 x 64", s),
            rate("echo 64 x 64", s), rate("echo 64 x 16384", s), rate("echo 1000 x 64", s),
            rate("connect 4 x 64", s), plain("requests saturated", s, "%.2f"), idle
    }
}' "$figures"
