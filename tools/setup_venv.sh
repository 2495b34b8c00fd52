#!/bin/bash
# Makes the Python environment of the reference side: setup_venv.sh [DIR], .venv by default. About 6 GB, by pip.
# Does nothing, in about a second, when DIR already has the packages of requirements.txt.
set -eu
dir=${1:-.venv}
requirements=$(dirname "$0")/requirements.txt

ready() {
  [[ -x $dir/bin/python ]] && "$dir/bin/python" - "$requirements" <<'PY'
import sys
from importlib.metadata import PackageNotFoundError, version
missing = False
for line in open(sys.argv[1]):
    if "==" not in line or line.startswith("#"):
        continue
    name, wanted = line.strip().split("==")
    try:
        found = version(name).split("+")[0]
    except PackageNotFoundError:
        found = "nothing"
    if found != wanted:
        print(f"setup_venv: {name}: {wanted} wanted, {found} found", file=sys.stderr)
        missing = True
sys.exit(missing)
PY
}

ready && exit 0
command -v python3 >/dev/null || { echo "setup_venv: python3 is missing (apt install python3 python3-venv)" >&2 && exit 1; }
python3 -c 'import ensurepip' 2>/dev/null || { echo "setup_venv: python3-venv is missing (apt install python3-venv)" >&2 && exit 1; }
[[ -x $dir/bin/python ]] || python3 -m venv "$dir"
"$dir/bin/python" -m pip install --disable-pip-version-check -r "$requirements"
ready
