#!/bin/bash
# Checks a machine with a GPU: what works, what is right, how fast it is. Runs from the folder that `make gpu-bundle`
# wrote, on a machine that has a driver and nothing else.
#
#   ./gpu_check.sh                      all stages
#   STAGES=smoke,correct ./gpu_check.sh some of them
#
#   smoke     the device, launch gaps, ceilings; each kernel against the CPU
#   correct   the golden models and everything around a forward; the program's tokens on both devices
#   sanitize  compute-sanitizer over the kernels and a forward, where the driver lets it
#   speed     a synthetic gpt-oss-20b: decode at batch 1 and 64, prefill, page cache to first token
#
# Environment: OUT        where results go (results); six files at most
#              LIMIT_S    seconds that one test may take (60); STAGE_S: that a stage may take (240)
#              MODEL      a gpt-oss-20b to measure with; else one is written to MODELS (/dev/shm or /tmp) and removed
#              SMALL=1    small probes, few tokens, a golden model for speed: to try the script itself
# Exit status 1 when a test failed.
set -u
cd "$(dirname "$0")" || exit 1
STAGES=${STAGES:-smoke,correct,sanitize,speed}
OUT=${OUT:-results}
LIMIT_S=${LIMIT_S:-60}
STAGE_S=${STAGE_S:-240}
SMALL=${SMALL:-}
program=./clocher.cuda
export LD_LIBRARY_PATH=$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} # libcmocka
mkdir -p "$OUT" || exit 1
OUT=$(cd "$OUT" && pwd)
passed=0
failed=0
skipped=0

say() { printf '%s\n' "$*" | tee -a "$log"; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }

# check NAME COMMAND...: runs it with a limit; its output goes to the stage's log, a line to the summary.
check() {
  local name=$1 begin status left printed
  shift
  begin=$(now)
  left=$(awk -v a="$stage_begin" -v b="$begin" -v most="$STAGE_S" -v one="$LIMIT_S" \
    'BEGIN { l = most - (b - a); if (l > one) l = one; printf "%d", l }')
  if [[ $left -lt 1 ]]; then
    skip "$name" "the stage has had its $STAGE_S s"
    return 0
  fi
  { echo; echo "--- $name: $*"; } >>"$log"
  printed=$(wc -l <"$log")
  timeout -k 5 "$left" "$@" >>"$log" 2>&1
  status=$?
  if [[ $status -eq 0 ]]; then
    passed=$((passed + 1))
    say "ok      $name ($(since "$begin") s)"
    return 0
  fi
  failed=$((failed + 1))
  if [[ $status -eq 124 || $status -eq 137 ]]; then
    say "FAILED  $name: no end after $left s"
  else
    say "FAILED  $name: status $status ($(since "$begin") s)"
    tail -n +$((printed + 1)) "$log" | head -n -1 | tail -n 12 | sed 's/^/        /'
  fi
  return 1
}

skip() {
  skipped=$((skipped + 1))
  say "skipped $1: $2"
}

environment() {
  echo "date: $(date -u +%Y-%m-%dT%H:%M:%SZ)"
  echo "commit: $(cat COMMIT 2>/dev/null || echo unknown)"
  echo "built for: $(cat ARCHS 2>/dev/null || echo unknown)"
  if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit --format=csv 2>&1
  else
    echo "gpu: no nvidia-smi"
  fi
  echo "system: $(uname -sr), $(nproc) processors, $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
}

# The kernels' tests and those of the device.
kernel_tests() { compgen -G 'tests/test_cuda_*'; }

# --- Stages --------------------------------------------------------------------------------------------------------

smoke() {
  check "the program starts and has a CUDA device" "$program" version --json --device cuda || return
  check "probes" ./tests/gpu_probe ${SMALL:+--small}
  grep -h '^{"device"' "$log" | tail -n 1
  for test in $(kernel_tests); do check "${test#tests/}" "./$test"; done
}

# The same greedy ids from both devices; in class fp32, where the distance is far below the gaps.
same_ids() {
  local model=$1 cpu cuda
  cpu=$("$program" run --model-dir "$model" --ids 1,2,3,4,5 --max-new "$new_tok" --precision fp32 --greedy --device cpu --json --quiet | ids_of) || return 1
  cuda=$("$program" run --model-dir "$model" --ids 1,2,3,4,5 --max-new "$new_tok" --precision fp32 --greedy --device cuda --json --quiet | ids_of) || return 1
  echo "cpu  $cpu"
  echo "cuda $cuda"
  [[ -n $cpu && $cpu == "$cuda" ]]
}
ids_of() { grep -oE '"new_ids":\[[0-9,]*\]' | head -n 1; }
export -f same_ids ids_of
new_tok=$([[ -n $SMALL ]] && echo 3 || echo 24)
export program new_tok

correct() {
  check "test_gpu_device" ./tests/test_gpu_device
  check "test_gpu_sample" ./tests/test_gpu_sample
  check "test_gpu_golden" ./tests/test_gpu_golden
  for model in tests/data/models/*/; do
    [[ -z $SMALL || $model == */qwen3/ || $model == */gpt-oss-hf/ ]] || continue
    check "ids of $(basename "$model") on both devices" bash -c 'same_ids "$1"' same_ids "${model%/}"
  done
}

sanitize() {
  local tool refusal
  tool=$(command -v compute-sanitizer || compgen -G '/usr/local/cuda*/bin/compute-sanitizer' | head -n 1)
  if [[ -z $tool ]]; then
    skip "compute-sanitizer" "it is not on this machine"
    return
  fi
  refusal=$(timeout -k 5 "$LIMIT_S" "$tool" --error-exitcode 9 ./tests/gpu_probe --small 2>&1)
  if grep -qiE 'not supported|Unable to|Internal Sanitizer Error|failed to (start|initialize)' <<<"$refusal"; then
    skip "compute-sanitizer" "$(grep -iE 'not supported|Unable to|Internal Sanitizer Error|failed to' <<<"$refusal" | head -n 1)"
    return
  fi
  for test in $(kernel_tests); do
    check "memcheck ${test#tests/}" "$tool" --tool memcheck --error-exitcode 9 "./$test"
    check "racecheck ${test#tests/}" "$tool" --tool racecheck --error-exitcode 9 "./$test"
  done
  for kind in memcheck initcheck synccheck racecheck; do
    check "$kind of a forward" "$tool" --tool $kind --error-exitcode 9 ./tests/test_gpu_golden 'replay_equals_launches gpt-oss-hf'
  done
}

# The field of the first line of --json output that has it.
field() { grep -oE "\"$1\":[-0-9.e+]+" | head -n 1 | cut -d: -f2; }

bench() {
  local name=$1 output
  shift
  check "$name" "$program" bench --model-dir "$model" --device cuda --json --quiet ${SMALL:+--probe-buffer 65536} "$@" || return
  output=$(grep '^{"phase"' "$log" | tail -n 1)
  say "        $(field tok_s_median <<<"$output") tok/s, $(field gb_s <<<"$output") GB/s, $(field tflop_s <<<"$output") TFLOP/s, ratio $(field ratio <<<"$output")"
}

speed() {
  local where written='' begin
  model=${MODEL:-}
  if [[ -z $model && -n $SMALL ]]; then
    model=tests/data/models/gpt-oss-hf
  elif [[ -z $model ]]; then
    where=${MODELS:-$([[ $(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1) -gt 20000000 ]] && echo /dev/shm || echo /tmp)}
    model=$where/clocher-gpt-oss-20b
    written=$model
    check "a synthetic gpt-oss-20b in $where" "$program" synth --arch gpt-oss-20b --out "$model" || return
  fi
  local tokens=${SMALL:+4} prompt=${SMALL:+32} runs=${SMALL:+1}
  # The second reading is from the page cache.
  for reading in first second; do
    begin=$(now)
    check "load and one token, $reading reading" "$program" run --model-dir "$model" --ids 1,2,3,4 --max-new 1 --device cuda --json
    say "        $(since "$begin") s from start to end of the process"
  done
  bench "decode, batch 1" --phase decode --batch 1 --tokens "${tokens:-128}" --runs "${runs:-5}"
  bench "decode, batch 64" --phase decode --batch "$([[ -n $SMALL ]] && echo 2 || echo 64)" --tokens "${tokens:-64}" --runs "${runs:-5}"
  bench "prefill 2048" --phase prefill --prompt "${prompt:-2048}" --chunk "${prompt:-2048}" --runs "${runs:-5}"
  bench "decode, batch 1, depth 8192" --phase decode --depth "${prompt:-8192}" --batch 1 --tokens "${tokens:-64}" --runs "${runs:-3}"
  check "overlap and drawing, both ways" ./tests/gpu_bench "$model" ${SMALL:+--small}
  check "prefill with wgmma and without, in chunks and whole" ./tests/gpu_prefill "$model" ${SMALL:+--small}
  grep -h '^{"bench"' "$log" | sed 's/^/        /' >>"$OUT/summary.txt"
  [[ -z $written ]] || rm -rf "$written"
}

# --- All ------------------------------------------------------------------------------------------------------------

log=$OUT/summary.txt
environment >"$log"
cat "$log"
for stage in ${STAGES//,/ }; do
  case $stage in
    smoke | correct | sanitize | speed) ;;
    *) echo "gpu-check: unknown stage '$stage', expected smoke, correct, sanitize or speed" >&2 && exit 2 ;;
  esac
  log=$OUT/$stage.txt
  environment >"$log"
  stage_begin=$(now)
  echo "== $stage"
  $stage
  say "$stage took $(since "$stage_begin") s"
  grep -E '^(ok|FAILED|skipped|       |[a-z]+ took) ' "$log" >>"$OUT/summary.txt"
done
log=$OUT/summary.txt
say "$passed passed, $failed failed, $skipped skipped"
exit $((failed > 0))
