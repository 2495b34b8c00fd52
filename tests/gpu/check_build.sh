#!/bin/bash
# The build with CUDA: where nvcc is, the kernels compile for one architecture and the program links; CPU and CUDA objects
# share no folder; both programs are the same whichever is built first; without a GPU it says so.
#
# That the order does not matter is shown by its parts: in an empty folder make would run the same commands, one for each
# object; a command that runs again gives the same bytes (nvcc's too); and both programs are linked in both orders.
. scripts/tap.sh

B=${CLOCHER_BUILD:-build}
make=(make --no-print-directory "B=$B")
probe=$("${make[@]}" cuda-probe 2>&1)
if [[ $? -ne 0 ]]; then
  skip "the kernels compile for one architecture" "${probe%%$'\n'*}"
  finish
fi
check "the kernels compile for one architecture and the program links" "${make[@]}" "-j$(nproc)" build-cuda
cuda=$B/clocher.cuda

{
  find "$B/src" "$B/cli" -name '*.o' -newer /dev/null | xargs -r nm -A 2>/dev/null | grep -m 3 -E ' U cuda[A-Z]'
  find "$B/cuda-obj" -name '*.o' -not -path '*/src/cuda/*' -not -path '*/tests/*'
} | verdict "CPU and CUDA objects share no folder"

# --- An empty folder: commands ---------------------------------------------------------------------------------------

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# commands TARGET...: what would be run for the targets one after the other, a command a line, sorted, that writes an object
# or a program; the folder is called B.
commands() {
  local target
  rm -rf "$folder/b"
  for target in "$@"; do make --no-print-directory -n -j1 "B=$folder/b" "$target"; done 2>&1 |
    sed "s,$folder/b,B,g" | grep -E ' -o B/' | sort -u
}
# The files that commands on stdin write.
outputs() { grep -oE ' -o B/[^ ]+' | sort; }
cpu=$(commands build)
both=$(commands build build-cuda)
{
  other=$(commands build-cuda build)
  [[ -n $cpu && $both == "$other" ]] || diff <(echo "$both") <(echo "$other") | head -n 10
  outputs <<<"$both" | uniq -d
  grep -qF ' -o B/clocher.cuda ' <<<"$both" || echo "nothing writes clocher.cuda"
} | head -n 20 | verdict "in an empty folder either order runs the same commands, and no file has two"
{
  outputs <<<"$cpu" | grep cuda-obj
  comm -13 <(echo "$cpu") <(echo "$both") | outputs | grep -vE ' B/(cuda-obj/src/cuda/[a-z_]+\.(cu\.)?o|clocher\.cuda)$'
  [[ $(comm -23 <(echo "$cpu") <(echo "$both") | wc -l) -eq 0 ]] || echo "the CPU's commands are others beside CUDA"
} | head -n 20 | verdict "CUDA adds objects of src/cuda in a folder of their own, and changes no command of the CPU"

again=$B/cuda-obj/src/cuda/kv.cu.o
{
  sum=$(sha256sum <"$again")
  rm -f "$again"
  "${make[@]}" "$again" >/dev/null 2>&1
  [[ $(sha256sum <"$again") == "$sum" ]] || echo "$again is another one"
} | verdict "kernels compiled again are the same bytes"

# --- This folder: binaries ---------------------------------------------------------------------------------------------

hashes() { sha256sum "$B/clocher" "$cuda" | cut -d' ' -f1; }
relink() {
  rm -f "$B/clocher" "$cuda"
  for target in "$@"; do "${make[@]}" "$target" >/dev/null 2>&1 || echo "make $target fails"; done
  hashes
}
first=$(relink build build-cuda)
second=$(relink build-cuda build)
{ [[ $first == "$second" ]] || printf 'build first: %s\nbuild-cuda first: %s\n' "$first" "$second"; } |
  verdict "linked in either order both programs are the same"
"${make[@]}" build build-cuda 2>&1 | grep -E '^ +(CC|NVCC|LINK)' | verdict "one build leaves the other up to date"

{ "$cuda" version --json --device cpu | grep -q '"cuda":true' || echo "features.cuda is not true"; } |
  verdict "version --json says cuda"
if [[ -e /dev/nvidia0 ]]; then
  skip "without a GPU --device cuda says why" "there is a GPU here"
else
  message=$("$cuda" version --device cuda 2>&1)
  { [[ $? -eq 1 && $message == *"device 'cuda':"* ]] || echo "$message"; } |
    verdict "without a GPU --device cuda says why, exit 1"
  note=$("$cuda" run --model-dir tests/data/models/qwen3 --ids 1,2 --max-new 2 --greedy --json 2>&1 >/dev/null)
  { [[ $note == *"computing on the CPU: "* ]] || echo "$note"; } | verdict "auto computes on the CPU and says why"
fi
finish
