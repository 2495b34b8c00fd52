#!/bin/bash
# The stage of the fuzzers in `make test`: built, run over their seeds and then for a short time. TAP.
if ! command -v "${FUZZ_CC:-clang}" >/dev/null; then
  echo "ok 1 - fuzzers # SKIP there is no clang"
  echo "1..1"
  exit 0
fi
if ! log=$(${MAKE:-make} --no-print-directory "B=${B:-build}" ${JOBS:+-j$JOBS} fuzz-build 2>&1); then
  tail -n 40 <<<"$log" | sed 's/^/# /'
  echo "not ok 1 - fuzzers are built"
  exit 1
fi
FUZZ_SECONDS=${FUZZ_SECONDS:-10} exec scripts/fuzz.sh run
