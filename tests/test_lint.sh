#!/bin/bash
# The checks of the lint find what they are for: each is run on a small tree with one fault, and on a clean one.
. scripts/tap.sh

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
scripts=$PWD/scripts/lint
export LINT_ROOT=$tree LINT_EXCEPTIONS=$tree/exceptions.txt

# A clean tree: one public header, a layer below and one above, the command line.
clean() {
  rm -rf "${tree:?}"/*
  mkdir -p "$tree"/{include/clocher,src/base,src/formats,src/tensor,cli}
  cp .clang-format "$tree/"
  : >"$LINT_EXCEPTIONS"
  cat >"$tree/include/clocher/thing.h" <<'END'
/* Things. */
#ifndef CLOCHER_THING_H
#define CLOCHER_THING_H
#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)
int ie_thing_count(const char *name);
#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
END
  cat >"$tree/src/base/low.h" <<'END'
/* Below. */
#ifndef CLOCHER_BASE_LOW_H
#define CLOCHER_BASE_LOW_H
int ie_low(int a, int b, int c, int d, int e, int f, int g);
#endif
END
  cat >"$tree/src/tensor/high.c" <<'END'
#include "base/low.h"
#include "clocher/thing.h"

/* getenv("HOME") and exit(1) in a comment, and in "a string { with braces" do no harm. */
int ie_thing_count(const char *name) {
  return ie_low(1, 2, 3, 4, 5, 6, name[0] == '{');
}
END
  printf '#include "clocher/thing.h"\n' >"$tree/cli/main.c"
}

# finds CHECK NAME: the check fails, and its failed line holds NAME.
finds() {
  local output
  output=$("$scripts/check_$1.sh" 2>&1)
  [[ $? -ne 0 ]] || echo "check_$1.sh ends with status 0"
  grep -q "^not ok .*$2" <<<"$output" || printf 'no failed line with "%s":\n%s\n' "$2" "$output"
}

clean
for name in format sizes layers headers calls words; do
  check "check_$name passes on a clean tree" "$scripts/check_$name.sh"
done

# fault CHECK NAME FILE: appends stdin to FILE of a clean tree; the check must find it.
fault() {
  local file=$tree/$3
  clean
  mkdir -p "$(dirname "$file")"
  cat >>"$file"
  finds "$1" "$2" | verdict "check_$1 finds: $2 (${3##*/})"
}

echo 'int  x ;' | fault format 'formatted' src/base/a.c
seq 801 | sed 's/.*/int a&;/' | fault sizes '800 lines' src/base/a.c
{ echo 'static int f(void) {' && seq 80 | sed 's/.*/  g();/' && echo '}'; } | fault sizes '80 lines' src/base/a.c
{ echo '#define F(x) \' && seq 80 | sed 's/.*/  g(x); \\/' && echo '  h()'; } | fault sizes '80 lines' src/base/a.c
printf 'int f(int a, int b, int c, int d,\n      int e, int f, int g, int h) {\n  return 0;\n}\n' | fault sizes '7 parameters' src/base/a.c
echo 'int f(int a, int b, int c, int d, int e, int f, int g, int h);' | fault sizes '7 parameters' include/clocher/b.h
echo '__attribute__((format(printf, 8, 9))) int f(int a, int b, int c, int d, int e, int f, int g, char *h, ...);' |
  fault sizes '7 parameters' include/clocher/b.h
echo 'lines src/base/a.c - nothing' | fault sizes 'exception is needed' exceptions.txt
echo '#include "tensor/high.h"' | fault layers 'only to the left' src/base/a.c
echo '#include "text/a.h"' | fault layers 'only to the left' src/formats/a.c
echo 'int x;' | sed '1i #include "base/low.h"' | fault layers 'only to the left' src/other/a.c
echo '#include "base/low.h"' | fault layers 'public headers include' include/clocher/thing.h
echo '#include "base/low.h"' | fault layers 'command line sees' cli/main.c
echo '#include <pcre2.h>' | fault layers 'command line sees' cli/main.c
echo '#include "low.h"' | fault layers 'written from src/' src/base/low.c
echo '#include <immintrin.h>' | fault layers 'intrinsics' src/base/a.c
echo '#ifdef __AVX2__' | fault layers 'conditional code' src/base/a.c
echo '#ifndef WRONG_H' | fault layers 'guarded' src/base/a.h
printf 'size_t ie_size(void);\n' | fault headers 'alone as C11' include/clocher/thing.h
printf 'void *ie_new(void);\nstatic inline int *ie_f(void) { return ie_new(); }\n' | fault headers 'alone as C..17' include/clocher/thing.h
printf '/* B. */\n#ifndef CLOCHER_B_H\n#define CLOCHER_B_H\nint ie_b(void);\n#endif\n' |
  fault headers 'export what they declare' include/clocher/b.h
printf '#ifndef CLOCHER_BASE_B_H\n' | fault headers 'begins with' src/base/b.h
for call in 'getenv("A")/environment' 'exit(1)/end the process' 'abort()/end the process' 'printf("a")/not print' \
  'fprintf(stderr, "a")/not print' 'strcpy(a, b)/made safe' 'setlocale(0, "")/state of the process'; do
  echo "int f(void) { return ${call%/*}; }" | fault calls "${call#*/}" src/base/a.c
done
echo '/* TO''DO: later */' | fault calls 'left to do' src/base/a.c
echo 'CFLAGS = -ffast-''math' | fault calls 'change arithmetic' Makefile
echo 'See /wo''rk/notes.' | fault words 'machine paths' a.md
echo 'https://index.lo''cal/simple' | fault words 'machine paths' a.md
echo 'spaces ' | fault words 'spaces at ends' a.md
printf 'no newline' | fault words 'spaces at ends' a.md
printf '#!/bin/bash\nif\n' | fault words 'parse' a.sh
head -c 5000000 /dev/zero | fault words '4 MiB' a.bin
finish
