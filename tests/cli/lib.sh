# lib.sh - what the command tests share. Sourced; work is a folder of the test's own, pics holds 40 pictures of 16x16 in 4 classes.
set -u
root=${TS_ROOT:-$(cd "$(dirname "$0")/../.." && pwd)}
tessera=${TESSERA:-$root/build/tessera}
make_pictures=${tessera%/tessera}/tests/cli/make_pictures
passed=0 failed=0
work=$(mktemp -d)
bin=$(mktemp -d)
trap 'rm -rf "$work" "$bin"' EXIT
cd "$work" || exit 1

# What --dtype is by default depends on the CPU, results of tests should not: here it is f32 unless it is given.
cat >"$bin/tessera" <<END
#!/bin/bash
case "\$1 \$* " in
*" --dtype"*) ;;
sample\ * | tokenize\ * | decode\ * | reconstruct\ * | eval\ *) exec "$tessera" "\$1" --dtype f32 "\${@:2}" ;;
esac
exec "$tessera" "\$@"
END
chmod +x "$bin/tessera"
tessera=$bin/tessera
export TMPDIR=$work OMP_WAIT_POLICY=passive

ok() { # STATUS WHAT: passes if the status is 0
    if [ "$1" = 0 ]; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED: $2"
    fi
}

equal() { # WHAT GOT WANT
    [ "$2" = "$3" ]
    ok $? "$1: got '$2', expected '$3'"
}

# runs EXIT-CODE ARGUMENT...: the program ends with this code; what it printed is in out and err.
runs() {
    local want=$1 got
    shift
    "$tessera" "$@" >out 2>err
    got=$?
    [ $got = "$want" ]
    ok $? "tessera $*: exit $got, expected $want: $(tail -n 2 err)"
}

# refuses EXIT-CODE PATTERN ARGUMENT...: this code, nothing on stdout, and one line on stderr that matches the bash pattern.
refuses() {
    local want=$1 pattern=$2 got
    shift 2
    "$tessera" "$@" >out 2>err
    got=$?
    [[ $got == $want ]] && [ ! -s out ] && [ "$(wc -l <err)" = 1 ] && [[ $(<err) == tessera*:\ $pattern ]]
    ok $? "tessera $*: exit $got, expected $want; expected one line '$pattern', got: $(<out)$(<err)"
}

# fails EXIT-CODE PATTERN ARGUMENT...: the same for work that had begun: lines of progress may stand before the one line.
fails() {
    local want=$1 pattern=$2 got
    shift 2
    "$tessera" "$@" >out 2>err
    got=$?
    [ $got = "$want" ] && [ "$(grep -c '^tessera' err)" = 1 ] && [[ $(tail -n 1 err) == tessera*:\ $pattern ]]
    ok $? "tessera $*: exit $got, expected $want; expected at the end '$pattern', got: $(<err)"
}

nothing_temporary() { # WHERE: no file that a killed or failed writer left behind
    equal "temporary files in $1" "$(find "$1" -name '*.tmp*' -printf '%p ')" ""
}

sums() { # FOLDER: names and content of all files, event files and locks apart
    (cd "$1" && find . -type f ! -name '.lock' ! -name 'events.out.*' -print0 | sort -z | xargs -0 sha256sum)
}

size() { # PNG: "WIDTH HEIGHT"
    od -An -t u1 -j 16 -N 8 "$1" | awk '{ print (($1 * 256 + $2) * 256 + $3) * 256 + $4, (($5 * 256 + $6) * 256 + $7) * 256 + $8 }'
}

same_tile() { # GRID ROW COLUMN PNG: that picture of the grid is the one in PNG
    "$make_pictures" tile "$1" 16 "$2" "$3" tile.png && cmp tile.png "$4"
    ok $? "picture in row $2, column $3 of $1 is $4"
}

finish() {
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ] && [ $passed -gt 0 ]
}

"$make_pictures" pics 40 16 4 || exit 1

cat >tokenizer.json <<'END'
{"model": {"kind": "tokenizer", "image_size": 16, "ch": 16, "ch_mult": [1, 2], "num_res_blocks": 1, "norm_groups": 8,
           "attention": false, "z_channels": 8, "preprocess": "none", "patch_nums": [1, 2, 4, 8],
           "quantizer": {"kind": "residual_fsq", "levels": [5, 5, 5], "share_quant_resi": 0}},
 "train": {"steps": 20, "batch": 8, "lr": 0.002, "warmup": 5, "log_every": 3, "checkpoint_every": 4, "augment": "strong",
           "scale_dropout": 0.2}}
END
cat >generator.json <<'END'
{"model": {"kind": "generator", "depth": 2, "embed_dim": 32, "num_heads": 2, "head": "digits", "head_hidden": 16},
 "train": {"steps": 20, "batch": 8, "lr": 0.002, "warmup": 5, "log_every": 3, "checkpoint_every": 4, "drop_path": 0.1,
           "class_balance": 0.5}}
END

# One of each, made once: t.safetensors, tokens, g.safetensors.
make_models() {
    runs 0 train tokenizer --config tokenizer.json --data pics --out tokenizer.run --seed 1
    cp tokenizer.run/model.safetensors t.safetensors
    runs 0 tokenize --tokenizer t.safetensors --out tokens pics
    runs 0 train generator --config generator.json --data tokens --tokenizer t.safetensors --out generator.run --seed 1
    cp generator.run/model.safetensors g.safetensors
}
