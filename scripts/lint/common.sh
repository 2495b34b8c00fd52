# Shared by the checks: sourced, not run. Goes to the root of the tree (LINT_ROOT, for the test of the checks
# themselves), numbers the results, and prints TAP with the offenders above each failed line.
set -u
shopt -s lastpipe # so that verdict, at the end of a pipe, counts in this shell
LINT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "${LINT_ROOT:-$LINT_DIR/../..}" || exit 1

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

skip() {
  results=$((results + 1))
  echo "ok $results - $1 # SKIP $2"
}

finish() {
  echo "1..$results"
  exit $((failures > 0))
}

# Names of the files of the given folders that end in one of the endings: files_in "c h" src cli
files_in() {
  local endings=$1 ending folders=() args=()
  shift
  for folder in "$@"; do [[ -d $folder ]] && folders+=("$folder"); done
  [[ ${#folders[@]} -eq 0 ]] && return
  for ending in $endings; do args+=(-o -name "*.$ending"); done
  find "${folders[@]}" -type f \( "${args[@]:1}" \) | LC_ALL=C sort
}

C_FOLDERS="include src cli tests fuzz examples benchmarks tools"

# Everything that belongs to the project: what git tracks, or without git every file that is not a build's.
project_files() {
  if [[ -e .git ]] && command -v git >/dev/null; then
    git ls-files --cached --others --exclude-standard
  else
    find . -type f -not -path './build*' -not -path './.git/*' | sed 's|^\./||'
  fi
}
