#!/bin/bash
# scripts/gpu_check.sh over the emulator: every stage up to what only a GPU can answer, at most six result files, a test
# that hangs is ended and the next one runs, a wrong answer fails and its reason is shown, the whole is short, an unknown
# stage is refused. CUDA's tools are stood in for by scripts.
. scripts/tap.sh

B=${CLOCHER_BUILD:-build}
[[ -d $B ]] && B=$(cd "$B" && pwd)
program=$B/clocher.emulated
[[ -x $program ]] || { skip "gpu_check.sh" "$program is not built (no C++ compiler)" && finish; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
bundle=$folder/bundle
mkdir -p "$bundle/tests/data" "$folder/bin"
cp scripts/gpu_check.sh "$bundle/"
ln -s "$program" "$bundle/clocher.cuda"
ln -s "$PWD/tests/data/models" "$bundle/tests/data/models"
ln -s "$B"/emulated/gpu/gpu_* "$bundle/tests/"
ln -s "$B/emulated/test_cuda_rows" "$bundle/tests/"
echo none >"$bundle/COMMIT"

# script FILE LINE...: an executable one of these lines.
script() {
  local file=$1
  shift
  printf '%s\n' '#!/bin/bash' "$@" >"$file"
  chmod +x "$file"
}
# What has run by itself: two golden models, and the device.
golden() { script "$bundle/tests/test_gpu_golden" '[[ $1 == --list ]] && echo one && echo two && exit' "$@" true; }
golden
script "$bundle/tests/test_gpu_device"
# compute-sanitizer runs what stands behind its options; ncu prints a table.
script "$folder/bin/compute-sanitizer" 'echo "========= COMPUTE-SANITIZER"; echo "$*" >>'"$folder/sanitized" \
  'while [[ $1 == --* ]]; do shift; [[ $1 == ./* || $1 == --* ]] || shift; done; "$@"'
row() { printf '"%s","1","x","x","void %s<(a)1>(args)","1","1","(32, 1, 1)","(%s, 1, 1)","0","9.0","s","%s","u","%s"\n' "$@"; }
{
  echo '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"'
  for i in 0 1; do
    row $i few 7 gpu__time_duration.sum 1,000
    row $i few 7 dram__bytes_read.sum 2,000,000
    row $i few 7 dram__throughput.avg.pct_of_peak_sustained_elapsed 50
  done
} >"$folder/table"
script "$folder/bin/ncu" "cat $folder/table"

run() { (cd "$folder" && PATH=$folder/bin:$PATH SMALL=1 OUT=out "$@" bundle/gpu_check.sh >"$folder/log" 2>&1); }
run env STAGES=smoke,correct,sanitize,speed,profile
{ [[ $? -eq 0 ]] || cat "$folder/log"; } | verdict "all stages pass over the emulator"
{ [[ $(find "$folder/out" -type f | wc -l) -le 6 && ! -e $bundle/out ]] || ls "$folder/out"; } |
  verdict "there are at most six result files, in OUT as the caller means it"
for word in date: commit: 'passed, 0 failed' 'tok/s' '"matrix_tflop_s":' 'first token' 'ids:drawn' 'test_gpu_golden two' \
  'memcheck test_cuda_rows' '2 x     1.00 us     2000 GB/s   50.0% of peak  few<1> (7, 1, 1)'; do
  grep -qF -- "$word" "$folder/out/summary.txt" || echo "no '$word' in summary.txt"
  grep -qF -- "$word" "$folder/log" || echo "no '$word' on the terminal"
done | verdict "summary and terminal have date, commit, counts, speeds, ceilings and kernels"
{ [[ $(wc -c <"$folder/log") -le 12000 ]] || wc -c "$folder/log"; } | verdict "the terminal has at most 12,000 characters"
{
  grep -c 'tool memcheck --report-api-errors no' "$folder/sanitized" | grep -qx 2 || cat "$folder/sanitized"
  grep -q 'tool racecheck .*replay_equals_launches gpt-oss-hf' "$folder/sanitized" || cat "$folder/sanitized"
} | verdict "compute-sanitizer gets a forward and each kernel's test"

script "$folder/bin/compute-sanitizer" 'echo "========= Error: Device not supported. Please refer to the manual."; exit 1'
run env STAGES=sanitize
{ [[ $? -eq 0 ]] && grep -q 'skipped compute-sanitizer: ========= Error: Device not supported' "$folder/log" || cat "$folder/log"; } |
  verdict "a driver that compute-sanitizer refuses skips the stage, with its own message"

golden 'case $1 in *one) sleep 100 ;; esac'
run env STAGES=correct LIMIT_S=3
{ [[ $? -eq 1 ]] && grep -q 'FAILED  test_gpu_golden one: no end after 3 s' "$folder/log" &&
  grep -q 'ok      test_gpu_golden two' "$folder/log" || cat "$folder/log"; } |
  verdict "a test that hangs is ended and counts as failed, and the next one runs"
golden 'for i in 1 2 3; do echo "[ RUN      ] test $i"; echo "[  ERROR   ] --- number $i is wrong"; done' \
  'for i in $(seq 40); do echo noise; done; echo "[  FAILED  ] 3 test(s), listed below:"; exit 3'
run env STAGES=correct
{ [[ $? -eq 1 ]] && grep -q 'FAILED  test_gpu_golden one: status 3' "$folder/log" &&
  grep -q 'number 1 is wrong' "$folder/log" && grep -q 'failed: test_gpu_golden one; test_gpu_golden two' "$folder/log" ||
  cat "$folder/log"; } | verdict "a test that fails makes the status 1, and its first errors are shown"
run env STAGES=smoke,quick
{ [[ $? -eq 2 ]] || cat "$folder/log"; } | verdict "an unknown stage is refused"
finish
