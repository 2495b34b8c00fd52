#!/bin/bash
# Whether CUDA can be compiled here: one line of what was found, or of what is missing and status 1.
#   NVCC, CUDA_HOME, CUDA_ARCHS   as mk/cuda.mk has them
set -u
fail() {
  echo "build-cuda: $*" >&2
  exit 1
}
[[ -n ${NVCC:-} ]] || fail "nvcc is missing: install the CUDA toolkit 12.8 or later, or name its compiler: make build-cuda NVCC=/path/to/nvcc"
version=$("$NVCC" --version 2>/dev/null | sed -nE 's/.*release ([0-9]+\.[0-9]+).*/\1/p')
[[ -n $version ]] || fail "$NVCC does not say its version: it is no nvcc that works here"
[[ -f $CUDA_HOME/include/cuda_runtime_api.h ]] || fail "$CUDA_HOME/include has no cuda_runtime_api.h (nvcc $version)"
compgen -G "$CUDA_HOME/lib*/libcudart_static.a" >/dev/null || fail "$CUDA_HOME has no libcudart_static.a (nvcc $version)"
known=$("$NVCC" --list-gpu-code 2>/dev/null | tr '\n' ' ')
for arch in $CUDA_ARCHS; do
  [[ -z $known || " $known" == *" sm_${arch%a} "* ]] || fail "nvcc $version knows no sm_$arch; it knows $known"
done
echo "build-cuda: nvcc $version, for $CUDA_ARCHS"
