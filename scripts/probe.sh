#!/bin/bash
# Finds the target machine and the libraries, and writes a makefile fragment to stdout ($(B)/config.mk) and what
# was found to stderr. Environment: CC, PKG_CONFIG, REQUIRED, OPTIONAL (pkg-config names), WITHOUT (short names).
# Exit status 1 when a required library or the compiler is missing.
set -u
PKG_CONFIG=${PKG_CONFIG:-pkg-config}

say() { printf 'probe: %s\n' "$*" >&2; }
fail() {
  say "$* (\`make setup\` installs it)"
  exit 1
}

machine=$(${CC:-gcc} -dumpmachine 2>/dev/null) || fail "the compiler '${CC:-gcc}' is missing"
command -v "$PKG_CONFIG" >/dev/null || fail "$PKG_CONFIG is missing"

found=$REQUIRED
for library in $REQUIRED; do
  "$PKG_CONFIG" --exists "$library" || fail "the library $library is missing"
done

# liburing -> uring, libcurl -> curl, hwloc -> hwloc; the macro is CLOCHER_WITH_URING and so on. Open MPI (ompi-c ->
# mpi) gives its headers alone: the library is loaded when it is used.
names=
defines=
linked=$REQUIRED
for library in $OPTIONAL; do
  name=${library#lib}
  [[ $library != ompi-c ]] || name=mpi
  if [[ " $WITHOUT " == *" $name "* ]]; then
    say "$library: left out"
  elif "$PKG_CONFIG" --exists "$library"; then
    say "$library $("$PKG_CONFIG" --modversion "$library")"
    found+=" $library"
    [[ $name == mpi ]] || linked+=" $library"
    names+=" $name"
    defines+=" -DCLOCHER_WITH_${name^^}=1"
  else
    say "$library: not found; built without it"
  fi
done
say "target $machine; required: $REQUIRED"

cat <<END
# Written by scripts/probe.sh; delete it to ask again.
CONFIG_FOR := ${CC:-gcc}|$PKG_CONFIG|$WITHOUT|$REQUIRED|$OPTIONAL
ARCH := ${machine%%-*}
LIBS_FOUND := $found
OPTIONAL_FOUND :=$names
OPTIONAL_CFLAGS :=$defines
PKG_CFLAGS := $("$PKG_CONFIG" --cflags $found)
PKG_LIBS := $("$PKG_CONFIG" --libs $linked)
END
