#!/bin/bash
# Run every test binary and script below BUILD/tests and tests/cli; one line each, the whole output of those that fail,
# and a last line "N passed, N failed". A test program that ran no check counts as a failure. Programs below BUILD/emu
# run on the emulated CUDA device. Tests that found no device to run on are counted as skipped.
#   tests/run.sh BUILD [FILTER]      FILTER: a part of the path
set -u
build=$1 filter=${2:-}
passed=0 failed=0 ran=0
export TESSERA="$PWD/$build/tessera" TS_ROOT="$PWD"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for t in "$build"/tests/*/test_* "$build"/emu/tests/*/test_* tests/cli/test_*; do
    [ -x "$t" ] && [ ! -d "$t" ] || continue
    case $t in *"$filter"*) ;; *) continue ;; esac
    ran=$((ran + 1)) start=$(date +%s.%N)
    name=${t##*tests/} backend=${TS_TEST_BACKEND:-}
    case $t in "$build"/emu/*) name=emu:$name backend=emu ;; esac
    env ${backend:+TS_TEST_BACKEND=$backend} timeout 300 "$t" >"$log" 2>&1
    rc=$?
    # Check prints "100%: Checks: 12, Failures: 0, Errors: 0"; scripts print "12 passed, 0 failed".
    read -r p f < <(sed -nE 's/^[0-9]+%: Checks: ([0-9]+), Failures: ([0-9]+), Errors: ([0-9]+)$/\1 \2 \3/p;
                             s/^([0-9]+) passed, ([0-9]+) failed.*$/p \1 \2/p' "$log" |
        awk '$1 == "p" { p += $2; f += $3; next } { p += $1 - $2 - $3; f += $2 + $3 } END { print p + 0, f + 0 }')
    [ $rc -ne 0 ] && [ "$f" -eq 0 ] && f=1
    [ "$p" -eq 0 ] && [ "$f" -eq 0 ] && f=1 && echo "no check ran" >>"$log"
    passed=$((passed + p)) failed=$((failed + f))
    skips=$(grep -c '^SKIP ' "$log")
    why=$(sed -nE 's/^SKIP (.*)$/\1/p;T;q' "$log")
    printf '%-34s %4d passed %3d failed  %6.1f s%s\n' "$name" "$p" "$f" "$(awk "BEGIN { print $(date +%s.%N) - $start }")" \
        "${why:+  ($skips skipped: $why)}"
    [ "$f" -ne 0 ] && { echo "--- exit $rc"; tail -n 60 "$log"; echo "---"; }
done
[ $ran -eq 0 ] && { echo "no test matches '$filter'"; failed=1; }
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
