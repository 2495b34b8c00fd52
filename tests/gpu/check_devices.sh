#!/bin/bash
# --device: what the program without CUDA and the one with it (over the emulator) say and exit with, for each word, with and
# without a driver, a device, memory; under both names of the program.
. scripts/tap.sh

B=${CLOCHER_BUILD:-build}
[[ -d $B ]] && B=$(cd "$B" && pwd)
model=tests/data/models/qwen3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
ln -s "$B/clocher.emulated" "$folder/clocher"
ln -s "$B/clocher.emulated" "$folder/inference-engine"
unset CLOCHER_ISA

# expect CODE WORDS EMULATE PROGRAM ARGUMENT...: exit code, words on stderr ("": nothing may stand there).
expect() {
  local code=$1 words=$2 emulate=$3 program=$4 status
  shift 4
  CLOCHER_EMULATE=$emulate "$program" "$@" >"$folder/stdout" 2>"$folder/stderr" </dev/null
  status=$?
  {
    [[ $status -eq $code ]] || echo "exit $status, expected $code: $(cat "$folder/stderr")"
    [[ -n $words || ! -s $folder/stderr ]] || echo "on stderr: $(cat "$folder/stderr")"
    [[ -z $words ]] || grep -qF -- "$words" "$folder/stderr" || echo "expected '$words', found: $(cat "$folder/stderr")"
    [[ $code -eq 0 || $program == */inference-engine || ! -s $folder/stdout ]] || echo "something on stdout"
  } | verdict "${program##*/}${emulate:+ ($emulate)} $*: exit $code"
}
printed() { grep -qF -- "$1" "$folder/stdout" || sed "s/^/no $1: /" "$folder/stdout"; }

# --- Without CUDA -----------------------------------------------------------------------------------------------------

cpu=$B/clocher
run=(run --model-dir $model --ids 1,2,3 --max-new 2 --greedy --json)
expect 0 "" "" "$cpu" version --device auto
expect 0 "" "" "$cpu" version --device cpu
for word in cuda cuda:0 cuda:1; do
  expect 1 "--device $word: not built (this program was built without CUDA)" "" "$cpu" version --device $word
  expect 1 "--device $word: not built (this program was built without CUDA)" "" "$cpu" "${run[@]}" --device $word
done
expect 1 "--device ze: not built (no build has Level Zero)" "" "$cpu" "${run[@]}" --device ze
for word in cuda:x cuda: cuda:-1 cuda:0x1 CUDA cuda1 gpu ""; do
  expect 2 "expected one of auto, cpu, cuda, cuda:N, ze; found '$word'" "" "$cpu" "${run[@]}" --device "$word"
done

# --- With CUDA ----------------------------------------------------------------------------------------------------------

cuda=$folder/clocher
[[ -x $B/clocher.emulated ]] || { skip "the program with CUDA" "$B/clocher.emulated is not built (no C++ compiler)" && finish; }
expect 0 "" "" "$cuda" "${run[@]}" --device cpu --quiet
printed '"device":"cpu"' | verdict "--device cpu computes there"
expect 0 "" "" "$cuda" "${run[@]}" --quiet
printed '"device":"cuda' | verdict "auto computes on the GPU"
expect 0 "" "devices=2" "$cuda" version --device cuda:1
expect 1 "device 'cuda:1': this machine has 1, cuda:0 to cuda:0" "" "$cuda" "${run[@]}" --device cuda:1
expect 1 "device 'cuda:2': this machine has 2, cuda:0 to cuda:1" "devices=2" "$cuda" version --device cuda:2
expect 1 "--device ze: not built (no build has Level Zero)" "" "$cuda" version --device ze
for word in cuda:x cuda: gpu; do
  expect 2 "expected one of auto, cpu, cuda, cuda:N, ze; found '$word'" "" "$cuda" version --device "$word"
done
expect 2 "unknown device 'cuda:99999999999'" "" "$cuda" version --device cuda:99999999999

# No driver, an old one, no GPU: named by --device cuda; auto computes on the CPU and says why.
why() {
  case $1 in
    driver=0) echo "no NVIDIA driver is installed" ;;
    driver=12080) echo "the NVIDIA driver is too old: it has CUDA 12.8, this program needs 13.0" ;;
    devices=0) echo "there is no NVIDIA GPU that CUDA can use" ;;
  esac
}
for lack in driver=0 driver=12080 devices=0; do
  for word in cuda cuda:1; do
    expect 1 "device '$word': $(why $lack)" $lack "$cuda" "${run[@]}" --device $word
  done
  expect 0 "computing on the CPU: $(why $lack)" $lack "$cuda" "${run[@]}"
  printed '"device":"cpu"' | verdict "auto with $lack computes on the CPU"
  expect 5 "$(why $lack)" $lack "$folder/inference-engine" --model-dir $model --prompt a --max-new 1 --device cuda
done
CLOCHER_ISA=scalar expect 1 "$(why driver=0)" driver=0 "$cuda" version --device cuda

# Memory that is full: what is wanted, what is free, what would fit.
named() {
  grep -qE "$1"': [0-9]+ bytes are wanted, [0-9]+ of [0-9]+ are free; --[a-z]+ [a-z0-9]+ would fit$' "$folder/stderr" ||
    cat "$folder/stderr"
}
expect 1 "out of memory for weights: " "memory=100000" "$cuda" "${run[@]}" --device cuda
named weights | verdict "weights: it names bytes and a flag"
weights=$(sed -nE 's/.*weights: ([0-9]+) bytes are wanted.*/\1/p' "$folder/stderr")
expect 1 "out of memory for " "memory=$((weights + 65536))" "$cuda" "${run[@]}" --device cuda --ctx 256
named '[a-z() 0-9]+' | verdict "a state: it names bytes and a flag"

# A device that is lost, early or late: a status, no hang.
run=(run --model-dir $model --ids 1,2,3 --max-new 4 --greedy)
for launch in 1 9 40 90; do
  expect 1 "unspecified launch failure" "fail=$launch" "$cuda" "${run[@]}" --device cuda
done
finish
