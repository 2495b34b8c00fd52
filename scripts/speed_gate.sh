#!/usr/bin/env bash
# The speed gate: speed_gate.sh PROGRAM MODELS [update]
#
# Measures the rows of benchmarks/speed_gate.txt with `clocher bench`, and compares their shares of the ceiling with those
# of the baseline of this machine's kind, benchmarks/speed_gate_ISA_THREADS.txt: shares of what the memory gives in which
# the weights lie (ratio_mapped), or of the probe's memory (ratio) where they are quantised at load and so are copies. A row
# fails when it reaches less than 95% of its baseline. `update` writes the baseline instead.
#
# A row is measured until TRIES (3) runs were valid, 3 times as often at most, and its result is the best of them: a
# neighbour makes a run slower, nothing makes it faster. A row without a valid run has no result, and the gate says so with
# exit status 2; DISTURBED=1 takes any run. MODELS is a folder; a model that is missing there is synthesised (1.2 GB).
set -u
program=$1 models=$2 update=${3:-}
tries=${TRIES:-3}
rows=benchmarks/speed_gate.txt
case $update in '' | 1 | update) ;; *) echo "speed_gate: UPDATE=$update: expected 1" >&2; exit 2 ;; esac
case $tries in '' | *[!0-9]* | 0) echo "speed_gate: TRIES=$tries: expected a number from 1 on" >&2; exit 2 ;; esac
[ -r $rows ] || { echo "speed_gate: $rows is missing: run it from the repository's root" >&2; exit 2; }

value() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p" <<<"$2"; }

# The best valid ratio of a row, "void" without one; in $kind the machine's kind.
measure() {
  local model=$1 line ratio share=ratio_mapped valid=0
  shift
  case " $* " in *' --weights int'*) share=ratio ;; esac
  best=void
  for ((i = 0; i < 3 * tries && valid < tries; i++)); do
    line=$("$program" bench --model-dir "$models/$model" --json --quiet "$@") || { echo "speed_gate: $name: bench failed" >&2; exit 1; }
    kind=$(value isa "$line")_$(value threads "$line")
    ratio=$(value $share "$line")
    if [ "$(value valid "$line")" != true ] && [ -z "${DISTURBED:-}" ]; then continue; fi
    valid=$((valid + 1))
    if [ $best = void ] || awk "BEGIN { exit !($ratio > $best) }"; then best=$ratio; fi
  done
}

status=0 fresh=
while read -r name model flags; do
  case $name in '' | '#'*) continue ;; esac
  if [ ! -e "$models/$model/config.json" ]; then
    "$program" synth --arch "$model" --layout hf --out "$models/$model" --quiet || exit 1
  fi
  # shellcheck disable=SC2086 # flags are words
  measure "$model" $flags
  baseline=benchmarks/speed_gate_$kind.txt
  before=$(awk -v name="$name" '$1 == name { print $2 }' "$baseline" 2>/dev/null)
  fresh+="$name $best"$'\n'
  if [ "$best" = void ]; then
    verdict='VOID: no run was undisturbed'
    [ $status = 0 ] && status=2
  elif [ -n "$update" ]; then
    verdict=baseline
  elif [ -z "$before" ]; then
    verdict="no baseline in $baseline"
    [ $status = 0 ] && status=2
  elif awk "BEGIN { exit !($best < 0.95 * $before) }"; then
    verdict="FAIL: under 95% of $before"
    status=1
  else
    verdict="ok (baseline $before)"
  fi
  printf '%-32s %s  %s\n' "$name" "$best" "$verdict"
done <"$rows"
if [ -n "$update" ] && [ $status = 0 ]; then
  { echo "# Shares of the ceiling, written by: make speed-gate UPDATE=1" && printf '%s' "$fresh"; } >"$baseline"
elif [ -n "$update" ]; then
  echo "speed_gate: the baseline is not written: a row has no result" >&2
fi
exit $status
