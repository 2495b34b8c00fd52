/* What the CPU's training launchers share. */
#ifndef CLOCHER_TENSOR_CPU_TRAIN_H
#define CLOCHER_TENSOR_CPU_TRAIN_H

#include "kernels/gemm.h"
#include "tensor/device.h"

/* Whether products with w round both sides to bf16: in class bf16, but not for exact weights. */
bool ie_cpu_rounds(const ie_ctx *ctx, const ie_weight *w);

/* W (R, K) of one expert as an operand: its master, or the frozen bytes through *view, which must live as long. */
ie_gemm_matrix ie_cpu_weight_matrix(const ie_weight *w, int64_t expert, ie_wview *view, bool transposed);

/* The bias (R) of one expert as numbers in the arena, NULL without one and in a dry run. False after a failure. */
bool ie_cpu_bias(ie_ctx *ctx, const ie_weight *w, int64_t expert, real **out);

/* to (cols) += sum over the rows of x (rows, cols), in ascending order; to NULL: nothing. */
void ie_cpu_rows_sum(ie_ctx *ctx, real *to, const real *x, int64_t rows, int64_t cols);

#endif
