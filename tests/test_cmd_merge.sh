#!/bin/bash
# clocher merge: what it refuses, that stopping it leaves nothing, and the reference's merged model.
. scripts/tap.sh

program=${CLOCHER_BIN:-build/clocher}
model=tests/data/models/gpt-neox-parallel
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# refused CODE TEXT ARGUMENT...: ends with the code, and stderr holds the text.
refused() {
  local code=$1 text=$2 status
  shift 2
  "$program" merge "$@" >"$folder/stdout" 2>"$folder/stderr"
  status=$?
  {
    [[ $status -eq $code ]] || echo "exit $status, expected $code"
    grep -qF -- "$text" "$folder/stderr" || echo "expected '$text', found: $(cat "$folder/stderr")"
    [[ ! -s $folder/stdout ]] || echo "something on stdout"
    [[ ! -e $folder/out ]] || echo "it left $folder/out"
  } | verdict "merge ${*//$folder/DIR}: exit $code"
}

mkdir "$folder/adapter"
echo '{"peft_type": "LORA", "r": 2, "target_modules": ["dense"]}' >"$folder/adapter/adapter_config.json"
refused 2 "--adapter" --model-dir $model --out "$folder/out"
refused 2 "--out" --model-dir $model --adapter "$folder/adapter"
refused 1 "no such folder" --model-dir "$folder/none" --adapter "$folder/adapter" --out "$folder/out"
refused 1 "adapter_config.json" --model-dir $model --adapter "$folder" --out "$folder/out"
refused 1 "adapter_model.safetensors" --model-dir $model --adapter "$folder/adapter" --out "$folder/out"
refused 2 "own folder" --model-dir $model --adapter "$folder/adapter" --out $model/.
echo '{"peft_type": "LORA", "use_dora": true, "target_modules": ["dense"]}' >"$folder/adapter/adapter_config.json"
refused 1 "use_dora" --model-dir $model --adapter "$folder/adapter" --out "$folder/out"

golden=${CLOCHER_TEST_DATA:-}/golden
if [[ -d $golden/training ]]; then
  lora=$golden/training
  "$program" merge --model-dir "$golden/models/gpt-neox-parallel" --adapter "$lora/adapter_end" --out "$folder/merged" \
    2>"$folder/stderr" >"$folder/stdout"
  {
    [[ $? -eq 0 ]] || cat "$folder/stderr"
    [[ ! -s $folder/stdout ]] || echo "something on stdout"
    ls "$folder/merged" | diff - <(printf '%s\n' config.json generation_config.json model.safetensors)
    "$program" inspect "$folder/merged" >"$folder/stdout" || cat "$folder/stdout"
    cmp -s "$folder/merged/config.json" "$golden/models/gpt-neox-parallel/config.json" || echo "another config.json"
  } | verdict "the reference's adapter: a whole model, its config copied"
  # A second one over it, and its logits are those of the first: tests/test_adapter.c compares them with the reference.
  "$program" logits --model-dir "$folder/merged" --ids 1,2,3,4 --precision fp32 --out "$folder/first" 2>/dev/null
  "$program" merge --quiet --model-dir "$golden/models/gpt-neox-parallel" --adapter "$lora/adapter_end" \
    --out "$folder/merged" 2>"$folder/stderr"
  "$program" logits --model-dir "$folder/merged" --ids 1,2,3,4 --precision fp32 --out "$folder/second" 2>/dev/null
  {
    [[ ! -s $folder/stderr ]] || cat "$folder/stderr"
    cmp "$folder/first" "$folder/second" 2>&1
  } | verdict "merged again over it: the same logits, and --quiet is quiet"
  "$program" merge --model-dir "$golden/models/gpt-neox-parallel" --adapter "$lora/adapter_end" --out /proc/nowhere \
    2>"$folder/stderr"
  { [[ $? -eq 1 ]] && grep -q /proc/nowhere "$folder/stderr" || cat "$folder/stderr"; } |
    verdict "a folder that cannot be made: exit 1"
else
  skip "the reference's adapter" "CLOCHER_TEST_DATA is not set"
fi
finish
