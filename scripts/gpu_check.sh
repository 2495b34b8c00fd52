#!/bin/bash
# Checks a machine with a GPU: what works, what is right, how fast it is. Runs from the folder that `make gpu-bundle`
# wrote, on a machine that has a driver and nothing else.
#
#   ./gpu_check.sh                      the first four stages
#   STAGES=smoke,correct ./gpu_check.sh some of them
#
#   smoke     the device, launch gaps, ceilings; each kernel against the CPU
#   correct   the golden models and everything around a forward; the program's tokens on both devices
#   sanitize  compute-sanitizer over a forward and the kernels, where the driver lets it
#   speed     a synthetic gpt-oss-20b: decode at batch 1 and 64, prefill, page cache to first token
#   profile   each kernel of a token and of a prefill by ncu; only where it is asked for
#
# Environment: OUT        where results go (results); six files at most: one a stage, and summary.txt
#              LIMIT_S    seconds that one test may take (60); STAGE_S: that a stage may take (240)
#              MODEL      a gpt-oss-20b to measure with; else one is written to MODELS (/dev/shm or /tmp) and removed at
#                         the end, unless KEEP=1
#              SMALL=1    small probes, few tokens, a golden model for speed: to try the script itself
# Exit status 1 when a test failed. What stands on the terminal is short (a failure shows ten lines); all of it is in OUT.
set -u
OUT=${OUT:-$(dirname "$0")/results}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 1
cd "$(dirname "$0")" || exit 1
STAGES=${STAGES:-smoke,correct,sanitize,speed}
LIMIT_S=${LIMIT_S:-60}
STAGE_S=${STAGE_S:-240}
SMALL=${SMALL:-}
program=./clocher.cuda
export LD_LIBRARY_PATH=$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} # libcmocka
passed=0
skipped=0
failed=()
written='' # a model of ours
trap '[[ -z $written || -n ${KEEP:-} ]] || rm -rf "$written"' EXIT
trap 'exit 130' INT TERM

say() { printf '%s\n' "$*" | tee -a "$log"; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }

# What a failed test's output, on stdin, says of the reason: the first lines that name an error, else the last ones.
reason() {
  local output lines=10
  output=$(cat)
  [[ ${#failed[@]} -le 5 ]] || lines=2 # the rest is in OUT: a terminal's end must not hide the first failures
  { grep -aE 'ERROR|error|FAILED|^=========|expected|out of memory|gpu_[a-z]+:|clocher:' <<<"$output" |
    grep -avE '^\[  FAILED  \] [0-9]+ test|^========= (COMPUTE|$)' || tail -n 6 <<<"$output"; } |
    head -n $lines | cut -c 1-160 | sed 's/^/        /'
}

# check NAME COMMAND...: runs it with a limit; its output goes to the stage's log, a line to the summary. What the kernel
# cannot end (a driver that waits for a GPU) is left behind: the next test runs in any case.
check() {
  local name=$1 begin status left printed ended
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
  exec {ended}< <(timeout -k 5 "$left" "$@" >>"$log" 2>&1 </dev/null; echo $?)
  read -r -t $((left + 15)) status <&"$ended" || status=left
  exec {ended}<&-
  if [[ $status == 0 ]]; then
    passed=$((passed + 1))
    say "ok      $name ($(since "$begin") s)"
    return 0
  fi
  failed+=("$name")
  case $status in
    124 | 137) say "FAILED  $name: no end after $left s" ;;
    left) say "FAILED  $name: no end after $left s, and it cannot be ended" ;;
    *) say "FAILED  $name: status $status ($(since "$begin") s)" ;;
  esac
  tail -n +$((printed + 1)) "$log" | head -n -1 | reason
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
    timeout -k 5 20 nvidia-smi \
      --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit --format=csv 2>&1
  else
    echo "gpu: no nvidia-smi"
  fi
  echo "system: $(uname -sr), $(nproc) processors, $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
}

# A tool of CUDA's, wherever it lies.
tool_find() { command -v "$1" || compgen -G "/usr/local/cuda*/bin/$1" | head -n 1; }

# The tests of the kernels.
kernel_tests() { compgen -G 'tests/test_cuda_*'; }

# --- Stages --------------------------------------------------------------------------------------------------------

smoke() {
  check "the program starts and has a CUDA device" "$program" version --json --device cuda || return
  check "probes" ./tests/gpu_probe ${SMALL:+--small}
  grep -h '^{"device"' "$log" | tail -n 1 | sed 's/^/        /' | tee -a "$log"
  for test in $(kernel_tests); do check "${test#tests/}" "./$test"; done
}

# The same greedy ids from both devices; in class fp32, where the distance is far below the gaps.
same_ids() {
  local model=$1 cpu cuda
  cpu=$("$program" run --model-dir "$model" --ids 1,2,3,4,5 --max-new "$new_tok" --precision fp32 --greedy --device cpu --json --quiet | ids_of) || return 1
  cuda=$("$program" run --model-dir "$model" --ids 1,2,3,4,5 --max-new "$new_tok" --precision fp32 --greedy --device cuda --json --quiet | ids_of) || return 1
  [[ -n $cpu && $cpu == "$cuda" ]] || echo "expected $cpu, found $cuda"
  [[ -n $cpu && $cpu == "$cuda" ]]
}
ids_of() { grep -oE '"new_ids":\[[0-9,]*\]' | head -n 1; }
export -f same_ids ids_of
new_tok=$([[ -n $SMALL ]] && echo 3 || echo 24)
export program new_tok

correct() {
  local models
  for test in tests/test_gpu_*; do
    [[ $test == */test_gpu_golden ]] || check "${test#tests/}" "./$test"
  done
  models=$(timeout -k 5 "$LIMIT_S" ./tests/test_gpu_golden --list)
  [[ -n $models ]] || check "test_gpu_golden" ./tests/test_gpu_golden
  for model in $models; do check "test_gpu_golden $model" ./tests/test_gpu_golden "* $model"; done
  for model in tests/data/models/*/; do
    [[ -z $SMALL || $model == */qwen3/ || $model == */gpt-oss-hf/ ]] || continue
    check "ids of $(basename "$model") on both devices" bash -c 'same_ids "$1"' same_ids "${model%/}"
  done
}

# An event that is not ready yet is an answer and no error, so memcheck does not look at what calls return; the tests do.
sanitize_one() {
  local kind=$1 name=$2 options=()
  shift 2
  [[ $kind != memcheck ]] || options=(--report-api-errors no)
  check "$kind $name" "$tool" --tool "$kind" "${options[@]}" --print-limit 20 --error-exitcode 9 "$@"
}

sanitize() {
  local tool refusal
  tool=$(tool_find compute-sanitizer)
  if [[ -z $tool ]]; then
    skip "compute-sanitizer" "it is not on this machine"
    return
  fi
  refusal=$(timeout -k 5 "$LIMIT_S" "$tool" --report-api-errors no --error-exitcode 9 ./tests/gpu_probe --small 2>&1)
  printf '%s\n' "$refusal" >>"$log"
  if grep -qiE 'not supported|Unable to|Internal Sanitizer Error|failed to (start|initialize)' <<<"$refusal"; then
    skip "compute-sanitizer" "$(grep -iE 'not supported|Unable to|Internal Sanitizer Error|failed to' <<<"$refusal" | head -n 1)"
    return
  fi
  # Races first: the other kinds say little that the emulator has not said.
  for kind in racecheck memcheck synccheck initcheck; do
    sanitize_one $kind "of a forward" ./tests/test_gpu_golden 'replay_equals_launches gpt-oss-hf'
  done
  for kind in racecheck memcheck; do
    for test in $(kernel_tests); do sanitize_one $kind "${test#tests/}" "./$test"; done
  done
}

# The field of the first line of --json output that has it, in five digits.
field() { grep -oE "\"$1\":[-0-9.e+]+" | head -n 1 | cut -d: -f2 | awk '{ printf "%.5g", $1 }'; }

bench() {
  local name=$1 output
  shift
  check "$name" "$program" bench --model-dir "$model" --device cuda --json --quiet ${SMALL:+--probe-buffer 65536} "$@" || return
  output=$(grep '^{"phase"' "$log" | tail -n 1)
  say "        $(field tok_s_median <<<"$output") tok/s, $(field gb_s <<<"$output") GB/s, $(field tflop_s <<<"$output") TFLOP/s, ratio $(field ratio <<<"$output")"
}

# What is measured with; written once for all stages.
model_find() {
  local where
  model=${MODEL:-}
  [[ -z $model && -n $SMALL ]] && model=tests/data/models/gpt-oss-hf
  [[ -z $model ]] || return 0
  where=${MODELS:-$([[ $(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1) -gt 20000000 ]] && echo /dev/shm || echo /tmp)}
  model=$where/clocher-gpt-oss-20b
  [[ -z $written ]] || return 0
  written=$model
  [[ -z ${KEEP:-} || ! -f $model/config.json ]] || return 0
  # Under 60 s is what it should take; a slow disk alone must not take the measurements along.
  LIMIT_S=180 check "a synthetic gpt-oss-20b in $where" "$program" synth --arch gpt-oss-20b --out "$model" && return
  rm -rf "$written"
  written=''
  return 1
}

speed() {
  local begin output
  model_find || return
  local tokens=${SMALL:+4} prompt=${SMALL:+32} runs=${SMALL:+1}
  # The second reading is from the page cache; in /dev/shm the first one is, too. The time is that of the whole process.
  for reading in first second; do
    begin=$(now)
    check "load and one token, $reading reading" "$program" run --model-dir "$model" --ids 1,2,3,4,5,6,7,8 --max-new 1 --device cuda --json || continue
    output=$(grep '"ttft_s"' "$log" | tail -n 1)
    say "        $(since "$begin") s from the start to the end of the process; opened in $(field load_s <<<"$output") s, first token $(field ttft_s <<<"$output") s after that"
  done
  bench "decode, batch 1" --phase decode --batch 1 --tokens "${tokens:-128}" --runs "${runs:-5}"
  bench "decode, batch 64" --phase decode --batch "$([[ -n $SMALL ]] && echo 2 || echo 64)" --tokens "${tokens:-64}" --runs "${runs:-5}"
  bench "prefill 2048" --phase prefill --prompt "${prompt:-2048}" --chunk "${prompt:-2048}" --runs "${runs:-5}"
  bench "decode, batch 1, depth 8192" --phase decode --depth "${prompt:-8192}" --batch 1 --tokens "${tokens:-64}" --runs "${runs:-3}"
  for test in tests/gpu_bench tests/gpu_prefill; do
    [[ ! -x $test ]] || check "${test#tests/}: what can be switched, both ways" "./$test" "$model" ${SMALL:+--small}
  done
  grep -h '^{"bench"' "$log" | sed -E 's/[{}"]//g; s/^bench://; s/,(note:)?$//; s/^/        /' | tee -a "$log"
}

# Sums of ncu's table by kernel and grid: launches, microseconds each and together, GB/s read, share of the memory's peak.
kernels_sum() {
  awk '
    /^"ID"/ { n = split(substr($0, 2, length($0) - 2), name, /","/); for (i = 1; i <= n; i++) at[name[i]] = i; next }
    !/^"[0-9]+","/ || !n { next }
    {
      split(substr($0, 2, length($0) - 2), f, /","/)
      kernel = f[at["Kernel Name"]]
      sub(/^void /, "", kernel); gsub(/\([A-Za-z0-9_]+\)/, "", kernel); sub(/\(.*/, "", kernel)
      key = kernel " " f[at["Grid Size"]]
      metric = f[at["Metric Name"]]; value = f[at["Metric Value"]]; gsub(/,/, "", value)
      if (metric ~ /duration/) { count[key]++; ns[key] += value; all += value }
      if (metric ~ /bytes_read/) bytes[key] += value
      if (metric ~ /throughput/) share[key] += value
    }
    END {
      for (k in count)
        printf "%9.1f us %5.1f%%  %4d x %8.2f us  %7.0f GB/s  %5.1f%% of peak  %s\n", ns[k] / 1e3, 100 * ns[k] / all,
          count[k], ns[k] / 1e3 / count[k], bytes[k] / ns[k], share[k] / count[k], k
      printf "%9.1f us together\n", all / 1e3
    }' | sort -rn | head -n 16 | cut -c 1-140
}

# profile_one NAME SKIP COUNT FLAG...: COUNT launches of a bench run, after SKIP of them.
profile_one() {
  local name=$1 first=$2 count=$3 from
  shift 3
  from=$(wc -l <"$log")
  check "ncu: $name" "$tool" --csv --print-units base --print-kernel-base demangled --clock-control none --launch-skip "$first" --launch-count "$count" \
    --metrics gpu__time_duration.sum,dram__bytes_read.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed \
    "$program" bench --model-dir "$model" --device cuda --json --quiet --runs 1 --probe-buffer 65536 "$@" || return
  tail -n +$((from + 1)) "$log" | kernels_sum | sed 's/^/        /' | tee -a "$log"
}

# Launches come one after the other under ncu, with cold caches: times are longer than in a run, their shares say where.
profile() {
  local tool
  tool=$(tool_find ncu)
  if [[ -z $tool ]]; then
    skip "ncu" "it is not on this machine"
    return
  fi
  model_find || return
  profile_one "decode, batch 1" 900 290 --phase decode --batch 1 --tokens 8
  profile_one "decode, batch 64" 900 290 --phase decode --batch 64 --tokens 8
  profile_one "prefill 2048" 400 340 --phase prefill --prompt 2048 --chunk 2048
}

# --- All ------------------------------------------------------------------------------------------------------------

for stage in ${STAGES//,/ }; do
  case $stage in
    smoke | correct | sanitize | speed | profile) ;;
    *) echo "gpu-check: unknown stage '$stage', expected smoke, correct, sanitize, speed or profile" >&2 && exit 2 ;;
  esac
done
log=$OUT/summary.txt
environment >"$log"
cat "$log"
for stage in ${STAGES//,/ }; do
  log=$OUT/$stage.txt
  environment >"$log"
  stage_begin=$(now)
  echo "== $stage"
  $stage
  say "$stage took $(since "$stage_begin") s"
  grep -aE '^(ok|FAILED|skipped|       |[a-z]+ took) ' "$log" >>"$OUT/summary.txt"
done
log=$OUT/summary.txt
say "$passed passed, ${#failed[@]} failed, $skipped skipped${failed[0]:+; failed: $(printf '%s; ' "${failed[@]}")}"
exit $((${#failed[@]} > 0))
