#!/bin/bash
# Runs tests, counts them, and says so. Called by the Makefile, which gives B, MAKE and JOBS.
#
#   scripts/test.sh all STAGE...          every stage by its make target, then the summary
#   scripts/test.sh one STAGE             the same for one stage
#   scripts/test.sh run STAGE PROGRAM...  the programs of one stage; called by make
#   scripts/test.sh program STAGE PROGRAM one of them
#
# A program speaks cmocka's or TAP. One line is printed for each; the whole output of those that failed too (every
# log stays in $B/logs). A program that ends with a status other than 0 and names no failed test counts as one
# failed test. For another machine TEST_RUNNER stands before each compiled test, and TEST_PROGRAM is a script that runs
# the program. Results go to $RESULTS: stage, program, passed, failed, skipped, seconds.
set -u
B=${B:-build}
RESULTS=${RESULTS:-$B/results}
export RESULTS
LIMIT_S=${TEST_LIMIT_S:-900}

# A stage's make has job slots of its own: those of the make that called this script are not ours to use.
[[ ${MAKEFLAGS:-} =~ (^| )-j([0-9]+) ]] && JOBS=${BASH_REMATCH[2]}
MAKEFLAGS=$(sed -E 's/(^| )-j[0-9]*//; s/ ?--jobserver-[a-z]+=[^ ]*//g' <<<"${MAKEFLAGS:-}")
export MAKEFLAGS

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }
record() { printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$@" >>"$RESULTS"; }

# Prints "passed failed skipped" of one log. cmocka states totals for each group of tests; TAP has a line a test.
count() {
  awk '
    /^\[  PASSED  \] [0-9]+ test/ { passed += $4 }
    /^\[  FAILED  \] [0-9]+ test/ { failed += $4 }
    /^\[  SKIPPED \] [0-9]+ test/ { skipped += $4 }
    /^ok .*# SKIP/ { skipped++; next }
    /^ok /     { passed++ }
    /^not ok / { failed++ }
    END { print passed + 0, failed + 0, skipped + 0 }' "$1"
}

# ThreadSanitizer cannot start where the kernel spreads addresses wider than it knows.
prefix=()
no_randomisation() { setarch "$(uname -m)" -R true 2>/dev/null && prefix=(setarch "$(uname -m)" -R); }

run_program() {
  local stage=$1 program=$2 name log start runner status passed failed skipped
  name=$(basename "$program" .sh)
  log=$B/logs/$stage-$name.log
  start=$(now)
  [[ $stage == tsan ]] && no_randomisation
  read -ra runner <<<"${TEST_RUNNER:-}"
  [[ $program != *.sh ]] || runner=()
  CLOCHER_BIN=${TEST_PROGRAM:-$B/clocher} CLOCHER_BUILD=$B timeout -k 10 "$LIMIT_S" "${prefix[@]}" "${runner[@]}" \
    "$program" >"$log" 2>&1 </dev/null
  status=$?
  read -r passed failed skipped <<<"$(count "$log")"
  if [[ $status -ne 0 && $failed -eq 0 ]]; then
    failed=1
    echo "not ok - $name ended with status $status$([[ $status -eq 124 ]] && echo " (over $LIMIT_S s)")" >>"$log"
  elif [[ $((passed + failed + skipped)) -eq 0 ]]; then
    failed=1
    echo "not ok - $name ran no test" >>"$log"
  fi
  record "$stage" "$name" "$passed" "$failed" "$skipped" "$(since "$start")"
  if [[ $failed -gt 0 ]]; then
    printf 'FAIL  %-9s %-28s (%s)\n' "$stage" "$name" "$log"
    tail -n 200 "$log"
    return 1
  fi
  printf 'ok    %-9s %-28s %5d passed%s  %s s\n' "$stage" "$name" "$passed" \
    "$([[ $skipped -gt 0 ]] && echo ", $skipped skipped")" "$(since "$start")"
  grep -hE '^ok .*# SKIP' "$log" | sed -E 's/^ok[^#]*- */      skipped: /; s/ # SKIP/:/'
  return 0
}

run_stage() {
  local stage=$1 width=1
  shift
  mkdir -p "$B/logs" "$(dirname "$RESULTS")"
  # What the caller's environment says to the program must not decide a test.
  [[ $stage == scalar ]] || unset CLOCHER_ISA
  export XDG_CACHE_HOME=$PWD/$B/cache
  [[ $B != /* ]] || XDG_CACHE_HOME=$B/cache
  # Here most programs keep one core busy for long; elsewhere some compare times, and run alone.
  case $stage in asan | scalar | emulated) width=$(nproc) ;; esac
  printf '%s\0' "$@" | xargs -0 -n 1 -P "$width" "$0" program "$stage"
}

# A stage whose target fails without a failed test did not build: that is one failed test as well.
make_stage() {
  local stage=$1 start
  printf '== %s\n' "$stage"
  start=$(now)
  if ! ${MAKE:-make} --no-print-directory ${JOBS:+-j$JOBS} "B=$B" "test-$stage"; then
    awk -F'\t' -v s="$stage" '$1 == s && $4 > 0 { found = 1 } END { exit !found }' "$RESULTS" ||
      record "$stage" "(build)" 0 1 0 0
  fi
  printf '%s\t%s\n' "$stage" "$(since "$start")" >>"$RESULTS.times"
}

summary() {
  echo
  awk -F'\t' '
    FNR == NR { seconds[$1] = $2; order[++n] = $1; next }
    { passed[$1] += $3; failed[$1] += $4; skipped[$1] += $5 }
    END {
      printf "%-10s %7s %7s %8s %9s\n", "stage", "passed", "failed", "skipped", "seconds"
      for (i = 1; i <= n; i++) {
        s = order[i]
        printf "%-10s %7d %7d %8d %9.1f%s\n", s, passed[s], failed[s], skipped[s], seconds[s],
          s in passed ? "" : "  (no test)"
      }
    }' "$RESULTS.times" "$RESULTS"
  awk -F'\t' '$4 > 0 { printf "failed: %s %s\n", $1, $2 }' "$RESULTS"
  awk -F'\t' '{ p += $3; f += $4; s += $5 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 || p == 0 }' \
    "$RESULTS"
}

case ${1:-} in
  run) shift && run_stage "$@" ;;
  program) shift && run_program "$@" ;;
  all | one)
    shift
    mkdir -p "$(dirname "$RESULTS")"
    : >"$RESULTS"
    : >"$RESULTS.times"
    for stage in "$@"; do make_stage "$stage"; done
    summary
    ;;
  *) echo "usage: $0 all STAGE... | one STAGE | run STAGE PROGRAM..." >&2 && exit 2 ;;
esac
