#!/bin/bash
# Puts together what `make gpu-check` runs on a bare machine with a GPU.
#   scripts/gpu_bundle.sh FOLDER ARCHS COMMIT PROGRAM TEST...
set -eu
folder=$1 archs=$2 commit=$3 program=$4
shift 4
limit=$((60 << 20))

rm -rf "$folder"
mkdir -p "$folder/tests/data" "$folder/lib"
install -m 755 -s "$program" "$folder/clocher.cuda"
ln -s clocher.cuda "$folder/inference-engine.cuda"
for test in "$@"; do install -m 755 -s "$test" "$folder/tests/"; done
cp -r tests/data/models "$folder/tests/data/"
install -m 755 scripts/gpu_check.sh "$folder/"
printf '%s\n' "$archs" >"$folder/ARCHS"
printf '%s\n' "$commit" >"$folder/COMMIT"
cmocka=$(ldd "$@" 2>/dev/null | awk '$1 ~ /^libcmocka/ { print $3; exit }')
[[ -z $cmocka ]] || cp -L "$cmocka" "$folder/lib/"

# The C library and the driver's own are there; anything else would be missing.
for binary in "$folder/clocher.cuda" "$folder"/tests/*; do
  [[ -f $binary ]] || continue
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
# Each test has all kernels in it: a window over several of them leaves one copy.
packed=
if command -v xz >/dev/null; then
  tar -C "$(dirname "$folder")" -cf - "$(basename "$folder")" | xz --lzma2=preset=3,dict=64MiB >"$folder.tar.xz"
  packed=", packed $(($(stat -c %s "$folder.tar.xz") >> 20)) MiB"
fi
echo "gpu-bundle: $folder, $((size >> 20)) MiB$packed, sm_${archs// /, sm_}, $commit"
