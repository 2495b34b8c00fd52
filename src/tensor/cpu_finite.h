/* The first number that is none, looked for by the whole team where there are many. */
#ifndef CLOCHER_TENSOR_CPU_FINITE_H
#define CLOCHER_TENSOR_CPU_FINITE_H

#include "base/real.h"
#include "tensor/device.h"

/* The place of the first NaN or infinity of n numbers, or -1. */
int64_t cpu_first_nonfinite(const ie_device *device, const real *x, int64_t n);

#endif
