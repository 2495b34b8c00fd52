#!/bin/bash
# clocher train base, sft and lora: a run is what its flags say, whatever stops it, and its folder is a model.
. scripts/tap.sh

program=${CLOCHER_BIN:-build/clocher}
models=tests/data/models
text=tests/data/training/oz.txt
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# A model that is made: a tiny gpt-oss with MXFP4 experts, and a tokenizer of its own.
made=$folder/made
"$program" train tokenizer --text $text --vocab 320 --out "$made" --quiet
cp tests/data/training/gpt-oss/config.json "$made"

# train PART OUT FLAG...: a quiet run.
train() {
  local part=$1 out=$2
  shift 2
  "$program" train "$part" --out "$folder/$out" --quiet "$@"
}
size=(--batch 2 --seq 32)
base=(--model-dir "$made" --data $text "${size[@]}" --lr 3e-3)

# Metrics without what a clock says.
metrics() { sed -E 's/"(tok_s|mfu|elapsed_s)":[^,}]*,?//g' "$folder/$1/metrics.jsonl"; }
# same A B: the same model (or adapter) and metrics, to the bit.
same() {
  local file
  for file in model.safetensors adapter_model.safetensors; do
    [[ ! -e $folder/$1/$file && ! -e $folder/$2/$file ]] || cmp "$folder/$1/$file" "$folder/$2/$file" 2>&1
  done
  [[ -e $folder/$1/model.safetensors || -e $folder/$1/adapter_model.safetensors ]] || echo "$1: nothing is trained"
  diff <(metrics "$1") <(metrics "$2") >"$folder/diff" || head -4 "$folder/diff"
}
# value FILE KEY: its values, one a line.
values() { grep -oE "\"$2\":[^,}]*" "$1" | cut -d: -f2; }

# ids STEPS B T VOCAB FILE [CALM]: a safetensors file with `data`, I32 (steps, B, T). The first CALM steps have two ids.
ids() {
  local bytes=$(($1 * $2 * $3 * 4)) header
  header="{\"data\":{\"dtype\":\"I32\",\"shape\":[$1,$2,$3],\"data_offsets\":[0,$bytes]}}"
  while ((${#header} % 8)); do header+=' '; done
  {
    printf "\\x$(printf %02x $((${#header} % 256)))\\x00\\x00\\x00\\x00\\x00\\x00\\x00%s" "$header"
    awk -v n=$(($1 * $2 * $3)) -v vocab="$4" -v calm=$((${6:-0} * $2 * $3)) 'BEGIN {
      for (i = x = 1; i <= n; i++) {
        x = (x * 1103 + 12345) % 65521
        printf "\\%03o\\000\\000\\000", x % (i > calm ? vocab : 2)
      }
    }' | { read -r line || printf "$line"; }
  } >"$5"
}

# --- To the bit ---------------------------------------------------------------------------------------------------

# resumed NAME PART FLAG...: eight steps, and the last four of them gone on with from the snapshot of step 4.
resumed() {
  local name=$1 part=$2
  shift 2
  rm -rf "$folder/once" "$folder/again"
  train "$part" once --steps 8 --save-every 4 --keep 0 "$@" 2>&1 | verdict "$name: eight steps"
  mkdir -p "$folder/again"
  cp -r "$folder/once/step-000004" "$folder/once/metrics.jsonl" "$folder/again"
  echo '{"step":5,"loss"' >>"$folder/again/metrics.jsonl" # as a kill leaves it
  {
    train "$part" again --steps 8 --save-every 4 --resume "$@"
    same once again
    [[ $(values "$folder/again/metrics.jsonl" step | tr '\n' ' ') == "1 2 3 4 5 6 7 8 " ]] || echo "the steps of the metrics"
  } 2>&1 | verdict "$name: resumed from step 4, the same to the bit"
}
resumed adamw base "${base[@]}" --schedule cosine --warmup 2 --balance 0.01
resumed "muon, rates of its own" base "${base[@]}" --optimizer muon --embedding-lr 3e-3 --head-lr 1e-3 --scalar-lr 2e-3
resumed adamw8bit base "${base[@]}" --optimizer adamw8bit
resumed "stored steps, begun before" base "${base[@]}" --stored-steps 6
resumed "stored steps, begun after" base "${base[@]}" --stored-steps 2 --layout stream
cp -r "$folder/once" "$folder/model"
rm -rf "$folder/model"/step-* "$folder/model"/*.ids

ids 8 2 24 131 "$folder/ids.safetensors"
given=(--data-ids "$folder/ids.safetensors" --batch 2 --lr 1e-3)
resumed "a published model with MXFP4 experts" sft --model-dir $models/gpt-oss-hf-v5 "${given[@]}"
resumed "lora of a tied output matrix" lora --model-dir $models/qwen3 "${given[@]}" --lora r=4,alpha=8,targets=lm_head+q_proj
{
  for name in A B; do
    grep -qaF "\"base_model.model.lm_head.lora_$name.weight\"" "$folder/once/adapter_model.safetensors" || echo "no lora_$name of lm_head"
  done
  values "$folder/once/metrics.jsonl" loss | awk 'NR == 1 { first = $1 } END { if (!($1 < first)) print "loss " first " to " $1 }'
  "$program" logits --model-dir $models/qwen3 --adapter "$folder/once" --ids 1,2,3 --out "$folder/logits" --quiet || echo "logits"
  "$program" merge --model-dir $models/qwen3 --adapter "$folder/once" --out "$folder/unmerged" 2>&1 |
    grep -qF "that the model does not have: lm_head.weight" || echo "it is merged into the embedding"
} 2>&1 | verdict "lora of a tied output matrix: its pair is written and used, and cannot be merged"
resumed lora lora --model-dir $models/gpt-oss-hf "${given[@]}" --lora r=4,alpha=8

train base short "${base[@]}" --steps 4 --save-every 4
train base short "${base[@]}" --steps 8 --save-every 4 --resume
train base long "${base[@]}" --steps 8 --threads 1
train base two "${base[@]}" --steps 8 --threads 2
train base recomputed "${base[@]}" --steps 8 --recompute
same short long | verdict "4 steps, and 4 more in another run, are 8 steps"
same long two | verdict "1 thread = 2 threads, to the bit"
same long recomputed | verdict "--recompute changes no bit"
train base whole --model-dir "$made" --data $text --lr 3e-3 --seq 32 --steps 4 --batch 4 --precision fp32
train base parts --model-dir "$made" --data $text --lr 3e-3 --seq 32 --steps 4 --batch 4 --precision fp32 --micro 1
paste <(values "$folder/whole/metrics.jsonl" loss) <(values "$folder/parts/metrics.jsonl" loss) |
  awk 'function abs(x) { return x < 0 ? -x : x }
    abs($1 - $2) > 1e-6 * $1 { print "step " NR ": " $1 " and " $2 } END { if (NR != 4) print NR " steps" }' |
  verdict "--micro 1 = the whole batch within 1e-6"

# --- Rates of their own ---------------------------------------------------------------------------------------------

# offsets MODEL TENSOR: the file's bytes [begin, end) of a tensor.
offsets() {
  local header
  header=$(od -An -t u8 -N 8 "$1" | tr -d ' ')
  head -c $((8 + header)) "$1" | tail -c "$header" | grep -oE "\"$2\":[^}]*" | grep -oE '\[[0-9]+,[0-9]+\]' | tr -d '[]' |
    tail -n 1 | awk -F, -v at=$((8 + header)) '{ print at + $1, at + $2 }'
}
still=(--model-dir "$folder/model" --data $text "${size[@]}" --lr 1e-12 --steps 1) # a second step would see other gradients
train base still "${still[@]}"
for group in "embedding model.embed_tokens.weight" "head lm_head.weight" "scalar model.norm.weight"; do
  read -r name tensor <<<"$group"
  train base "own-$name" "${still[@]}" "--$name-lr" 0.01
  offsets "$folder/still/model.safetensors" "$tensor" | read -r begin end
  cmp -l "$folder/still/model.safetensors" "$folder/own-$name/model.safetensors" |
    awk -v name="$name" -v begin="$begin" -v end="$end" '{ $1 > begin && $1 <= end ? inside++ : outside++ }
      END { if (!inside || (name != "scalar" && outside)) print inside + 0 " bytes of it changed, " outside + 0 " others" }' |
    verdict "--$name-lr steps its parameters and no others"
done
train base by-name "${base[@]}" --steps 4
train base by-group "${base[@]}" --steps 4 --embedding-lr 3e-3 --head-lr 3e-3 --scalar-lr 3e-3
same by-name by-group | verdict "rates of groups that are --lr change no bit"
{
  "$program" train base --out "$folder/plan" "${base[@]}" --steps 4 --optimizer muon --head-lr 1e-3 --dry-run |
    grep ' tensors ' | sed -E 's/ +/ /g' | diff - <(
      echo " matrices 14 tensors 123392 parameters muon, rate 0.003"
      echo " embeddings 1 tensors 20480 parameters adamw, rate 4.5e-05"
      echo " head 1 tensors 20480 parameters adamw, rate 0.001"
      echo " scalars 21 tensors 2256 parameters adamw, rate 4.5e-05"
    )
  echo '{"embedding_lr": 0.25}' >"$folder/rates.json"
  "$program" train base --out "$folder/plan" "${base[@]}" --steps 4 --config "$folder/rates.json" --dry-run |
    grep -q 'embeddings .*, rate 0.25$' || echo "the file's rate does not act"
  cp -r "$folder/short" "$folder/rated"
  "$program" train base --out "$folder/rated" "${base[@]}" --steps 9 --resume --head-lr 1e-3 2>&1 |
    grep -qF -- "--head-lr was not set, is 0.001 from here on" || echo "--resume does not say that a rate was set"
  "$program" train lora --model-dir $models/gpt-oss-hf "${given[@]}" --steps 1 --out "$folder/unrated" --head-lr 1e-3 2>&1 |
    grep -qF -- "--head-lr is ignored" || echo "a rate without parameters is not named"
} 2>&1 | verdict "rates of groups: in the plan, in a file of flags, where a run goes on"

# --- A model that is learned ----------------------------------------------------------------------------------------

head -c 3000 $text >"$folder/valid.txt"
train base learned --model-dir "$made" --data $text --valid "$folder/valid.txt" --batch 8 --seq 64 --lr 6e-3 \
  --steps 40 --stored-steps 40 --save-every 40 --precision fp32 2>&1 | verdict "40 steps"
{
  values "$folder/learned/metrics.jsonl" loss | tail -1 | awk '$1 > 4.2 { print "loss " $1 ", ln(320) is 5.77" }'
  "$program" inspect "$folder/learned" >/dev/null || echo "inspect refuses it"
  "$program" run --model-dir "$folder/learned" --prompt "Dorothy lived in the" --max-new 8 --greedy >"$folder/answer" 2>"$folder/err" ||
    cat "$folder/err"
  [[ -s $folder/answer ]] || echo "it says nothing"
  # A step at rate 0 of what was written: its evaluation is the one that the run ended with.
  train base read --model-dir "$folder/learned" --data $text --valid "$folder/valid.txt" --batch 8 --seq 64 --lr 0 \
    --steps 1 --precision fp32
  diff <(values "$folder/learned/metrics.jsonl" valid_loss) <(values "$folder/read/metrics.jsonl" valid_loss) || echo "another loss"
} 2>&1 | verdict "from config.json alone: the loss falls, and what is written is what was computed with"

# --- Stops --------------------------------------------------------------------------------------------------------

train base straight "${base[@]}" --steps 30
kills=0
for ((i = 0; i < 25; i++)); do
  timeout -s KILL "$((i / 10)).$((i % 10))5" "$program" train base --out "$folder/killed" --quiet "${base[@]}" --steps 30 --save-every 2 \
    --resume 2>"$folder/err" && break
  kills=$((kills + 1))
done 2>/dev/null
{
  ((i < 25)) || train base killed "${base[@]}" --steps 30 --save-every 2 --resume
  same straight killed
} 2>&1 | verdict "killed and resumed until it ends: the same to the bit"
echo "# killed $kills times"

# stopped OUT SIGNAL FLAG...: a run that gets a signal once its first step is made; its exit code is the status.
stopped() {
  local out=$1 signal=$2 i
  shift 2
  # What a script starts in the background ignores SIGINT, and the program leaves that as it is.
  env --default-signal=INT "$program" train base --out "$folder/$out" "$@" 2>"$folder/err" &
  local pid=$!
  for ((i = 0; i < 1200; i++)); do
    [[ ! -s $folder/$out/metrics.jsonl ]] || break
    sleep 0.05
  done
  for name in $signal; do
    kill -"$name" $pid 2>/dev/null
    sleep 0.05
  done
  wait $pid
}
train base unstopped "${base[@]}" --steps 400
for signal in INT:130 TERM:143; do
  rm -rf "$folder/stopped"
  {
    stopped stopped "${signal%:*}" "${base[@]}" --steps 400
    code=$?
    [[ $code -eq ${signal#*:} ]] || echo "exit $code: $(cat "$folder/err")"
    done=$(cd "$folder/stopped" && echo step-*)
    grep -q "^clocher: stopped after step $((10#${done#step-})); a snapshot is kept" "$folder/err" || cat "$folder/err"
    [[ $((10#${done#step-})) -lt 400 && ! -e $folder/stopped/model.safetensors ]] || echo "it came to its end"
    train base stopped "${base[@]}" --steps 400 --resume
    same unstopped stopped
  } 2>&1 | verdict "SIG${signal%:*}: the step is finished, a snapshot, exit ${signal#*:}, and resumed the same to the bit"
done
for i in 1 2 3 4 5 6; do cat $text; done >"$folder/longer.txt"
{
  stopped twice "TERM TERM" --model-dir "$made" --data "$folder/longer.txt" --batch 320 --seq 256 --lr 1e-3 --steps 100 --threads 1
  code=$?
  [[ $code -eq 143 ]] || echo "exit $code: $(cat "$folder/err")"
  ! ls -d "$folder/twice"/step-* 2>/dev/null || echo "it was not at once"
} 2>&1 | verdict "a second signal ends at once"

# An infinite weight: the first number behind the header of the model.
cp -r "$folder/model" "$folder/infinite"
header=$(od -An -t u8 -N 8 "$folder/model/model.safetensors" | tr -d ' ')
offset=$(head -c $((8 + header)) "$folder/model/model.safetensors" | tail -c "$header" |
  grep -oE '"model.norm.weight":[^}]*' | grep -oE '\[[0-9]+,[0-9]+\]' | tr -d '[' | cut -d, -f1)
printf '\x80\x7f' | dd of="$folder/infinite/model.safetensors" bs=1 seek=$((8 + header + offset)) conv=notrunc status=none
train base nan --model-dir "$folder/infinite" --data $text "${size[@]}" --lr 1e-3 --steps 4 --save-every 1 2>"$folder/err"
{
  code=$?
  [[ $code -eq 1 ]] || echo "exit $code"
  grep -qE 'step 1: .*(NaN|nan|inf)' "$folder/err" || cat "$folder/err"
  [[ ! -e $folder/nan/model.safetensors ]] || echo "a model was written"
} | verdict "a number that is not finite is named with its step, exit 1"

# After 30 steps of two ids come others: the loss jumps.
ids 34 2 24 128 "$folder/spike.safetensors" 30
"$program" train sft --model-dir $models/qwen3 --out "$folder/spike" --data-ids "$folder/spike.safetensors" --batch 2 \
  --lr 1e-3 --steps 34 --save-every 2 --keep 1 2>"$folder/err"
{
  grep -q '"step":31,.*"warning":"loss spike"' "$folder/spike/metrics.jsonl" || echo "no warning in the metrics"
  grep -q "step 31: loss spike" "$folder/err" && grep -q "the snapshot of step 30 stays" "$folder/err" || cat "$folder/err"
  (cd "$folder/spike" && echo step-*) | grep -vx "step-000030 step-000034"
} | verdict "a loss spike is named, and the snapshot before it stays"

# --- One run in a folder ------------------------------------------------------------------------------------------

"$program" train base --out "$folder/held" --quiet "${base[@]}" --steps 1000000 --save-every 1000000 2>"$folder/err" &
pid=$!
for ((i = 0; i < 200; i++)); do [[ ! -s $folder/held/metrics.jsonl ]] || break; sleep 0.05; done
{
  train base held "${base[@]}" --steps 4 --resume 2>"$folder/err"
  code=$?
  [[ $code -eq 1 ]] || echo "exit $code"
  grep -q "another run writes into this folder" "$folder/err" || cat "$folder/err"
} | verdict "a second run in a folder is refused"
kill -TERM $pid
wait $pid 2>/dev/null

# --- Memory -------------------------------------------------------------------------------------------------------

large=(--model-dir "$made" --data $text --batch 64 --seq 128 --lr 1e-3 --steps 2)
planned=$("$program" train base "${large[@]}" --out "$folder/plan" --dry-run | awk '$1 == "peak" { print $2 }')
"$program" train base "${large[@]}" --out "$folder/plan" --quiet &
pid=$!
peak=0
while [[ -r /proc/$pid/status ]] && read -r _ kb _ < <(grep VmHWM /proc/$pid/status); do
  ((kb > peak)) && peak=$kb
  sleep 0.02
done 2>/dev/null
wait $pid
if [[ $program == *san* ]]; then
  skip "the plan's peak" "a sanitizer takes memory of its own"
else
  awk -v planned="$planned" -v kb="$peak" 'BEGIN {
    mb = kb * 1024e-6; d = planned / mb - 1
    if (d > 0.05 || d < -0.05) printf "planned %.1f MB, found %.1f\n", planned, mb
  }' | verdict "--dry-run: the peak within 5%"
fi

# --- Configuration --------------------------------------------------------------------------------------------------

cat >"$folder/run.json" <<END
{"model-dir": "$made", "data": "$text", "batch": 2, "seq": 32, "steps": 8, "lr": 3e-3, "threads": 1, "recompute": false,
 "save_every": 4, "out": "$folder/configured", "quiet": true}
END
{
  "$program" train base --config "$folder/run.json"
  same long configured
  rm -rf "$folder/repeated"
  train base repeated --config "$folder/configured/train_config.json"
  same long repeated
  diff "$folder/configured/train_config.json" "$folder/repeated/train_config.json" | grep '^[<>]' | grep -v '"out"'
} 2>&1 | verdict "--config: the same run, and what it wrote down is the run again"
{
  train base shorter --config "$folder/run.json" --steps 2
  [[ $(values "$folder/shorter/metrics.jsonl" step | tail -1) == 2 ]] || echo "--steps did not win"
} 2>&1 | verdict "the command line wins over --config"

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
  } | verdict "train ${*//$folder/DIR}: exit $code"
}
config() {
  printf '%s' "$1" >"$folder/bad.json"
  refused "$2" "$3" base --config "$folder/bad.json"
}
config '{"stepz": 3}' 2 "unknown key 'stepz'; the nearest is steps"
config '{"steps": 1.5}' 2 "steps: expected an integer, found a real number"
config '{"optimizer": "sgd"}' 2 "expected one of adamw"
config '{"steps": 3' 2 "line 1"
config '[1]' 2 "expected an object of flags, found a list"
config '{"command": "train lora"}' 2 "it is for the command 'train lora'"
config '{"steps": 3}' 2 "--model-dir D is missing"
refused 1 "none.json" base --config "$folder/none.json"

# --- What is refused ------------------------------------------------------------------------------------------------

new=(base --model-dir "$made" --out "$folder/x" --steps 3 --batch 2)
refused 2 "--lr F is missing" "${new[@]}" --data $text
refused 2 "one of --data and --data-ids" "${new[@]}" --lr 1
refused 2 "--lr: expected a number" "${new[@]}" --data $text --lr nan
refused 2 "expected two numbers" "${new[@]}" --data $text --lr 1 --betas 0.9
refused 2 "expected two numbers" "${new[@]}" --data $text --lr 1 --betas 0.9,1
refused 2 "above 0" "${new[@]}" --data $text --lr 1 --eps 0
refused 1 "none.txt" "${new[@]}" --data $text --lr 1 --seq 32 --valid "$folder/none.txt"
echo notes >"$folder/notes.jsonl"
refused 2 "is there already" "${new[@]}" --data $text --lr 1 --metrics "$folder/notes.jsonl"
check "a file that is refused for the metrics stays" grep -qx notes "$folder/notes.jsonl"
refused 2 "context is 256" "${new[@]}" --data $text --lr 1 --seq 257
refused 2 "for \`train lora\`" "${new[@]}" --data $text --lr 1 --lora r=1
refused 2 "--eval-every needs --valid" "${new[@]}" --data $text --lr 1 --eval-every 1
refused 2 "all of the data are" "${new[@]}" --data $text --lr 1 --batch 300 --seq 64
refused 1 "none.txt" "${new[@]}" --data "$folder/none.txt" --lr 1
: >"$folder/empty.txt"
refused 1 "at least two tokens" "${new[@]}" --data "$folder/empty.txt" --lr 1
refused 1 "does not hold this run" "${new[@]}" --data $text --lr 1 --seq 32 --memory 1MB
refused 1 "ignored: train base does not use it" base --model-dir "$folder/missing" --out "$folder/x" --steps 1 --batch 2 \
  --data $text --lr 1 --weights int4
refused 2 "wizard" "${new[@]}" --data $text --lr 1 --chat-format wizard
refused 2 "own folder" base --model-dir "$made" --out "$made" --steps 3 --batch 2 --data $text --lr 1
refused 2 "holds a run already" base "${base[@]}" --out "$folder/long" --steps 9
refused 2 "it stands after step 8" base "${base[@]}" --out "$folder/short" --resume --steps 3
refused 2 "expected r=8" lora --model-dir "$folder/model" --out "$folder/x" --data $text --steps 1 --batch 2 --lr 1 --lora r=0
refused 2 "called 'foo'" lora --model-dir "$folder/model" --out "$folder/x" --data $text --steps 1 --batch 2 --lr 1 \
  --lora targets=foo
qwen=(sft --model-dir $models/qwen3 --out "$folder/y" --lr 1 --data-ids "$folder/ids.safetensors")
refused 1 "no tokenizer in it" sft --model-dir $models/qwen3 --out "$folder/x" --data $text --steps 1 --batch 2 --lr 1
refused 2 "it holds 8 steps, 9 were asked for" "${qwen[@]}" --batch 2 --steps 9
refused 2 "2 rows of 24 tokens, 3 rows" "${qwen[@]}" --batch 3 --steps 8
ids 2 2 24 200 "$folder/beyond.safetensors"
refused 2 "step 1: token" sft --model-dir $models/qwen3 --out "$folder/y" --lr 1 --data-ids "$folder/beyond.safetensors" \
  --batch 2 --steps 2

# Another run than the one that is gone on with.
again=(--resume --steps 8)
{
  cp -r "$folder/short" "$folder/changed"
  "$program" train base --out "$folder/changed" "${base[@]}" "${again[@]}" --save-every 4 --clip 0.5 2>"$folder/err" || cat "$folder/err"
  grep -qF -- "--clip was 1.0, is 0.5 from here on" "$folder/err" || cat "$folder/err"
  [[ $(grep -c "from here on" "$folder/err") -eq 1 ]] || cat "$folder/err"
} | verdict "--resume says what was changed"
refused 2 "precision \"bf16\", this one has \"fp32\"" base "${base[@]}" --out "$folder/short" "${again[@]}" --precision fp32
refused 2 "had balance 0.0, this one has 0.5" base "${base[@]}" --out "$folder/short" "${again[@]}" --balance 0.5
cp -r "$made" "$folder/spaced"
echo >>"$folder/spaced/config.json"
refused 2 "had config.json " base "${base[@]}" --model-dir "$folder/spaced" --out "$folder/short" "${again[@]}"
ids 8 2 24 130 "$folder/other.safetensors"
lora=(lora --model-dir $models/gpt-oss-hf --batch 2 --lr 1e-3 --out "$folder/again" "${again[@]}")
refused 2 "had content of the data " "${lora[@]}" --data-ids "$folder/other.safetensors" --lora r=4,alpha=8
refused 2 "had adapter's r 4, this one has 2" "${lora[@]}" --data-ids "$folder/ids.safetensors" --lora r=2,alpha=8
refused 2 "had adapter's alpha 8.0, this one has 4.0" "${lora[@]}" --data-ids "$folder/ids.safetensors" --lora r=4,alpha=4
ids 8 2 257 131 "$folder/wide.safetensors"
refused 2 "context is 256" "${new[@]}" --lr 1 --data-ids "$folder/wide.safetensors" --dry-run
refused 2 "2 rows of 24 tokens, 3 rows" "${qwen[@]}" --batch 3 --steps 8 --dry-run

# --- Rows -----------------------------------------------------------------------------------------------------------

# Prompts that fill their rows have no target: such a batch is passed over, as long as there are others.
prompt='The Wonderful Wizard of Oz, of whom they had heard so much, lived in a city far away'
for i in 1 2 3 4 5 6; do echo "{\"prompt\": \"$i $prompt\", \"completion\": \" yes\"}"; done >"$folder/prompts.jsonl"
{ cat "$folder/prompts.jsonl" && echo '{"prompt": "A", "completion": " no"}'; } >"$folder/mixed.jsonl"
rows=(--model-dir "$folder/model" --batch 1 --seq 16 --lr 1e-3 --steps 4)
{
  train sft mixed "${rows[@]}" --data "$folder/mixed.jsonl" --save-every 2
  [[ $(values "$folder/mixed/metrics.jsonl" tokens | wc -l) == 4 ]] || echo "not four steps"
  mkdir "$folder/mixed-again"
  cp -r "$folder/mixed/step-000002" "$folder/mixed/metrics.jsonl" "$folder/mixed-again"
  train sft mixed-again "${rows[@]}" --data "$folder/mixed.jsonl" --save-every 2 --resume
  same mixed mixed-again
} 2>&1 | verdict "a batch without a target is passed over, and so it is after --resume"
refused 1 "no token of the data is a target" sft "${rows[@]}" --data "$folder/prompts.jsonl" --out "$folder/z"

evaluated=(--model-dir "$made" --data $text --batch 1 --seq 32 --lr 0 --steps 1 --valid)
{
  train base valid-packed "${evaluated[@]}" "$folder/valid.txt" --layout packed
  train base valid-whole "${evaluated[@]}" "$folder/valid.txt" --layout whole
  for key in valid_loss bits_per_byte valid_targets; do
    [[ $(values "$folder/valid-packed/metrics.jsonl" $key) == $(values "$folder/valid-whole/metrics.jsonl" $key) ]] ||
      echo "$key: $(tail -qn 1 "$folder"/valid-{packed,whole}/metrics.jsonl)"
  done
  values "$folder/valid-whole/metrics.jsonl" bits_per_byte | awk '!($1 > 1) { print $1 " bits" }'
  train base valid-masked "${evaluated[@]}" "$folder/mixed.jsonl"
  values "$folder/valid-masked/metrics.jsonl" bits_per_byte | awk '$1 != 0 { print $1 " bits of completions" }'
} 2>&1 | verdict "--valid: all of a text whatever the layout, no bits per byte of completions"

# --- What is seen ---------------------------------------------------------------------------------------------------

"$program" train base --out "$folder/seen" "${base[@]}" --steps 3 --valid "$folder/valid.txt" --eval-every 2 --sample-every 3 \
  --sample-prompt "The Witch" --plot "$folder/seen.png" 2>"$folder/err" >"$folder/out"
{
  [[ $? -eq 0 && ! -s $folder/out ]] || echo "exit, or something on stdout"
  grep -qE '^step 3/3  loss [0-9.]+  lr 3.00e-03  norm [0-9.]+  [0-9]+ tok/s  mfu [0-9.]+%  0:00 left$' "$folder/err" || echo "no line of step 3"
  grep -q '^step 2  valid loss' "$folder/err" || echo "no evaluation of step 2"
  grep -q '^step 3  sample: The Witch' "$folder/err" || echo "no sample"
  for key in step loss lr grad_norm tokens tok_s mfu elapsed_s; do
    head -1 "$folder/seen/metrics.jsonl" | grep -q "\"$key\":" || echo "no $key in the metrics"
  done
  [[ ! -s $folder/seen.png ]] || head -c 4 "$folder/seen.png" | grep -q PNG || echo "the plot is no PNG"
  sed '/sample:/,$d' "$folder/err" | grep -q $'\r' && echo "a terminal's line in a file"
  true
} >"$folder/seen.log"
verdict "lines, evaluation, sample, metrics" <"$folder/seen.log"

# Lines that are no metrics of a later step stay, whatever they are.
mkdir "$folder/noted"
printf '%s\n' notes '{"step":9}' '{"step":9,"loss":1.0}' '{"step":1,"loss' >"$folder/noted.jsonl"
printf 'no end of a line' >>"$folder/noted.jsonl"
{
  train base noted "${base[@]}" --steps 1 --resume --metrics "$folder/noted.jsonl"
  cut -c 1-17 "$folder/noted.jsonl" |
    diff - <(printf '%s\n' notes '{"step":9}' 'no end of a line' '{"step":1,"loss":')
} 2>&1 | verdict "--resume cuts metrics of later steps alone"

# A text with ids that the model does not have: evaluations fail, and the run goes on.
"$program" train tokenizer --text $text --vocab 600 --out "$folder/wide" --quiet
{
  train sft unknown --model-dir $models/qwen3 "${given[@]}" --steps 2 --eval-every 1 --valid "$folder/valid.txt" \
    --tokenizer "$folder/wide/tokenizer.json" 2>"$folder/err" || echo "exit $?"
  [[ $(grep -c '^clocher: warning: step [12]: no evaluation: ' "$folder/err") -eq 2 ]] || cat "$folder/err"
  [[ -s $folder/unknown/model.safetensors ]] || echo "no model"
} | verdict "an evaluation that fails is a warning, and the run goes on"

# A prompt that fills the context is a warning; what is sampled near its end is shorter.
long=$(head -c 3000 $text | tr '\n' ' ')
"$program" train base --out "$folder/unsampled" "${base[@]}" --steps 2 --sample-every 1 --sample-prompt "$long" \
  2>"$folder/err"
{
  code=$?
  [[ $code -eq 0 && -s $folder/unsampled/model.safetensors ]] || echo "exit $code, or no model"
  [[ $(grep -c "^clocher: warning: step [12]: no sample: .*context is 256" "$folder/err") -eq 2 ]] || cat "$folder/err"
} | verdict "a sample that fails is a warning, and the run goes on"
"$program" train base --out "$folder/sampled" "${base[@]}" --steps 1 --sample-every 1 --sample-prompt "${long:0:320}" \
  2>"$folder/err"
check "a sample ends with the context" grep -q '^step 1  sample: ' "$folder/err"

# ignored FLAG ARGUMENT...: one line names the flag, and no other is named.
ignored() {
  local flag=$1
  shift
  "$program" train base --out "$folder/ignored$flag" --steps 1 "$@" 2>&1 | grep "is ignored" >"$folder/ignored"
  sed 's/: [^:]*$//' "$folder/ignored" | diff - <(echo "clocher: $flag is ignored")
}
{
  ignored --betas "${base[@]}" --optimizer muon --betas 0.9,0.9
  ignored --eps "${base[@]}" --optimizer muon --eps 1e-9
  ignored --final-factor "${base[@]}" --final-factor 0.5
  ignored --step-every "${base[@]}" --schedule cosine --step-every 3
  ignored --balance --model-dir $models/qwen3 "${given[@]}" --balance 0.1
  ignored --keep "${base[@]}" --keep 3
  # What a run writes down holds the defaults too: they are not named.
  mv "$folder/ignored--keep/train_config.json" "$folder/written.json"
  rm -rf "$folder/ignored--keep"
  ignored --keep --config "$folder/written.json"
} | verdict "a flag that does nothing is named"
finish
