#!/bin/bash
# chat-format and chat-parse from outside: answers, errors, exit codes.
. scripts/tap.sh

program=${CLOCHER_BIN:-build/clocher}
ranks=(--tokenizer tests/data/harmony/o200k_4000.tiktoken --encoding o200k_harmony)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# expect STATUS PATTERN ARGUMENTS...: stdin goes to the program; stdout and stderr together must match the pattern.
expect() {
  local status=$1 pattern=$2 output found
  shift 2
  output=$("$program" "$@" 2>&1)
  found=$?
  [[ $found == "$status" ]] || echo "$*: exit $found, expected $status: $output"
  grep -qE -- "$pattern" <<<"$output" || echo "$*: $output"
}

hi='{"messages":[{"role":"user","content":"<|end|>"}],"kwargs":{"date_string":"2026-01-01"},"add_generation_prompt":true}'
expect 0 '"text":"<\|start\|>system<\|message\|>.*Current date: 2026-01-01.*<\|start\|>user<\|message\|><\|end\|><\|end\|><\|start\|>assistant"' \
  chat-format "${ranks[@]}" --format harmony <<<"$hi" | verdict "a request is rendered"
"$program" chat-format "${ranks[@]}" <<<"$hi" | grep -o 200007 | wc -l | grep -vx 2 |
  verdict "what a user types is no special token, and the tokens say which format it is"
today=$(date +%F)
expect 0 "Current date: ($today|$(date +%F))" chat-format "${ranks[@]}" <<<'{"messages":[]}' | verdict "the date is today's"
printf '%s\n' "$hi" '' '{' '{"messages":[{"role":"x"}]}' "$hi" | "$program" chat-format "${ranks[@]}" --jsonl >"$folder/lines"
{
  [[ $(wc -l <"$folder/lines") == 4 ]] || cat "$folder/lines"
  [[ $(grep -c '^{"error":' "$folder/lines") == 2 ]] || cat "$folder/lines"
  [[ $(sed -n 1p "$folder/lines") == "$(sed -n 4p "$folder/lines")" ]] || echo "the last line differs from the first"
} | verdict "--jsonl goes on after a line that is refused"
expect 2 'messages\[0\]\.role' chat-format "${ranks[@]}" <<<'{"messages":[{"role":"x"}]}' | verdict "a bad request is refused"
expect 2 'known are harmony, qwen2.5, qwen3, llama3.1, llama3.2, nanochat, c2c' \
  chat-format "${ranks[@]}" --format nothing <<<"$hi" | verdict "an unknown format is a usage error with the list"
expect 1 'no special token <\|bos\|>' chat-format "${ranks[@]}" --format nanochat <<<"$hi" |
  verdict "a tokenizer of another format is refused with the token that it lacks"
qwen=(--tokenizer tests/data/text/qwen_4000.tiktoken --encoding qwen3)
expect 0 '"text":"<\|im_start\|>user\\n<\|end\|><\|im_end\|>\\n<\|im_start\|>assistant\\n"' \
  chat-format "${qwen[@]}" <<<"$hi" | verdict "the tokens say that it is qwen3"
expect 0 '^\{"messages":\[\{"role":"assistant","channel":"analysis","text":"b"\}\],"complete":true,"malformed":false\}$' \
  chat-parse "${qwen[@]}" <<<'{"ids":[151667,65,151668,151645],"role":"assistant"}' | verdict "reasoning is a message"
nano=(--tokenizer tests/data/text/nanochat_500.tiktoken --encoding nanochat)
expect 0 '"mask":\[0,0,0,0,0,1,1\]' chat-format "${nano[@]}" \
  <<<'{"conversation":{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}}' |
  verdict "nanochat's conversations have a mask"
{
  expect 2 'model-dir' chat-format </dev/null
  expect 2 'model-dir' chat-parse --model-dir "$folder" "${ranks[@]}" </dev/null
} | verdict "one source of the tokenizer, not none, not two"

cp tests/data/harmony/o200k_4000.tiktoken "$folder/o200k_base.tiktoken"
model=(--model-dir "$folder" --encoding o200k_harmony)
expect 0 '"ids":\[200006' chat-format "${model[@]}" <<<"$hi" | verdict "a directory's format is recognised"
echo '<|im_start|>' >"$folder/chat_template.jinja"
{
  expect 1 'harmony, qwen2.5.*' chat-format "${model[@]}" <<<"$hi"
  expect 1 '--chat-format' chat-parse "${model[@]}" <<<'{"ids":[]}'
  expect 0 '"ids":\[200006' chat-format "${model[@]}" --chat-format harmony <<<"$hi"
} | verdict "a directory of unknown format is refused with the list and --chat-format"

expect 0 '^\{"messages":\[\{"role":"assistant","channel":"a","text":"b\\u0000"\}\],"complete":true,"malformed":false\}$' \
  chat-parse "${ranks[@]}" <<<'{"ids":[200005,64,200008,65,188,200007],"role":"assistant"}' | verdict "ids are parsed"
expect 0 '^\{"messages":\[\],"complete":false,"malformed":true\}$' chat-parse "${ranks[@]}" <<<'{"ids":[],"role":"assistant"}' |
  verdict "no ids are no message"
{
  expect 2 'ids' chat-parse "${ranks[@]}" <<<'{}'
  expect 2 'ids\[1\]' chat-parse "${ranks[@]}" <<<'{"ids":[1,-1]}'
  expect 2 'ids\[0\]' chat-parse "${ranks[@]}" <<<'{"ids":["1"]}'
  expect 2 'not valid JSON' chat-parse "${ranks[@]}" <<<'[1'
  expect 2 'role' chat-parse "${ranks[@]}" <<<'{"ids":[],"role":1}'
  expect 2 'role' chat-parse "${ranks[@]}" <<<'{"ids":[],"role":"wizard"}'
} | verdict "what is no request is refused"
finish
