#!/bin/bash
# Words that must not stand in the project (words.txt), shell scripts that do not parse, and text hygiene.
. "$(dirname "$0")/common.sh"

patterns=$(mktemp)
trap 'rm -f "$patterns"' EXIT
grep -vE '^(#|$)' "$LINT_DIR/words.txt" >"$patterns"

project_files | grep -vE '^scripts/lint/words\.txt$' | mapfile -t files
existing=()
for file in "${files[@]}"; do [[ -f $file ]] && existing+=("$file"); done
printf '%s\0' "${existing[@]}" | xargs -0r grep -nIE -f "$patterns" -- /dev/null | cut -c1-200 |
  verdict "no machine paths, private hosts or credentials"

for file in "${existing[@]}"; do
  case $file in *.c | *.h | *.sh | *.mk | *.md | *.txt | *.awk | *.py | Makefile | .ci/run)
    # What a model wrote stays as it wrote it.
    case $file in *corpus* | *golden/* | tests/data/* | docs/demo-samples.md) continue ;; esac
    grep -qI $'\r' "$file" && echo "$file: carriage returns"
    grep -nIE '[ 	]+$' "$file" | head -n 1 | sed "s|^\([0-9]*\):.*|$file:\1: spaces at the end of the line|"
    [[ -s $file && -n $(tail -c 1 "$file") ]] && echo "$file: no newline at the end"
    ;;
  esac
done | verdict "no spaces at ends of lines, newline at the end of files"

for file in "${existing[@]}"; do
  [[ $file == *.sh || $file == .ci/run ]] || continue
  bash -n "$file" 2>&1
  [[ -x $file || $file == scripts/lint/common.sh || $file == scripts/tap.sh ]] || echo "$file: not executable"
done | verdict "shell scripts parse and are executable"

for file in "${existing[@]}"; do
  size=$(stat -c %s "$file")
  limit=$((4 << 20))
  [[ $file == demo/model/model.safetensors ]] && limit=$((16 << 20))
  [[ $size -le $limit ]] || echo "$file: $size bytes"
done | verdict "no file is larger than 4 MiB, the model that ships than 16 MiB"
finish
