#!/bin/bash
# Installs the packages that are missing (Debian, Ubuntu: apt), and nothing when none is.
#
#   scripts/setup.sh build   what building needs
#   scripts/setup.sh test    also what the tests and the lint need
#   scripts/setup.sh all     also every optional library
#
# Needs no network when nothing is missing. Optional libraries come along when something is installed anyway.
# Exit status 1, with the command to type, when packages are missing that it cannot install.
set -u
level=${1:-test}
case $level in build | test | all) ;; *) echo "usage: $0 [build|test|all]" >&2 && exit 2 ;; esac

say() { printf 'setup: %s\n' "$*"; }

has_command() { command -v "$1" >/dev/null 2>&1; }
has_library() { has_command pkg-config && pkg-config --exists "$1"; }
# shellcheck disable=SC2086 # CC may be words: a launcher and a compiler
has_libc_headers() { echo '#include <stdio.h>' | ${CC:-gcc} -E -o /dev/null - 2>/dev/null; }
has_cmocka() { has_library cmocka; }
has_fuzzer() { [[ -n $(compgen -G "$(clang --print-runtime-dir 2>/dev/null)/libclang_rt.fuzzer*.a") ]]; }

missing=()
# need PACKAGE CHECK...: notes the package when the check fails.
need() {
  local package=$1
  shift
  "$@" || missing+=("$package")
}

need gcc has_command gcc
need libc6-dev has_libc_headers
need make has_command make
need pkg-config has_command pkg-config
need libjansson-dev has_library jansson
need libpcre2-dev has_library libpcre2-8
need libutf8proc-dev has_library libutf8proc
need nettle-dev has_library nettle
if [[ $level != build ]]; then
  need libcmocka-dev has_cmocka
  need g++ has_command g++
  need clang-format has_command clang-format
  need clang has_command clang
  need libclang-rt-dev has_fuzzer
fi

optional_missing() {
  missing=()
  need liburing-dev has_library liburing
  need libhwloc-dev has_library hwloc
  need libedit-dev has_library libedit
  need libcurl4-openssl-dev has_library libcurl
  need libopenmpi-dev has_library ompi-c
  need openmpi-bin has_command mpirun
}
required=("${missing[@]}")
optional_missing
optional=("${missing[@]}")
[[ ${#required[@]} -eq 0 && ($level != all || ${#optional[@]} -eq 0) ]] && exit 0

[[ ${#required[@]} -gt 0 ]] && say "missing: ${required[*]}"
[[ ${#optional[@]} -gt 0 ]] && say "optional and missing: ${optional[*]}"

as_root=()
if [[ $(id -u) -ne 0 ]]; then as_root=(sudo); fi
cannot() {
  say "$1. As root: apt-get install ${required[*]} ${optional[*]}"
  if [[ ${#required[@]} -eq 0 ]]; then exit 0; fi
  exit 1
}
has_command apt-get || cannot "this machine has no apt-get; install what these Debian packages hold"
[[ ${#as_root[@]} -eq 0 ]] || has_command sudo || cannot "not root, and there is no sudo"

apt_install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 \
    install -y -q --no-install-recommends "$@"
}
apt_update() {
  [[ -n ${updated:-} ]] && return 1
  updated=1
  say "apt-get update"
  "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 update -q
}
known() { apt-cache show --no-all-versions "$@" >/dev/null 2>&1; }

known "${required[@]}" "${optional[@]}" || apt_update
say "apt-get install ${required[*]} ${optional[*]}"
apt_install "${required[@]}" "${optional[@]}" && exit 0
# A stale list names files that the mirror no longer has.
apt_update && apt_install "${required[@]}" "${optional[@]}" && exit 0
if [[ ${#required[@]} -gt 0 ]]; then
  say "once more without the optional ones"
  apt_install "${required[@]}" && exit 0
fi
cannot "apt-get could not install everything"
