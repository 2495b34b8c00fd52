#!/bin/bash
# Every C file is as clang-format writes it (.clang-format; `make format`).
. "$(dirname "$0")/common.sh"

# Other versions break lines differently; this is Debian 12's.
expected=14
name="C files are formatted by clang-format $expected"
version=$(clang-format --version 2>/dev/null | sed -E 's/.*version ([0-9]+).*/\1/')
if [[ -z $version ]]; then
  skip "$name" "clang-format is not installed"
elif [[ $version != "$expected" ]]; then
  skip "$name" "this is version $version"
else
  # shellcheck disable=SC2086
  files_in "c h" $C_FOLDERS | xargs -r clang-format --dry-run -Werror 2>&1 | grep -E '^[^ ]+: error' |
    sed -E 's/ code should be clang-formatted.*/ not as clang-format writes it/' | verdict "$name"
fi
finish
