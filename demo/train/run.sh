#!/bin/bash
# Makes the model that ships: tokenizer, model, its dense twin, evaluations, samples, and the pages that report them.
#
#   demo/train/run.sh DATA OUT
#
# DATA holds train.txt, stories_train.txt, valid.txt and stories_valid.txt. Everything is written to OUT; OUT/ship then
# holds what goes into the repository, at its paths there: `cp -r OUT/ship/. .` ships it. A run that was stopped goes on
# where it was when the same command is given again. README.md says more.
#
# Variables: CLOCHER, the program (build/clocher); STEPS (2800, about one pass over the texts); ONLY, one of moe, dense and report (all three).
set -euo pipefail

[[ $# -eq 2 ]] || { echo "usage: demo/train/run.sh DATA OUT" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
clocher=${CLOCHER:-$root/build/clocher}
steps=${STEPS:-2800}
only=${ONLY:-all}
data=$1
for file in train.txt stories_train.txt valid.txt stories_valid.txt; do
  [[ -r $data/$file ]] || { echo "demo/train/run.sh: $data/$file is missing" >&2; exit 2; }
done
[[ -x $clocher ]] || { echo "demo/train/run.sh: $clocher is missing: make build" >&2; exit 2; }
mkdir -p "$2"
out=$(cd "$2" && pwd)

# Runs a command and keeps its line, without this machine's paths, for the page.
run() {
  local line=" $*"
  line=${line//" $clocher"/ clocher} line=${line//"$out"/OUT} line=${line//"$data"/DATA}
  touch "$out/commands.txt"
  grep -qxF -- "${line# }" "$out/commands.txt" || printf '%s\n' "${line# }" >>"$out/commands.txt"
  "$@"
}

# A folder to begin from: configuration and tokenizer, no weights.
begin() {
  mkdir -p "$out/$1"
  cp "$out/tokenizer"/tokenizer* "$out/$1/"
  cp "$here/$2" "$out/$1/config.json"
  cp "$here/generation_config.json" "$out/$1/"
}

train() {
  run "$clocher" train base --model-dir "$out/$1-begin" --data "$out/mix.txt" --valid "$data/valid.txt" --out "$out/$1" \
    --steps "$steps" --batch 16 --seq 512 --lr 2e-3 --warmup $((steps / 20)) --schedule cosine --final-factor 0.05 \
    --balance 0.01 --stored-steps $((steps / 10)) --seed 1 --save-every 100 --eval-every 1000 --resume
}

if [[ ! -f $out/mix.txt ]]; then
  cat "$data/train.txt" "$data/stories_train.txt" >"$out/mix.txt.new"
  mv "$out/mix.txt.new" "$out/mix.txt"
fi
if [[ ! -f $out/tokenizer/tokenizer.json ]]; then
  run "$clocher" train tokenizer --text "$data/train.txt" --vocab 4096 --specials harmony --out "$out/tokenizer"
fi

# The folder of a trained model holds its weights only when the last step is done.
if [[ $only == all || $only == moe ]]; then
  begin moe-begin config.json
  train moe
fi
if [[ $only == all || $only == dense ]]; then
  begin dense-begin config-dense.json
  train dense
fi

if [[ $only == all || $only == report ]]; then
  twin=() models=(moe)
  [[ ! -f $out/dense/model.safetensors ]] || { twin=(--dense "$out/dense") models+=(dense); }
  "$root/tools/demo_report.py" --binary "$clocher" --model "$out/moe" "${twin[@]}" --data "$data" \
    --commands "$out/commands.txt" --steps "$steps" --docs "$out/ship/docs"
  mkdir -p "$out/ship/demo/model" "$out/ship/demo/train"
  for file in config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json; do
    cp "$out/moe/$file" "$out/ship/demo/model/"
  done
  for model in "${models[@]}"; do
    cp "$out/$model/metrics.jsonl" "$out/ship/demo/train/metrics-$model.jsonl"
  done
  du -sh "$out/ship/demo/model"
  echo "ready in $out/ship; into the repository with: cp -r $out/ship/. $root/"
fi
