#!/bin/bash
# Puts together what `make gpu-check` runs on a bare machine with a GPU.
#   scripts/gpu_bundle.sh FOLDER ARCHS COMMIT PROGRAM TESTS NAME...
# TESTS is all test programs in one, which is called by each NAME.
set -eu
folder=$1 archs=$2 commit=$3 program=$4 tests=$5
shift 5
limit=$((60 << 20))

rm -rf "$folder"
mkdir -p "$folder/tests/data" "$folder/lib"
install -m 755 -s "$program" "$folder/clocher.cuda"
ln -s clocher.cuda "$folder/inference-engine.cuda"
install -m 755 -s "$tests" "$folder/lib/gpu_tests"
for name in "$@"; do ln -s ../lib/gpu_tests "$folder/tests/$name"; done
cp -r tests/data/models "$folder/tests/data/"
install -m 755 scripts/gpu_check.sh "$folder/"
printf '%s\n' "$archs" >"$folder/ARCHS"
printf '%s\n' "$commit" >"$folder/COMMIT"
cmocka=$(ldd "$tests" 2>/dev/null | awk '$1 ~ /^libcmocka/ { print $3; exit }')
[[ -z $cmocka ]] || cp -L "$cmocka" "$folder/lib/"

# The C library and the driver's own are there; anything else would be missing.
for binary in "$folder/clocher.cuda" "$folder/lib/gpu_tests"; do
  missing=$(objdump -p "$binary" | awk '$1 == "NEEDED" { print $2 }' |
    grep -vE '^(libc|libm|libdl|librt|libpthread|ld-linux-x86-64|libcmocka)\.so' || true)
  if [[ -n $missing ]]; then
    echo "gpu-bundle: $binary needs $missing" >&2
    exit 1
  fi
done
size=$(du -sb "$folder" | cut -f1)
if [[ $size -gt $limit ]]; then
  echo "gpu-bundle: $folder has $size bytes, allowed $limit" >&2
  exit 1
fi
# The two binaries have the same kernels: a window over both leaves one copy.
packed=
if command -v xz >/dev/null; then
  tar -C "$(dirname "$folder")" -cf - "$(basename "$folder")" | xz --lzma2=preset=3,dict=64MiB >"$folder.tar.xz"
  packed=", packed $(($(stat -c %s "$folder.tar.xz") >> 20)) MiB"
fi
libc=$(objdump -T "$folder/clocher.cuda" "$folder/lib/gpu_tests" | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -n 1)
echo "gpu-bundle: $folder, $((size >> 20)) MiB$packed, sm_${archs// /, sm_}, needs $libc, $commit"
