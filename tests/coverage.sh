#!/bin/bash
# Which lines of kernels/cuda the tests on the emulated device run: a table of files, then every line that none ran.
# What is not built for the emulator (cublas.cu, which loads the library) is not counted. Needs objects built for gcov.
#   tests/coverage.sh FOLDER      as `make coverage-cuda` calls it; less than LEAST percent (95) is a failure
set -u
folder=$1 least=${LEAST:-95}
export TS_ROOT=$PWD TS_TEST_BACKEND=emu
log=$(mktemp)
trap 'rm -f "$log"' EXIT
find "$folder" -name '*.gcda' -delete
for t in "$folder"/tests/*/test_*; do
    timeout 600 "$t" >"$log" 2>&1 || { echo "$t failed:"; tail -n 20 "$log"; exit 1; }
    printf '  RAN %s\n' "${t##*/tests/}"
done

# A line of gcov is "COUNT: NUMBER:TEXT"; COUNT is - for no code and ##### for never. One that is in several objects, or
# several times in one (templates), counts as run if it ran in one of them.
for object in "$folder"/obj/kernels/cuda/*.gcno; do gcov -t -o "${object%/*}" "$object" 2>"$log" || cat "$log" >&2; done |
    awk -v least="$least" '
    match($0, /^ *-: *0:Source:/) { file = substr($0, RLENGTH + 1); next }
    file !~ /^kernels\/cuda\// || !match($0, /^ *[-#=0-9][^:]*: *[0-9]+:/) { next }
    {
        split($0, part, ":")
        count = part[1]; line = part[2] + 0
        gsub(/[ *]/, "", count)
        if (count == "-" || line == 0) next
        key = file SUBSEP line
        if (!(key in seen)) { seen[key] = 1; lines[file]++; text[key] = substr($0, RLENGTH + 1); order[++n] = key }
        if (count !~ /^[#=]/ && !(key in ran)) { ran[key] = 1; good[file]++ }
    }
    END {
        for (file in lines) {
            printf "%-34s %5d of %5d lines  %5.1f %%\n", file, good[file], lines[file], 100 * good[file] / lines[file] | "sort"
            all += lines[file]; sum += good[file]
        }
        close("sort")
        if (all == 0) { print "gcov said nothing"; exit 1 }
        printf "%-34s %5d of %5d lines  %5.1f %%\n", "total", sum, all, 100 * sum / all
        for (i = 1; i <= n; i++) {
            if (order[i] in ran) continue
            split(order[i], part, SUBSEP)
            printf "%s:%d:%s\n", part[1], part[2], text[order[i]]
        }
        exit 100 * sum < least * all
    }'
