#!/bin/bash
# Each public header compiles alone as C11 and as C++17, twice in one file; each internal one alone as C11.
. "$(dirname "$0")/common.sh"

CC=${CC:-gcc}
CXX=${CXX:-g++}
strict="-Wall -Wextra -Wshadow -Wconversion -Wpedantic -Werror -fsyntax-only"

# compiles_alone COMPILER LANGUAGE FLAGS HEADER...: prints the headers that do not.
compiles_alone() {
  local compiler=$1 language=$2 flags=$3
  shift 3
  for header in "$@"; do
    # shellcheck disable=SC2086
    printf '#include "%s"\n#include "%s"\n' "$header" "$header" |
      "$compiler" -x "$language" $flags $strict - 2>&1 | grep -m 3 -E 'error|warning' | sed "s|^|$header: |"
  done
}

files_in h include | sed 's|^include/||' | mapfile -t public
compiles_alone "$CC" c "-std=c11 -Iinclude" "${public[@]}" | verdict "public headers compile alone as C11"
if command -v "$CXX" >/dev/null; then
  compiles_alone "$CXX" c++ "-std=c++17 -Iinclude" "${public[@]}" | verdict "public headers compile alone as C++17"
else
  skip "public headers compile alone as C++17" "$CXX is not installed"
fi

# Headers of the instruction sets need flags of their own; they are compiled with their folder.
files_in h src | grep -vE '^src/(kernels/(avx2|avx512|amx|neon)|cuda)/' | sed 's|^src/||' | mapfile -t internal
library_flags=$(pkg-config --cflags jansson libpcre2-8 libutf8proc nettle 2>/dev/null)
compiles_alone "$CC" c "-std=c11 -D_GNU_SOURCE -Iinclude -Isrc $library_flags" "${internal[@]}" |
  verdict "internal headers compile alone as C11"

for header in "${public[@]}"; do
  file=include/$header
  grep -qE '^[a-z].*\);' "$file" || continue
  grep -q 'extern "C"' "$file" || echo "$file: no extern \"C\""
  grep -q '#pragma GCC visibility push(default)' "$file" || echo "$file: no visibility push"
done | verdict "public headers export what they declare, for C and C++"

for header in $(files_in h include src cli tests); do
  [[ $(head -c 2 "$header") == '/*' ]] || echo "$header: does not begin with what it is"
done | verdict "every header begins with what it is"
finish
