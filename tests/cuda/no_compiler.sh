#!/bin/bash
# Stands for the emulated kernels' tests where no C++ compiler is.
echo "1..1"
echo "ok 1 - the CUDA kernels in emulation # SKIP g++ is not installed"
