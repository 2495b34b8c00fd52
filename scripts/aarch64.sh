#!/bin/bash
# The program on another architecture: cross-compiles for aarch64 and runs the tests under qemu. Debian and Ubuntu.
#
#   scripts/aarch64.sh setup          the cross compiler and qemu (apt, as root), and $SYSROOT with arm64 libraries
#   scripts/aarch64.sh env COMMAND... COMMAND with the environment in which make builds for aarch64
#   scripts/aarch64.sh wrap FILE PROGRAM   writes FILE, a script that runs the aarch64 PROGRAM under qemu
#
# The libraries are unpacked from arm64 packages that apt downloads into lists of its own: the system's packages and
# lists stay as they are. Environment: SYSROOT (build/sysroot-aarch64).
set -eu
SYSROOT=${SYSROOT:-build/sysroot-aarch64}
[[ $SYSROOT == /* ]] || SYSROOT=$PWD/$SYSROOT
TARGET=aarch64-linux-gnu
LIBRARIES=(libc6-dev libjansson-dev libpcre2-dev libutf8proc-dev nettle-dev libcmocka-dev)

say() { printf 'aarch64: %s\n' "$*"; }

install_tools() {
  local missing=()
  command -v $TARGET-gcc >/dev/null || missing+=(gcc-$TARGET)
  command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
  [[ ${#missing[@]} -gt 0 ]] || return 0
  local as_root=()
  [[ $(id -u) -eq 0 ]] || as_root=(sudo)
  say "apt-get install ${missing[*]}"
  apt-cache show --no-all-versions "${missing[@]}" >/dev/null 2>&1 || "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q \
    --no-install-recommends "${missing[@]}"
}

# apt as an empty arm64 system has it, in a folder of its own.
apt_arm64() {
  local at=$SYSROOT/.apt
  mkdir -p "$at/lists/partial" "$at/cache/archives/partial"
  touch "$at/status"
  apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$at" -o Dir::State::lists="$at/lists" \
    -o Dir::State::status="$at/status" -o Dir::Cache="$at/cache" -o Debug::NoLocking=1 -o Acquire::Retries=2 \
    -o APT::Sandbox::User= -o APT::Install-Recommends=0 "$@"
}

# Links to /lib/... would name the machine that builds.
links_relative() {
  local link to
  find "$SYSROOT/usr" "$SYSROOT/lib" -type l -lname '/*' -print0 | while IFS= read -r -d '' link; do
    to=$(readlink "$link")
    ln -sfnr "$SYSROOT$to" "$link"
  done
}

make_sysroot() {
  [[ ! -e $SYSROOT/.complete ]] || return 0
  say "arm64 libraries in $SYSROOT"
  apt_arm64 update
  apt_arm64 install -y --download-only "${LIBRARIES[@]}"
  local package
  for package in "$SYSROOT"/.apt/cache/archives/*.deb; do dpkg-deb -x "$package" "$SYSROOT"; done
  links_relative
  touch "$SYSROOT/.complete"
}

case ${1:-} in
  setup)
    install_tools
    make_sysroot
    ;;
  env)
    shift
    export PKG_CONFIG_SYSROOT_DIR=$SYSROOT
    export PKG_CONFIG_LIBDIR=$SYSROOT/usr/lib/$TARGET/pkgconfig:$SYSROOT/usr/share/pkgconfig
    export SYSROOT TEST_RUNNER="qemu-aarch64 -L $SYSROOT"
    exec "$@"
    ;;
  wrap)
    mkdir -p "$(dirname "$2")"
    # A link keeps its name, which may decide what the program is.
    printf '#!/bin/bash\nexec qemu-aarch64 -L %q %q "$@"\n' "$SYSROOT" "$(realpath -s "$3")" >"$2"
    chmod +x "$2"
    ;;
  *) echo "usage: $0 setup | env COMMAND... | wrap FILE PROGRAM" >&2 && exit 2 ;;
esac
