#!/bin/bash
# What was built has the structure that was designed: symbols, globals, instruction sets, folders.
. scripts/tap.sh

build=${CLOCHER_BUILD:-build}
static=$build/libclocher.a
internal=$build/libclocher-internal.a
shared=$build/libclocher.so
for file in "$static" "$internal" "$shared"; do
  [[ -e $file ]] || { echo "not ok 1 - $file is missing" && exit 1; }
done

# Public functions: what stands before a parenthesis in the preprocessed public headers.
declared=$(for header in include/clocher/*.h; do echo "#include \"${header#include/}\""; done |
  ${CC:-gcc} -E -P -Iinclude -x c - | tr '\n' ' ' | grep -oE '\bie_[a-z0-9_]+ *\([^*]' | sed 's/ *(.*//' | LC_ALL=C sort -u)
exported=$(nm -D --defined-only "$shared" | awk '$2 != "A" { print $3 }' | sed 's/@.*//' | LC_ALL=C sort -u)

printf '%s\n' "$exported" | grep -v '^ie_' | verdict "the shared library exports ie_ symbols only"
printf '%s\n' "$exported" | grep -vxF "$declared" | verdict "each exported symbol is declared in include/clocher"
printf '%s\n' "$declared" | grep -vxF "$exported" | verdict "each function declared in include/clocher is exported"
nm -g --defined-only "$static" | awk 'NF == 3 { print $3 }' | grep -vxF "$declared" |
  verdict "the static library exports what include/clocher declares, and nothing else"

nm -u "$static" 2>/dev/null | awk 'NF == 2 { print $2 }' | LC_ALL=C sort -u |
  grep -xE 'exit|_exit|abort|getenv|secure_getenv|printf|vprintf|puts|putchar|perror|stdout|stderr|setlocale|umask' |
  verdict "the library calls nothing that ends, prints or reads the environment"

# Writable data. Constants with addresses in them stand in .data.rel.ro and are not meant.
objdump -t "$internal" 2>/dev/null | awk '
    /^[^ ]+\.o: / { object = $1 }
    match($0, / (\.data|\.bss|\.tdata|\.tbss|\*COM\*)(\.[A-Za-z0-9_.]+)?\t/) {
      section = substr($0, RSTART + 1, RLENGTH - 2)
      if (section !~ /^\.data\.rel\.ro/ && $NF !~ /^\./ && $0 ~ / O /) print object, $NF
    }' | sed 's/:$//' | while read -r object symbol; do
  grep -qE "^${symbol%%.*} " scripts/lint/globals.txt || echo "$object $symbol"
done | verdict "no mutable globals but those of scripts/lint/globals.txt"

if [[ $(${CC:-gcc} -dumpmachine) == x86_64-* ]]; then
  find "$build/src" -name '*.o' -not -path '*/kernels/avx2/*' -not -path '*/kernels/avx512/*' \
    -not -path '*/kernels/amx/*' | while read -r object; do
    objdump -d --no-show-raw-insn "$object" | grep -m 1 -E '%[yz]mm[0-9]|%tmm' | sed "s|^|$object: |"
  done | verdict "vector instructions stand in the folder of their instruction set only"
  find "$build/src/kernels/avx2" -name '*.o' 2>/dev/null | while read -r object; do
    objdump -d --no-show-raw-insn "$object" | grep -m 1 -E '%zmm|%tmm|%k[0-7]' | sed "s|^|$object: |"
  done | verdict "avx2/ needs no AVX-512"
else
  skip "vector instructions stand in their folder only" "not an x86-64 build"
fi

find include src cli tests examples fuzz scripts -name '*.o' -o -name '*.d' -o -name '*.gcda' 2>/dev/null |
  verdict "nothing is built among the sources"
awk 'END { if (NR > 230) print "Makefile has " NR " lines" }' Makefile | verdict "the Makefile stays small"
finish
