#!/bin/bash
# The demo: generates, reconstructs, tokenizes and decodes with the models in the tree, then writes demo/index.html.
#   tools/demo/run.sh [BUILD [MODELS]]      from the root of the tree; demo/ is removed first
set -eu
build=${1:-build} models=${2:-models/demo}
pictures=models/demo/pictures
tessera=$build/tessera

for file in "$models/tokenizer.safetensors" "$models/generator.safetensors"; do
    [ -f "$file" ] || { echo "demo: $file is missing" >&2; exit 66; }
done
rm -rf demo
mkdir demo
steps=$(mktemp)
trap 'rm -f "$steps"' EXIT

now() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); } # milliseconds

# step WHAT COMMAND...: say it, run it, and note down for the page how long it took.
step() {
    local what=$1 start ms
    shift
    printf '\n%s\n  $ %s\n' "$what" "$*"
    start=$(now)
    "$@" | sed 's/^/    /'
    ms=$(($(now) - start))
    printf '  %d.%02d s\n' $((ms / 1000)) $((ms % 1000 / 10))
    printf '%d\t%s\t%s\n' "$ms" "$what" "$*" >>"$steps"
}
set -o pipefail

step "Generate eight pictures of every class" \
    "$tessera" sample --tokenizer "$models/tokenizer.safetensors" --generator "$models/generator.safetensors" \
    --class all -n 8 --seed 1 --cfg 4 --top-p 0.95 --temperature 0.9 --zoom 4 --out demo/samples.png
step "Show what the tokens keep of pictures the models never saw, scale by scale" \
    "$tessera" reconstruct --tokenizer "$models/tokenizer.safetensors" --zoom 4 --out demo/reconstruct.png "$pictures"
step "Turn these pictures into tokens" \
    "$tessera" tokenize --tokenizer "$models/tokenizer.safetensors" --out demo/tokens "$pictures"
step "Turn the tokens back into pictures" \
    "$tessera" decode --tokenizer "$models/tokenizer.safetensors" --out demo/decoded demo/tokens

{ cat tools/demo/head.html && "$build/demo-page" "$models" "$pictures" "$steps"; } >demo/index.html
printf '\nAll of it on one page: demo/index.html\n'
