#!/bin/bash
# Exit codes of the commands that train and measure: 2 for a flag, its value or a combination, 1 for a run that failed by
# a file, data or memory. A table: the code, words of the message, the command.
. scripts/tap.sh

program=${CLOCHER_BIN:-build/clocher}
models=tests/data/models
text=tests/data/training/oz.txt
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# --- What the table names -------------------------------------------------------------------------------------------

mkdir "$folder/empty" "$folder/made"
: >"$folder/nothing"
: >"$folder/nothing.jsonl"
printf 'a' >"$folder/one.txt"
head -c 3000 $text >"$folder/small.txt"
echo '{"text": "abc"' >"$folder/cut.jsonl"
echo '{"word": "abc"}' >"$folder/other.jsonl"
printf '%s\n' '{"text": "It is a row of text that is long enough to be learned."}' \
  '{"messages": [{"role": "user", "text": "a"}, {"role": "assistant", "content": "b"}]}' >"$folder/silent.jsonl"
echo '{"messages": [{"role": "user", "content": null}]}' >"$folder/null.jsonl"
echo '{"messages": [{"role": "user", "content": 7}, {"role": "assistant", "content": "b"}]}' >"$folder/seven.jsonl"
for i in 1 2 3 4; do echo "{\"messages\": [{\"role\": \"user\", \"content\": \"$i: nobody answers\"}]}"; done >"$folder/unanswered.jsonl"
echo '[1]' >"$folder/list.json"
echo '{"stepz": 1}' >"$folder/key.json"
echo '{"micro": "x"}' >"$folder/type.json"
echo '{"micro": -1}' >"$folder/range.json"
echo '{"command": "train sft"}' >"$folder/command.json"
echo '{' >"$folder/cut.json"
"$program" train tokenizer --text $text --vocab 320 --specials harmony --out "$folder/made" --quiet
cp tests/data/training/gpt-oss/config.json "$folder/made"
small=(--data "$folder/small.txt" --batch 2 --seq 32 --lr 1e-3 --steps 1 --quiet)
"$program" train base --model-dir "$folder/made" --out "$folder/run" "${small[@]}" --save-every 1
"$program" train lora --model-dir "$folder/run" --out "$folder/adapter" "${small[@]}"

base=(train base --model-dir "$folder/made" --out "$folder/out" "${small[@]}")
sft=(train sft --model-dir "$folder/run" --out "$folder/out" --batch 1 --seq 64 --lr 1e-3 --steps 1 --quiet)
lora=(train lora --model-dir "$folder/run" --out "$folder/out" "${small[@]}")
tokenizer=(train tokenizer --text $text --vocab 300 --out "$folder/out" --quiet)
merge=(merge --model-dir "$folder/run" --adapter "$folder/adapter" --out "$folder/out" --quiet)
ppl=(eval ppl --model-dir "$folder/run" --text "$folder/small.txt" --quiet)
gradients=(gradients --model-dir $models/qwen3 --ids 1,2,3 --out "$folder/out.safetensors" --quiet)

# --- The table ------------------------------------------------------------------------------------------------------

# expect CODE WORDS NAME FLAG...: the command that NAME's array holds, with these flags behind it.
expect() {
  local code=$1 words=$2 status
  local -n command=$3
  local shown="$3 ${*:4}"
  rm -rf "$folder/out" "$folder/out.safetensors"
  "$program" "${command[@]}" "${@:4}" >"$folder/stdout" 2>"$folder/stderr" </dev/null
  status=$?
  {
    [[ $status -eq $code ]] || echo "exit $status, expected $code"
    grep -qF -- "$words" "$folder/stderr" || echo "expected '$words', found: $(cat "$folder/stderr")"
    [[ ! -s $folder/stdout ]] || echo "something on stdout"
    ! grep -q 'more than once' "$folder/stderr" || echo "--quiet is not quiet: $(head -1 "$folder/stderr")"
    ! ls -d "$folder/out"/step-* "$folder/out"/*model.safetensors "$folder/out.safetensors" 2>/dev/null || echo "it wrote something"
  } | verdict "${shown//$folder/DIR}: exit $code"
}

# Values: what is no number, what is out of its range, what is no choice, a path that is empty.
for flag in steps batch micro seq lr embedding-lr head-lr scalar-lr betas eps weight-decay clip warmup final-factor \
  step-every step-gamma balance stored-steps seed eval-every sample-every save-every keep; do
  expect 2 "--$flag" base "--$flag" x
  expect 2 "--$flag" base "--$flag" -1
done
for flag in steps batch eps step-every step-gamma embedding-lr threads; do expect 2 "--$flag" base "--$flag" 0; done
for flag in optimizer schedule layout ranks precision affinity device; do expect 2 "--$flag" base "--$flag" wrong; done
for flag in model-dir data valid tokenizer out metrics plot config; do expect 2 "--$flag" base "--$flag" ""; done
for spec in "" r=0 r=x r=99999 alpha=x alpha=inf targets= r=8,foo=1; do expect 2 "--lora" lora --lora "$spec"; done
expect 2 "alpha" lora --lora alpha=0
expect 2 "no linear layer of the model is called 'foo'" lora --lora targets=foo
expect 2 "--betas" base --betas 1,0.9
expect 2 "--memory" base --memory x
expect 2 "unknown chat format" base --chat-format foo
expect 2 "--recompute takes no value" base --recompute=1
expect 2 "--steps needs a value" base --steps
expect 2 "unknown flag" base --foo
expect 2 "unexpected argument" base extra

# Combinations.
expect 2 "one of --data and --data-ids" base --data-ids "$folder/nothing"
expect 2 "for \`train lora\`" base --lora r=1
expect 2 "for \`train lora\`" sft --data "$folder/small.txt" --adapter-in "$folder/adapter"
expect 2 "training computes in bf16 or fp32" lora --precision int8
expect 2 "--stored-steps" base --stored-steps 2
expect 2 "--eval-every needs --valid" base --eval-every 1
expect 2 "--sample-prompt" base --sample-every 1 --sample-prompt ""
expect 2 "beside a --lr above 0" base --lr 0 --head-lr 1e-3
expect 2 "warm-up" base --schedule cosine --warmup 10
expect 2 "context is 256" base --seq 300
expect 2 "all of the data are" base --batch 1000
expect 2 "holds a run already" base --out "$folder/run"
expect 2 "own folder" lora --out "$folder/run"
expect 2 "tokens of a row (--seq) 32, this one has 16" base --out "$folder/run" --resume --seq 16
expect 2 "rows of a step (--batch) 2, this one has 1" base --out "$folder/run" --resume --batch 1
expect 2 "optimiser (--optimizer) \"adamw\", this one has \"muon\"" base --out "$folder/run" --resume --optimizer muon
for file in list key type range command cut; do expect 2 "$file.json" base --config "$folder/$file.json"; done

# Files.
for flag in model-dir data valid tokenizer config out metrics plot; do
  expect 1 "$folder/none/none" base "--$flag" "$folder/none/none"
done
for flag in data valid tokenizer model-dir config; do expect 1 "$folder/empty" base "--$flag" "$folder/empty"; done
for flag in metrics plot; do expect 2 "--$flag" base "--$flag" "$folder/empty"; done
expect 2 "expected a folder" base --out "$folder/small.txt"
expect 1 "none" lora --adapter-in "$folder/none"
expect 1 "adapter_config.json" lora --adapter-in "$folder/empty"
expect 1 "no weights" sft --data "$folder/small.txt" --model-dir "$folder/made"
expect 1 "/proc/x" base --out /proc/x
expect 1 "does not hold this run" base --memory 1MB

# Data: refused before a step is made, with the place.
expect 1 "at least two tokens" base --data "$folder/nothing"
expect 1 "at least two tokens" base --data "$folder/nothing.jsonl"
expect 1 "cut.jsonl: line 1: not valid JSON" sft --data "$folder/cut.jsonl"
expect 1 "other.jsonl: line 1: expected an object with" sft --data "$folder/other.jsonl"
expect 1 "silent.jsonl: line 2: messages[0]: expected a \"content\", found none" sft --data "$folder/silent.jsonl"
expect 1 "null.jsonl: line 1: messages[0]: expected a \"content\", found null" sft --data "$folder/null.jsonl"
expect 1 "seven.jsonl: line 1: chat request: messages[0].content" sft --data "$folder/seven.jsonl"
expect 1 "unanswered.jsonl: no token of the data is a target" sft --data "$folder/unanswered.jsonl"
expect 1 "unanswered.jsonl: no token of the data is a target" base --valid "$folder/unanswered.jsonl"

# train tokenizer.
for flag in vocab min-frequency threads; do expect 2 "--$flag" tokenizer "--$flag" x; done
for flag in pattern specials; do expect 2 "--$flag" tokenizer "--$flag" wrong; done
for flag in text out; do expect 2 "--$flag" tokenizer "--$flag" ""; done
expect 2 "--vocab" tokenizer --vocab 255
expect 2 "at least 265" tokenizer --vocab 257 --specials harmony
expect 2 "expected one of them" tokenizer --special ab --specials none
expect 2 "special token" tokenizer --special a
expect 1 "none" tokenizer --text "$folder/none"
expect 1 "it is a folder" tokenizer --text "$folder/empty"
expect 1 "there is no text in it" tokenizer --text "$folder/nothing"
expect 2 "expected a folder" tokenizer --out "$folder/small.txt"
expect 1 "/proc/x" tokenizer --out /proc/x

# merge.
for flag in model-dir adapter out; do expect 2 "--$flag" merge "--$flag" ""; done
for flag in model-dir adapter; do
  expect 1 "$folder/none" merge "--$flag" "$folder/none"
  expect 1 "$folder/empty" merge "--$flag" "$folder/empty"
done
expect 1 "is for (" merge --model-dir $models/qwen3
expect 1 "that the model does not have" merge --model-dir $models/gpt-neox-parallel
expect 2 "own folder" merge --out "$folder/run"
expect 2 "expected a folder" merge --out "$folder/small.txt"
expect 1 "/proc/x" merge --out /proc/x
expect 2 "unexpected argument" merge extra

# eval ppl.
for flag in ctx stride chunk batch threads; do
  expect 2 "--$flag" ppl "--$flag" x
  expect 2 "--$flag" ppl "--$flag" 0
done
for flag in special kv against-precision against-weights against-kv precision weights; do expect 2 "--$flag" ppl "--$flag" wrong; done
expect 2 "--stride 64 is more than --ctx 32" ppl --ctx 32 --stride 64
expect 2 "is 256 tokens" ppl --ctx 300
expect 2 "need --against" ppl --against-kv f32
expect 2 "expected the same" ppl --against $models/qwen3
for flag in text model-dir tokenizer against adapter; do expect 1 "$folder/none" ppl "--$flag" "$folder/none"; done
for flag in text model-dir tokenizer against adapter; do expect 1 "$folder/empty" ppl "--$flag" "$folder/empty"; done
expect 1 "0 tokens; expected 2 or more" ppl --text "$folder/nothing"
expect 1 "1 tokens; expected 2 or more" ppl --text "$folder/one.txt"
expect 1 "does not hold this run" ppl --memory 1KB

# gradients.
for ids in "" 1 1,x 1,-2 1,999999; do expect 2 "row" gradients --ids "$ids"; done
expect 2 "one of --ids and --ids-file" gradients --ids-file "$folder/nothing"
expect 2 "bf16 or fp32" gradients --precision int8
expect 2 "found the folder" gradients --out "$folder/empty"
expect 2 "the model's weights" gradients --out $models/qwen3/model.safetensors
for flag in model-dir adapter out; do expect 2 "--$flag" gradients "--$flag" ""; done
for flag in model-dir adapter; do expect 1 "$folder/none" gradients "--$flag" "$folder/none"; done
expect 1 "$folder/none/none" gradients --out "$folder/none/none"
expect 1 "is for (" gradients --adapter "$folder/adapter"
expect 1 "more than 1000" gradients --memory 1KB

# Flags that are missing, and what is behind a command of parts.
for lacking in "train base" "train sft" "train lora" "train tokenizer" merge "eval ppl" gradients; do
  read -ra bare <<<"$lacking"
  expect 2 "is missing" bare
done
bare=(train) && expect 2 "expected one of" bare
bare=(train foo) && expect 2 "found 'foo'" bare
bare=(eval foo) && expect 2 "found 'foo'" bare

# A flag that stands twice is named, but for --quiet.
{
  "$program" eval ppl --model-dir "$folder/run" --text "$folder/small.txt" --ctx 64 --ctx 32 2>"$folder/stderr" >"$folder/stdout"
  grep -qF -- "--ctx is given more than once; the last one counts" "$folder/stderr" || cat "$folder/stderr"
  "$program" eval ppl --model-dir "$folder/run" --text "$folder/small.txt" --ctx 64 --ctx 32 --quiet 2>&1 >"$folder/stdout"
} | verdict "a flag that is given twice is named, with --quiet it is not"
finish
