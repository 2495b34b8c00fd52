#!/bin/bash
# clocher tokenize and detokenize: flags, lines of JSON, bytes, refusals and exit codes, the cache folder.
. scripts/tap.sh

program=${CLOCHER_BIN:-build/clocher}
data=tests/data/text
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export XDG_CACHE_HOME=$folder/cache

# expect NAME INPUT OUTPUT ARGUMENT...: the program reads INPUT, prints OUTPUT and ends with 0.
expect() {
  local name=$1 input=$2 output=$3 found status
  shift 3
  found=$(printf '%b' "$input" | "$program" "$@" 2>"$folder/err")
  status=$?
  {
    [[ $status -eq 0 ]] || echo "exit $status: $(cat "$folder/err")"
    [[ $found == "$output" ]] || printf 'expected %s\nfound    %s\n' "$output" "$found"
  } | verdict "$name"
}

# refused CODE TEXT INPUT ARGUMENT...
refused() {
  local code=$1 text=$2 input=$3 status
  shift 3
  printf '%b' "$input" | "$program" "$@" >"$folder/out" 2>"$folder/err"
  status=$?
  {
    [[ $status -eq $code ]] || echo "exit $status, expected $code"
    grep -qF -- "$text" "$folder/err" || echo "expected '$text', found: $(cat "$folder/err")"
  } | verdict "${*//$folder/DIR}: exit $code, $text"
}

o200k=(--tokenizer "$data/o200k_600.tokenizer.json")
expect "an empty text" '' '[]' tokenize "${o200k[@]}"
expect "letters" 'a<|start|>a' '[64,605,64]' tokenize "${o200k[@]}"
expect "special tokens as text" '<|end|>' '[27,91,419,91,29]' tokenize "${o200k[@]}" --special text
expect "--flag=value" '<|end|>' '[606]' tokenize "${o200k[@]}" --special=parse
expect "offsets" 'a \311\231' '[[64,0,1],[220,1,2],[133,2,4],[247,2,4]]' tokenize "${o200k[@]}" --offsets
expect "a template" 'a' '[600,64,601]' tokenize --tokenizer "$data/template.tokenizer.json" --add-special
expect "an encoding by name" '<|bos|>a' '[500,64]' tokenize --tokenizer "$data/nanochat_500.tiktoken" --encoding nanochat
expect "a pickle" '<|bos|>a' '[500,64]' tokenize --tokenizer "$data/nanochat_500.pkl"
expect "lines, bytes, and a line that is refused" '"a"\n{"hex":"61ff"}\n7\n{"hex":"6"}\nno\n""\n' \
  $'[64]\n[64,187]\n{"error":"expected a JSON string or {\\"hex\\": \\"...\\"}"}\n{"error":"expected a JSON string or {\\"hex\\": \\"...\\"}"}\n{"error":"the line is not valid JSON"}\n[]' \
  tokenize "${o200k[@]}" --jsonl
expect "ids to text" '[64,605,64]' 'a<|start|>a' detokenize "${o200k[@]}"
expect "without special tokens" '[64,605,64]' 'aa' detokenize "${o200k[@]}" --skip-special
expect "ids that no token has" '[64,600000,2147483647,64]' 'aa' detokenize "${o200k[@]}"
expect "a stream" '[133,247,64,187]' '["","\u0259","a",{"hex":"ff"},""]' detokenize "${o200k[@]}" --stream
expect "an unfinished stream" '[64,133]' '["a","",{"hex":"c9"}]' detokenize "${o200k[@]}" --stream
expect "lines of ids" '[64]\n[187]\n[-1]\n{}\n' \
  $'"a"\n{"hex":"ff"}\n{"error":"id 0 of the array: expected an integer of 0 to 2147483647"}\n{"error":"expected a JSON array of ids"}' \
  detokenize "${o200k[@]}" --jsonl

refused 2 "--model-dir" '' tokenize
refused 2 "either" '' tokenize --model-dir x "${o200k[@]}"
refused 2 "--special" '' tokenize "${o200k[@]}" --special maybe
refused 2 "--offsets" '' tokenize "${o200k[@]}" --ofsets
refused 2 "encoding" '' tokenize --tokenizer "$data/nanochat_500.tiktoken"
refused 2 "unknown encoding" '' tokenize --tokenizer "$data/nanochat_500.tiktoken" --encoding gpt9
refused 1 "encoding" 'a' tokenize --tokenizer "$data/o200k_600.ie.bin"
refused 1 "cannot open" '' tokenize --tokenizer "$folder/nothing"
refused 1 "no such folder" '' tokenize --model-dir "$folder/nothing"
refused 1 "no tokenizer" '' tokenize --model-dir "$folder"
refused 1 "expected a tokenizer.json" '' tokenize --tokenizer "$data/README.md"
refused 2 "not valid JSON" '[1' detokenize "${o200k[@]}"
refused 2 "JSON array" '7' detokenize "${o200k[@]}"
refused 2 "id 1" '[1,-1]' detokenize "${o200k[@]}"

# A file of more than 1 MiB is packed, and not with --no-cache.
{ cat "$data/o200k_600.tokenizer.json" && head -c 1100000 /dev/zero | tr '\0' ' '; } >"$folder/tokenizer.json"
expect "a model directory" 'a' '[64]' tokenize --model-dir "$folder" --no-cache
{ [[ ! -e $folder/cache ]] || echo "the cache was written"; } | verdict "--no-cache writes nothing"
expect "a model directory, packed" 'a' '[64]' tokenize --model-dir "$folder"
packs=("$folder"/cache/clocher/*.pack)
{ [[ ${#packs[@]} -eq 1 && -s ${packs[0]} ]] || echo "found ${packs[*]}"; } | verdict "the tokenizer is packed"
expect "a model directory, from its pack" 'a' '[64]' tokenize --model-dir "$folder"
expect "a pack itself" '<|start|>' '[605]' tokenize --tokenizer "${packs[0]}"
echo damage | dd of="${packs[0]}" bs=1 seek=5000 conv=notrunc 2>/dev/null
refused 1 "checksum" '' tokenize --tokenizer "${packs[0]}"
expect "a damaged pack is replaced" 'a' '[64]' tokenize --model-dir "$folder"
expect "and whole again" '<|start|>' '[605]' tokenize --tokenizer "${packs[0]}"
finish
