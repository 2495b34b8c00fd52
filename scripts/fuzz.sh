#!/bin/bash
# Runs the fuzzers. Called by mk/fuzz.mk, which gives B, FUZZERS, FUZZ_SECONDS and FUZZ_COVERAGE.
#
#   scripts/fuzz.sh run        each fuzzer over its seeds, then FUZZ_SECONDS of new inputs; TAP
#   scripts/fuzz.sh coverage   lines of each covered source that seeds and findings reach; fails below FUZZ_COVERAGE
#   scripts/fuzz.sh merge      copies inputs that reach something new from $B/fuzz/corpus to fuzz/corpus
. scripts/tap.sh
B=${B:-build}
FUZZ_SECONDS=${FUZZ_SECONDS:-60}
FUZZ_COVERAGE=${FUZZ_COVERAGE:-85}
FUZZERS=${FUZZERS:-$(cd fuzz && for f in fuzz_*.c; do echo "${f%.c}"; done)}
# A finding must end the run with an error: an input that takes 2 GB or a minute (of a busy machine) is one.
limits=(-timeout=60 -rss_limit_mb=2048 -malloc_limit_mb=1024)
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1

# Fuzzers whose inputs are large say so: "Length: 65536".
max_length() { sed -nE 's/.*Length: ([0-9]+).*/\1/p; 10q' "fuzz/$1.c" | grep . || echo 4096; }

# One fuzzer: over its seeds, then on new inputs. Its output goes to $B/fuzz/logs, with a file of the status that each
# of the two ended with.
fuzz_one() {
  local fuzzer=$1 name=${1#fuzz_} log=$B/fuzz/logs/$1
  local corpus=$B/fuzz/corpus/$name
  mkdir -p "$corpus"
  "$B/fuzz/fuzz/$fuzzer" "${limits[@]}" -runs=0 -max_len=1048576 -artifact_prefix="$B/fuzz/findings/$fuzzer-" \
    "fuzz/corpus/$name" >"$log.seeds" 2>&1
  echo $? >"$log.seeds.status"
  "$B/fuzz/fuzz/$fuzzer" "${limits[@]}" -max_total_time="$FUZZ_SECONDS" -max_len="$(max_length "$fuzzer")" \
    -print_final_stats=1 -artifact_prefix="$B/fuzz/findings/$fuzzer-" "$corpus" "fuzz/corpus/$name" >"$log.new" 2>&1
  echo $? >"$log.new.status"
}

# ended LOG: shows the end of a log whose status is not 0, and fails. A fuzzer that never ended left no status.
ended() {
  [[ $(cat "$1.status" 2>/dev/null) == 0 ]] || { tail -n 40 "$1" && return 1; }
}

# A fuzzer has one thread: as many run at a time as there are cores.
run() {
  local name running=0
  trap 'trap "" TERM; kill 0; exit 1' INT TERM # what runs in the background does not hear of it otherwise
  mkdir -p "$B/fuzz/findings" "$B/fuzz/logs"
  rm -f "$B"/fuzz/logs/*
  for fuzzer in $FUZZERS; do
    [[ -n $(ls "fuzz/corpus/${fuzzer#fuzz_}" 2>/dev/null) ]] || continue
    [[ $running -lt $(nproc) ]] || wait -n
    running=$((running < $(nproc) ? running + 1 : running))
    fuzz_one "$fuzzer" &
  done
  wait
  for fuzzer in $FUZZERS; do
    name=${fuzzer#fuzz_}
    if [[ -z $(ls "fuzz/corpus/$name" 2>/dev/null) ]]; then
      echo "no seed in fuzz/corpus/$name" | verdict "$fuzzer has seeds"
      continue
    fi
    check "$fuzzer: $(find "fuzz/corpus/$name" -type f | wc -l) seeds" ended "$B/fuzz/logs/$fuzzer.seeds"
    check "$fuzzer: $FUZZ_SECONDS s" ended "$B/fuzz/logs/$fuzzer.new"
  done
  finish
}

# The sources that a fuzzer names.
covered() { sed -nE '1,12s/.*Covers: *//p' "fuzz/$1.c" | sed 's|\*/||'; }

coverage() {
  local dir=$B/fuzz-coverage bad=0 name llvm
  llvm=$(clang --version | sed -nE '1s/.*version ([0-9]+).*/-\1/p')
  [[ -n $(command -v "llvm-cov$llvm") ]] || llvm=
  printf '| fuzzer | source | lines | reached | share |\n|---|---|---:|---:|---:|\n'
  for fuzzer in $FUZZERS; do
    name=${fuzzer#fuzz_}
    mkdir -p "$B/fuzz/corpus/$name"
    rm -f "$dir/$name.profraw"
    LLVM_PROFILE_FILE=$dir/$name.profraw "$dir/fuzz/$fuzzer" -runs=0 -max_len=1048576 "fuzz/corpus/$name" \
      >"$dir/$name.log" 2>&1 || { tail -20 "$dir/$name.log"; exit 1; }
    "llvm-profdata$llvm" merge -sparse "$dir/$name.profraw" -o "$dir/$name.profdata" || exit 1
    for source in $(covered "$fuzzer"); do
      # File, regions (3), functions (3), lines (3)
      "llvm-cov$llvm" report "$dir/fuzz/$fuzzer" "-instr-profile=$dir/$name.profdata" "$source" |
        awk -v f="$name" -v s="$source" -v least="$FUZZ_COVERAGE" '
          $1 == "TOTAL" {
            lines = $8; missed = $9; share = lines ? 100 * (lines - missed) / lines : 0
            printf "| %s | %s | %d | %d | %.1f%%%s |\n", f, s, lines, lines - missed, share, share < least ? " (too low)" : ""
            exit share < least
          }' || bad=1
    done
  done
  exit $bad
}

merge() {
  for fuzzer in $FUZZERS; do
    name=${fuzzer#fuzz_}
    mkdir -p "fuzz/corpus/$name" "$B/fuzz/corpus/$name"
    "$B/fuzz/fuzz/$fuzzer" "${limits[@]}" -merge=1 "fuzz/corpus/$name" "$B/fuzz/corpus/$name" 2>&1 | tail -1
  done
}

case ${1:-run} in
  run | coverage | merge) "${1:-run}" ;;
  *) echo "usage: $0 run | coverage | merge" >&2 && exit 2 ;;
esac
