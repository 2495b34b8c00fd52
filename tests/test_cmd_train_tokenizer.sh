#!/bin/bash
# clocher train tokenizer: what it writes, what it refuses, and that stopping it leaves nothing half written.
. scripts/tap.sh

program=${CLOCHER_BIN:-build/clocher}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
text=tests/data/bpe/hard.txt

# refused CODE TEXT ARGUMENT...: ends with the code, and stderr holds the text.
refused() {
  local code=$1 text=$2 status
  shift 2
  "$program" train "$@" >"$folder/out" 2>"$folder/err"
  status=$?
  {
    [[ $status -eq $code ]] || echo "exit $status, expected $code"
    grep -qF -- "$text" "$folder/err" || echo "expected '$text', found: $(cat "$folder/err")"
    [[ ! -s $folder/out ]] || echo "something on stdout"
    [[ ! -e $folder/x ]] || echo "it made the folder"
  } | verdict "train ${*//$folder/DIR}: exit $code"
}

refused 2 "expected one of"
refused 2 "the nearest is tokenizer" tokeniser
refused 2 "--text FILE is missing" tokenizer --vocab 300 --out "$folder/x"
refused 2 "--vocab N is missing" tokenizer --text $text --out "$folder/x"
refused 2 "--out DIR is missing" tokenizer --text $text --vocab 300
refused 2 "--vocab" tokenizer --text $text --vocab 255 --out "$folder/x"
: >"$folder/empty.txt"
refused 1 "there is no text in it" tokenizer --text "$folder/empty.txt" --vocab 300 --out "$folder/x"
refused 2 "9 special tokens" tokenizer --text $text --vocab 260 --specials harmony --out "$folder/x"
refused 2 "expected one of them" tokenizer --text $text --vocab 300 --specials harmony --special '<a>' --out "$folder/x"
refused 2 "each token once" tokenizer --text $text --vocab 300 --special '<a>' --special '<a>' --out "$folder/x"
refused 1 "missing.txt" tokenizer --text "$folder/missing.txt" --vocab 300 --out "$folder/x"
refused 1 "/proc/nowhere" tokenizer --text $text --vocab 300 --out /proc/nowhere

{
  "$program" train --help | grep -q -- '--vocab N' || echo "train --help does not list --vocab"
  "$program" train tokenizer --help | grep -q 'Usage: clocher train tokenizer' || echo "no usage"
} | verdict "help of the command and of its part"

train() { "$program" train tokenizer --text $text --quiet "$@"; }
train --vocab 600 --specials harmony --out "$folder/a" --threads 1
train --vocab 600 --specials harmony --out "$folder/b" --threads 3
{
  for file in tokenizer.json tokenizer_config.json tokenizer.tiktoken; do
    cmp "$folder/a/$file" "$folder/b/$file" 2>&1
  done
  [[ $(ls "$folder/a" | wc -l) -eq 3 ]] || ls "$folder/a"
} | verdict "three files, the same for 1 and 3 threads"

# Encoded and decoded, the text is itself; its separators are special tokens with the id that stands last but eight.
{
  ids=$("$program" tokenize --tokenizer "$folder/a/tokenizer.json" <$text)
  grep -q '592' <<<"$ids" || echo "no <|endoftext|> among the ids"
  "$program" detokenize --tokenizer "$folder/a/tokenizer.json" <<<"$ids" | cmp - $text
} 2>&1 | verdict "the text is encoded and decoded"

train --vocab 300 --special '<|mine|>' --out "$folder/c"
{
  [[ $("$program" tokenize --tokenizer "$folder/c/tokenizer.json" <<<'<|mine|>') == \[299,* ]] ||
    "$program" tokenize --tokenizer "$folder/c/tokenizer.json" <<<'<|mine|>'
} | verdict "a special token of one's own has the last id"
{
  "$program" train tokenizer --text $text --vocab 100000 --out "$folder/d" 2>&1 | grep -q 'no pair is left' ||
    echo "it does not say so"
} | verdict "a text that is too small gives fewer tokens, and it says so"

# Killed: the old file or none.
for ((i = 0; i < 200; i++)); do cat $text && echo '<|endoftext|>'; done >"$folder/large.txt"
"$program" train tokenizer --text "$folder/large.txt" --vocab 2000 --out "$folder/killed" --quiet &
pid=$!
sleep 0.05
kill -KILL $pid 2>/dev/null
wait $pid 2>/dev/null
{
  [[ ! -e $folder/killed/tokenizer.json ]] ||
    "$program" tokenize --tokenizer "$folder/killed/tokenizer.json" <<<x >/dev/null || echo "half a file"
} 2>&1 | verdict "killed, it leaves a whole tokenizer.json or none"
finish
