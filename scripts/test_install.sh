#!/bin/bash
# Installs into an empty prefix, compiles the example with pkg-config against it alone, runs it, and uninstalls.
. scripts/tap.sh

build=${CLOCHER_BUILD:-build}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
prefix=$folder/usr
cc=${CC:-gcc}
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
quiet_make() { env -u MAKEFLAGS ${MAKE:-make} --no-print-directory "B=$build" "$@"; }
# Compiles the example: link OUTPUT FLAGS... (pkg-config's flags of its own come first).
link() {
  local output=$1 flags
  shift
  flags=$(pkg-config --cflags --libs "$@" clocher) || return 1
  # shellcheck disable=SC2086
  $cc -std=c11 -Wall -Wextra -Wpedantic -Werror -o "$output" examples/hello.c $flags
}

check "make install" quiet_make install PREFIX="$prefix"
for file in include/clocher/generate.h lib/libclocher.a lib/libclocher.so lib/pkgconfig/clocher.pc bin/clocher \
  bin/inference-engine; do
  [[ -e $prefix/$file ]] || echo "$file is missing"
done | verdict "program, libraries, headers and clocher.pc are there"
for header in include/clocher/*.h; do cmp "$header" "$prefix/$header" 2>&1; done | verdict "the headers are those of the sources"

check "the example compiles against the shared library" link "$folder/hello"
check "the example compiles against the static library" link "$folder/hello-static" --static
{ readelf -d "$folder/hello" | grep -q 'NEEDED.*libclocher.so.0' || echo "hello does not need libclocher.so.0"; } |
  verdict "the example is linked with the shared library"

model=${DEMO_MODEL:-demo/model}
if [[ -f $model/config.json ]]; then
  LD_LIBRARY_PATH=$prefix/lib "$folder/hello" "$model" >"$folder/text" 2>"$folder/errors"
  { [[ $? -eq 0 && $(wc -c <"$folder/text") -gt 100 ]] || cat "$folder/text" "$folder/errors"; } |
    verdict "the example writes text"
  LD_LIBRARY_PATH=$prefix/lib "$folder/hello" "$folder/nothing" >"$folder/text" 2>"$folder/errors"
  { [[ $? -eq 1 && ! -s $folder/text && $(cat "$folder/errors") == *"$folder/nothing"* ]] || cat "$folder/text" "$folder/errors"; } |
    verdict "the example names a directory that is not there and ends with status 1"
  check "the installed program runs" "$prefix/bin/clocher" run --model-dir "$prefix/share/clocher/demo-model" \
    --prompt "Once upon a time" --max-new 5 --greedy --quiet
  check "it runs under its other name" "$prefix/bin/inference-engine" --model-dir "$prefix/share/clocher/demo-model" \
    --max-new 5 "Once upon a time"
else
  echo "$model/config.json is missing" | verdict "the example writes text"
fi

check "make install with DESTDIR" quiet_make install PREFIX=/opt/clocher DESTDIR="$folder/stage"
{ grep -q '^prefix=/opt/clocher$' "$folder/stage/opt/clocher/lib/pkgconfig/clocher.pc" || echo "it does not"; } 2>&1 |
  verdict "clocher.pc names the prefix, not DESTDIR"
check "make uninstall" quiet_make uninstall PREFIX="$prefix"
find "$prefix" -type f -o -type l | verdict "uninstall leaves nothing"
finish
