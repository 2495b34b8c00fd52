#!/bin/bash
# Files of at most 800 lines, functions and macros of at most 80, at most 7 parameters. Exceptions stand in
# exceptions.txt, each with its reason; one that nothing needs any more is an error too.
. "$(dirname "$0")/common.sh"

exceptions=${LINT_EXCEPTIONS:-$LINT_DIR/exceptions.txt}
# shellcheck disable=SC2086
files_in "c h cu cuh" $C_FOLDERS | mapfile -t files
found=()
if [[ ${#files[@]} -gt 0 ]]; then
  awk -v LINES=800 -v FUNCTION=80 -v PARAMETERS=7 -f "$LINT_DIR/sizes.awk" "${files[@]}" | mapfile -t found
fi

used=()
# Whether an exception covers kind, path and name; notes the one that does.
excepted() {
  local kind path name reason line=0
  while read -r kind path name reason; do
    line=$((line + 1))
    [[ -z $kind || $kind == \#* ]] && continue
    # shellcheck disable=SC2053
    if [[ $1 == "$kind" && $2 == $path && $3 == $name ]]; then
      used[line]=1
      return 0
    fi
  done <"$exceptions"
  return 1
}

remaining=()
for entry in "${found[@]}"; do
  read -r kind path name number limit <<<"$entry"
  excepted "$kind" "$path" "$name" || remaining+=("$kind $path $name $number $limit")
done
for kind in lines function parameters; do
  case $kind in
    lines) title="files have at most 800 lines" ;;
    function) title="functions and macros have at most 80 lines" ;;
    parameters) title="functions have at most 7 parameters" ;;
  esac
  printf '%s\n' "${remaining[@]}" | awk -v kind=$kind '$1 == kind { print $2 ": " $3 ": " $4 ", allowed " $5 }' |
    verdict "$title"
done

line=0
while read -r kind path name reason; do
  line=$((line + 1))
  [[ -z $kind || $kind == \#* ]] && continue
  if [[ -z $reason ]]; then echo "line $line: no reason"; fi
  if [[ -z ${used[line]:-} ]]; then echo "line $line: nothing needs it any more: $kind $path $name"; fi
done <"$exceptions" | verdict "each exception is needed and has a reason"
finish
