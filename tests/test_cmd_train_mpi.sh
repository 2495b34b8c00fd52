#!/bin/bash
# clocher train under mpirun: the same run as by one process, to rounding or to the bit, and one end for all.
. scripts/tap.sh

program=${CLOCHER_BIN:-build/clocher}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# What the starter keeps behind is not ours to free.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
# Starters find each other through files here; a path must stay below 108 bytes.
export TMPDIR=/tmp

model=tests/data/models/gpt-oss-hf text=tests/data/bpe/hard.txt
settings=(--tokenizer "$folder/tok/tokenizer.json" --data $text --valid $text --steps 20 --batch 4 --seq 32 --lr 1e-3
  --precision fp32 --save-every 10 --keep 0 --quiet)
train() { # OUT FLAG...
  "$program" train base --model-dir $model "${settings[@]}" --out "$folder/$1" "${@:2}"
}
ranks() { # COUNT OUT FLAG...
  timeout 60 mpirun -n "$1" --oversubscribe "$program" train base --model-dir $model "${settings[@]}" --out "$folder/$2" "${@:3}"
}

# Metrics without what the clock says.
steps_of() { sed -E 's/"(tok_s|mfu|elapsed_s)":[^,}]*,?//g' "$folder/$1/metrics.jsonl"; }
# near A B KEY BOUND: offenders among two runs' values of a key.
near() {
  paste <(grep -o "\"$3\":[0-9.e+-]*" "$folder/$1/metrics.jsonl" | cut -d: -f2) \
    <(grep -o "\"$3\":[0-9.e+-]*" "$folder/$2/metrics.jsonl" | cut -d: -f2) |
    awk -v bound="$4" -v key="$3" '{ d = ($1 - $2) / $1; if (d < 0) d = -d; if (NF != 2 || d > bound) print key, "line", NR ":", $0 }
      END { if (NR == 0) print "no " key }'
}
same() { # A B FILE...
  for file in "${@:3}"; do cmp "$folder/$1/$file" "$folder/$2/$file" 2>&1; done
  diff <(steps_of "$1") <(steps_of "$2")
}

{
  OMPI_COMM_WORLD_SIZE=text train none 2>&1 --ranks wrong | grep -q "auto" || echo "no list of choices"
} | verdict "an unknown --ranks is refused"

if ! "$program" version --json | grep -q '"mpi":true'; then
  {
    OMPI_COMM_WORLD_SIZE=2 train none --data $text >/dev/null 2>"$folder/err" && echo "it ran alone"
    grep -q "MPI: not built" "$folder/err" || cat "$folder/err"
  } | verdict "without MPI a run under mpirun is refused"
  skip "training under mpirun" "this program was built without MPI"
  finish
fi
if ! command -v mpirun >/dev/null; then
  skip "training under mpirun" "mpirun is not installed"
  finish
fi

"$program" train tokenizer --text $text --vocab 259 --out "$folder/tok" --quiet
train one
train fixed --deterministic
ranks 2 two >"$folder/out" 2>&1 || sed 's/^/# /' "$folder/out"
ranks 2 fixed2 --deterministic >"$folder/out" 2>&1 || sed 's/^/# /' "$folder/out"

{
  near one two loss 1e-6
  near one two valid_loss 1e-6
  [[ $(wc -l <"$folder/two/metrics.jsonl") -eq $(wc -l <"$folder/one/metrics.jsonl") ]] || echo "other lines of metrics"
} | verdict "two processes: losses as of one within 1e-6"

same fixed fixed2 model.safetensors step-000010/model.safetensors | verdict "--deterministic: two processes, the same bits"

near one fixed loss 1e-5 | verdict "--deterministic changes the last digits only"

train balanced --balance 0.05 --micro 1
ranks 2 balanced2 --balance 0.05 --micro 1 >"$folder/out" 2>&1 || sed 's/^/# /' "$folder/out"
near balanced balanced2 loss 1e-6 | verdict "--balance with the same --micro: losses as of one within 1e-6"

# Sums begin during the backward: what is ready then is what there is at its end, however the backward is made.
ranks 2 recomputed --recompute >"$folder/out" 2>&1 || sed 's/^/# /' "$folder/out"
same two recomputed model.safetensors step-000010/model.safetensors | verdict "two processes with --recompute: the same bits"
ranks 2 halves --micro 1 >"$folder/out" 2>&1 || sed 's/^/# /' "$folder/out"
near one halves loss 1e-6 | verdict "two processes with --micro 1: losses as of one within 1e-6"

# Goes on from step 10 of two processes with three, and with one.
mkdir "$folder/three" "$folder/alone"
for to in three alone; do cp -r "$folder"/fixed2/{step-000010,*.ids} "$folder/$to"; done
ranks 3 three --deterministic --resume >"$folder/out" 2>&1 || sed 's/^/# /' "$folder/out"
train alone --deterministic --resume
for run in three alone; do
  {
    cmp "$folder/fixed/model.safetensors" "$folder/$run/model.safetensors" 2>&1
    diff <(steps_of fixed | tail -n 11) <(steps_of "$run")
  } | verdict "resumed with other processes ($run): the same bits"
done

# One process fails: all end, the message is said once and names the process.
{
  timeout 60 mpirun --oversubscribe -n 1 "$program" train base --model-dir $model "${settings[@]}" --out "$folder/x" : \
    -n 1 "$program" train base --model-dir "$folder/missing" "${settings[@]}" --out "$folder/x" >"$folder/out" 2>&1
  [[ $? -eq 1 ]] || echo "another exit code"
  [[ $(grep -c "^clocher: process 1 of 2: .*missing" "$folder/out") -eq 1 ]] || cat "$folder/out"
  [[ ! -e $folder/x/model.safetensors ]] || echo "it wrote a model"
} | verdict "a process that fails ends both, with its message"

# One is killed: the starter ends the others.
{
  timeout 60 mpirun --oversubscribe -n 2 bash -c '[[ $OMPI_COMM_WORLD_RANK -eq 0 ]] || exec timeout -s KILL 1 "$@"; exec "$@"' \
    - "$program" train base --model-dir $model "${settings[@]}" --steps 1000000 --save-every 0 --out "$folder/y" >"$folder/out" 2>&1
  code=$?
  [[ $code -ne 0 && $code -ne 124 ]] || echo "exit $code"
} | verdict "a process that is killed ends both"

{
  ranks 2 z --batch 1 >"$folder/out" 2>&1
  [[ $? -eq 2 ]] || echo "another exit code"
  grep -q "^clocher: " "$folder/out" || cat "$folder/out"
} | verdict "fewer rows than processes are refused"

finish
