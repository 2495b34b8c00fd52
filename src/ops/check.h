/* What operations check before they call a launcher. Private to ops/. */
#ifndef CLOCHER_OPS_CHECK_H
#define CLOCHER_OPS_CHECK_H

#include "tensor/device.h"

/* Refuses an op that the device lacks, by name. */
#define OP_LAUNCHER(ctx, entry)                                                                              \
  ((ctx)->device->ops.entry != NULL ||                                                                       \
   (ie_ctx_fail(ctx, IE_UNSUPPORTED, "%s: device %s has no such operation", #entry, (ctx)->device->kind),    \
    false))

bool ie_op_shape_is(ie_ctx *ctx, const char *op, const char *what, int64_t found, int64_t expected);
/* F32, F16 or BF16. */
bool ie_op_type_is_float(ie_ctx *ctx, const char *op, const char *what, ie_dtype dtype);
bool ie_op_vector_is_read(ie_ctx *ctx, const char *op, const char *what, const ie_vector *v);
/* A weight whose format and arithmetic class the device has no kernel for is refused by name. */
bool ie_op_weight_is_read(ie_ctx *ctx, const char *op, const ie_weight *w);

ie_tensor *ie_op_tensor_2d(ie_ctx *ctx, ie_dtype dtype, int64_t rows, int64_t cols);
/* x as (T, K) whatever its rank: the trailing dimensions are one row. Its data and gradient are x's. */
ie_tensor ie_op_as_rows(const ie_tensor *x);

/* Where an in-place op puts y = x + ...: x itself, or under a recording tape a copy, through which gradients pass. */
ie_tensor *ie_op_residual(ie_ctx *ctx, ie_tensor *x);

#endif
