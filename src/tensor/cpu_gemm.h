/* General products for training, spread over the device's team. kernels/gemm.h says what a product is, how operands
 * are described and what its numbers are. */
#ifndef CLOCHER_TENSOR_CPU_GEMM_H
#define CLOCHER_TENSOR_CPU_GEMM_H

#include "kernels/gemm.h"
#include "tensor/device.h"

/* Runs n independent products (no C overlaps another C or any operand), such as those of all experts, in as few
 * dispatches as the panels' memory allows: many small products share the team as one large one does. Scratch comes
 * from ctx's arena and is given back; it depends on the size of the team alone, so a dry run with any sizes, or
 * with n = 0, measures it. In a dry run nothing else happens, and pointers may be NULL. Counts flop, and the bytes of
 * encoded weights, in ctx->work. A failure is in ctx. */
void ie_cpu_gemm(ie_ctx *ctx, const ie_gemm *gemm, int64_t n);

/* The same, of one product in the calling thread, for launchers whose unit of work contains a small product.
 * scratch: ie_cpu_gemm_serial_bytes(), 64-byte aligned. Counts nothing. */
void ie_cpu_gemm_serial(const ie_kernels *kernels, const ie_gemm *gemm, void *scratch);
size_t ie_cpu_gemm_serial_bytes(void);

#endif
