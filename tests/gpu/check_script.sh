#!/bin/bash
# scripts/gpu_check.sh over the emulator: every stage up to what only a GPU can answer, at most six result files, a test
# that hangs is ended, a wrong answer fails, an unknown stage is refused.
. scripts/tap.sh

B=${CLOCHER_BUILD:-build}
[[ -d $B ]] && B=$(cd "$B" && pwd)
program=$B/clocher.emulated
[[ -x $program ]] || { skip "gpu_check.sh" "$program is not built (no C++ compiler)" && finish; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
bundle=$folder/bundle
mkdir -p "$bundle/tests/data"
cp scripts/gpu_check.sh "$bundle/"
ln -s "$program" "$bundle/clocher.cuda"
ln -s "$PWD/tests/data/models" "$bundle/tests/data/models"
ln -s "$B"/emulated/gpu/{gpu_probe,gpu_bench,gpu_prefill,test_gpu_sample} "$bundle/tests/"
printf '#!/bin/sh\nexit 0\n' >"$bundle/tests/test_gpu_device" # it has run by itself
chmod +x "$bundle/tests/test_gpu_device"
printf '#!/bin/sh\nexit 0\n' >"$bundle/tests/test_gpu_golden"
chmod +x "$bundle/tests/test_gpu_golden"
echo none >"$bundle/COMMIT"

run() { SMALL=1 OUT=$folder/out "$@" "$bundle/gpu_check.sh" >"$folder/log" 2>&1; }
run env STAGES=smoke,correct,sanitize,speed
{ [[ $? -eq 0 ]] || cat "$folder/log"; } | verdict "all stages pass over the emulator"
{ [[ $(find "$folder/out" -type f | wc -l) -le 6 ]] || ls "$folder/out"; } | verdict "there are at most six result files"
for word in date: commit: 'passed, 0 failed' 'tok/s'; do
  grep -qF "$word" "$folder/out/summary.txt" || echo "no '$word' in summary.txt"
done | verdict "the summary has date, commit, counts and speeds"

printf '#!/bin/sh\nsleep 100\n' >"$bundle/tests/test_gpu_golden"
run env STAGES=correct LIMIT_S=2
{ [[ $? -eq 1 ]] && grep -q 'FAILED  test_gpu_golden: no end after 2 s' "$folder/log" || cat "$folder/log"; } |
  verdict "a test that hangs is ended and counts as failed"
printf '#!/bin/sh\nexit 3\n' >"$bundle/tests/test_gpu_golden"
run env STAGES=correct
{ [[ $? -eq 1 ]] && grep -q 'FAILED  test_gpu_golden: status 3' "$folder/log" || cat "$folder/log"; } |
  verdict "a test that fails makes the status 1"
run env STAGES=smoke,quick
{ [[ $? -eq 2 ]] || cat "$folder/log"; } | verdict "an unknown stage is refused"
finish
