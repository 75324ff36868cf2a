#!/bin/bash
# plots.sh [FOLDER]: draws throughput.png, options.png and memory.png from FOLDER/results.jsonl
# [build/bench], by gnuplot. What a run has left out is not drawn; a plot without any figure is not
# made, and said.

cd "$(dirname "$0")/.." || exit 1
folder=${1:-build/bench}
figures=$folder/results.jsonl
[ -s "$figures" ] || { echo "plots.sh: no $figures: run bench first" >&2; exit 1; }
command -v gnuplot >/dev/null || { echo "plots.sh: needs gnuplot (gnuplot-nox)" >&2; exit 1; }
data=$folder/plots
rm -rf "$data"
mkdir -p "$data"
system=$(grep -om 1 '"system":"[^"]*"' "$figures" | cut -d '"' -f 4)
on="$system, $(nproc) processors, loopback"
[[ $system != Wine* ]] || on+=" (Wine is not Windows)"

# values BENCH MEMBER ...: for each line of a bench "case", then these members; - where one is not
values()
{
    awk -v bench="$1" -v members="${*:2}" '
        function member(name, at, rest) {
            at = index($0, "\"" name "\":")
            if (!at) return "-"
            rest = substr($0, at + length(name) + 3)
            if (substr(rest, 1, 1) == "\"") { split(substr(rest, 2), part, "\""); return part[1] }
            match(rest, /^[-0-9.e+]+/)
            return substr(rest, 1, RLENGTH)
        }
        member("bench") == bench {
            n = split(members, wanted, " ")
            printf "\"%s\"", member("case")
            for (i = 1; i <= n; i++) printf "\t%s", member(wanted[i])
            print ""
        }' "$figures"
}

# ---- throughput and p99 against connections

series=()
for server in raw_echo echo_server asio_echo select_echo threads_echo; do
    for connections in 1 64 1000; do
        values "echo $connections x 64" median p99_us | awk -F '\t' -v server="\"$server\"" \
            -v connections=$connections '$1 == server { print connections, $2, $3 / 1000 }'
    done >"$data/$server.txt"
    [ ! -s "$data/$server.txt" ] || series+=("$server")
done
# drawn COLUMN: gnuplot's list of what is drawn
drawn()
{
    local server list=''
    for server in "${series[@]}"; do
        list+=", '$data/$server.txt' using 1:$1 with linespoints lw 2 pt 7 title '$server'"
    done
    echo "${list#, }"
}
if [ ${#series[@]} -gt 0 ]; then
    gnuplot <<END || exit 1
set terminal pngcairo noenhanced size 1000,420 font 'sans,10'
set output '$folder/throughput.png'
set multiplot layout 1,2 title 'echo of 64 bytes: $on'
set logscale x
set xlabel 'connections'
set xtics (1, 64, 1000)
set grid
set key bottom right
set ylabel 'echoes per second'
set yrange [0:*]
plot $(drawn 2)
set logscale y
set yrange [*:*]
set ylabel 'p99, ms'
set key top left
plot $(drawn 3)
END
    echo "$folder/throughput.png"
else
    echo "plots.sh: no throughput to draw"
fi

# bars FILE TITLE LABEL: horizontal ones, from data/FILE.txt: "name" value [low high]
bars()
{
    local rows
    rows=$(wc -l <"$data/$1.txt")
    if [ "$rows" = 0 ]; then
        echo "plots.sh: no $1 to draw"
        return
    fi
    gnuplot <<END || exit 1
set terminal pngcairo noenhanced size 800,$((120 + 32 * rows)) font 'sans,10'
set output '$folder/$1.png'
set title "$2\n$on"
set datafile separator '\t'
set style fill solid 0.6
set xrange [0:*]
set yrange [-0.6:$rows-0.4] reverse
set xlabel '$3'
set grid x
unset key
plot '$data/$1.txt' using (\$2/2):0:(\$2/2):(0.35):yticlabels(1) with boxxyerror lc rgb '#4878a8', \
     '' using 2:0:3:4 with xerrorbars pt 0 lw 2 lc rgb 'black'
END
    echo "$folder/$1.png"
}

values "options small" ratio ratio_low ratio_high | grep -v control |
    awk -F '\t' -v OFS='\t' '{ for (i = 2; i <= 4; i++) if ($i == "-") $i = 1 } 1' \
        >"$data/options.txt"
bars options "what each choice gives: 64 connections, messages of 64 bytes" \
    "echoes per second, by the defaults'"

for bench in "idle 500" "idle 1000" "idle 10000"; do values "$bench" median median median; done |
    cat >"$data/memory.txt"
bars memory "memory of an idle connection in the server process" "KiB"
