# TAP for shell tests: sourced, not run. Numbers the results; offenders are printed above a failed line.
set -u
shopt -s lastpipe # so that verdict and mapfile at the end of a pipe work in this shell

results=0
failures=0

# Reads offenders, one a line, from stdin: none is a pass.
verdict() {
  local name=$1 offenders
  offenders=$(cat)
  results=$((results + 1))
  if [[ -z $offenders ]]; then
    echo "ok $results - $name"
  else
    printf '%s\n' "$offenders" | sed 's/^/# /'
    echo "not ok $results - $name"
    failures=$((failures + 1))
  fi
}

# check NAME COMMAND...: the command succeeds. What it prints is shown when it does not.
check() {
  local name=$1 output
  shift
  if output=$("$@" 2>&1); then
    verdict "$name" </dev/null
  else
    printf '%s\n' "${output:-no output}" | tail -n 40 | verdict "$name"
  fi
}

skip() {
  results=$((results + 1))
  echo "ok $results - $1 # SKIP $2"
}

finish() {
  echo "1..$results"
  exit $((failures > 0))
}
