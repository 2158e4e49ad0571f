#!/bin/bash
# Run every test binary and script below BUILD/tests and tests/cli, one for each core at a time; one line each, the whole
# output of those that fail, and a last line "N passed, N failed". A test program that ran no check counts as a failure.
# Programs below BUILD/emu run on the emulated CUDA device. Tests that found no device to run on are counted as skipped.
#   [JOBS=N] tests/run.sh BUILD [FILTER]      FILTER: a part of the path
set -u

# one BUILD TEST LINES: runs it; the line of the result also goes to the file LINES.
one() {
    local build=$1 t=$2 lines=$3 log start rc p f skips why result name backend=${TS_TEST_BACKEND:-}
    log=$(mktemp)
    start=$(date +%s.%N) name=${t##*tests/}
    case $t in "$build"/emu/*) name=emu:$name backend=emu ;; esac
    env ${backend:+TS_TEST_BACKEND=$backend} timeout 300 "$t" >"$log" 2>&1
    rc=$?
    # Check prints "100%: Checks: 12, Failures: 0, Errors: 0"; scripts print "12 passed, 0 failed".
    read -r p f < <(sed -nE 's/^[0-9]+%: Checks: ([0-9]+), Failures: ([0-9]+), Errors: ([0-9]+)$/\1 \2 \3/p;
                             s/^([0-9]+) passed, ([0-9]+) failed.*$/p \1 \2/p' "$log" |
        awk '$1 == "p" { p += $2; f += $3; next } { p += $1 - $2 - $3; f += $2 + $3 } END { print p + 0, f + 0 }')
    [ $rc -ne 0 ] && [ "$f" -eq 0 ] && f=1
    [ "$p" -eq 0 ] && [ "$f" -eq 0 ] && f=1 && echo "no check ran" >>"$log"
    skips=$(grep -c '^SKIP ' "$log")
    why=$(sed -nE 's/^SKIP (.*)$/\1/p;T;q' "$log")
    result=$(printf '%-34s %4d passed %3d failed  %6.1f s%s' "$name" "$p" "$f" \
        "$(awk "BEGIN { print $(date +%s.%N) - $start }")" "${why:+  ($skips skipped: $why)}")
    {
        flock 9
        echo "$result"
        echo "$p $f" >&9
        [ "$f" -eq 0 ] || { echo "--- exit $rc"; tail -n 60 "$log"; echo "---"; }
    } 9>>"$lines"
    rm -f "$log"
}

if [ "$1" = --one ]; then
    one "$2" "$3" "$4"
    exit 0
fi
build=$1 filter=${2:-}
# Threads that spin while they wait would hold up the other test.
export TESSERA="$PWD/$build/tessera" TS_ROOT="$PWD" OMP_WAIT_POLICY=passive
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
# Those that take long whatever the machine come first.
for t in tests/cli/test_* "$build"/emu/tests/*/test_* "$build"/tests/*/test_*; do
    [ -x "$t" ] && [ ! -d "$t" ] || continue
    case $t in *"$filter"*) printf '%s\0' "$t" ;; esac
done | xargs -0 -r -P "${JOBS:-$(nproc)}" -I{} "$0" --one "$build" {} "$lines"
read -r ran passed failed < <(awk '{ p += $1; f += $2 } END { print NR, p + 0, f + 0 }' "$lines")
[ "$ran" -eq 0 ] && { echo "no test matches '$filter'"; failed=1; }
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
