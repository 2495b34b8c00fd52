# Shared by the checks: sourced, not run. Goes to the root of the tree, or to LINT_ROOT for the test of the checks.
LINT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$LINT_DIR/../tap.sh"
cd "${LINT_ROOT:-$LINT_DIR/../..}" || exit 1

C_FOLDERS="include src cli tests fuzz examples benchmarks tools"

# Names of the files of the given folders that end in one of the endings: files_in "c h" src cli
files_in() {
  local endings=$1 ending folder folders=() args=()
  shift
  for folder in "$@"; do [[ -d $folder ]] && folders+=("$folder"); done
  [[ ${#folders[@]} -eq 0 ]] && return
  for ending in $endings; do args+=(-o -name "*.$ending"); done
  find "${folders[@]}" -type f \( "${args[@]:1}" \) | LC_ALL=C sort
}

# Everything that belongs to the project: what git tracks, or without git every file that is not a build's.
project_files() {
  if [[ -e .git ]] && command -v git >/dev/null; then
    git ls-files --cached --others --exclude-standard
  else
    find . -type f -not -path './build*' -not -path './.git/*' | sed 's|^\./||'
  fi
}
