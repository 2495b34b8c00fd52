#include "ops/check.h"

#include "base/size.h"
#include "ops/tape.h"

bool ie_op_shape_is(ie_ctx *ctx, const char *op, const char *what, int64_t found, int64_t expected) {
  if (found == expected) return true;
  ie_ctx_fail(ctx, IE_FORMAT, "%s: %s: expected %lld, found %lld", op, what, (long long)expected,
              (long long)found);
  return false;
}

bool ie_op_type_is_float(ie_ctx *ctx, const char *op, const char *what, ie_dtype dtype) {
  if (dtype == IE_F32 || dtype == IE_F16 || dtype == IE_BF16) return true;
  ie_ctx_fail(ctx, IE_UNSUPPORTED, "%s: %s: expected F32, F16 or BF16, found %s", op, what,
              ie_dtype_name(dtype));
  return false;
}

bool ie_op_vector_is_read(ie_ctx *ctx, const char *op, const char *what, const ie_vector *v) {
  return !v->data || ie_op_type_is_float(ctx, op, what, v->dtype);
}

bool ie_op_weight_is_read(ie_ctx *ctx, const char *op, const ie_weight *w) {
  if (w->bias && !ie_op_type_is_float(ctx, op, "bias", w->bias_dtype)) return false;
  if (ctx->tape || (w->few && w->few->run)) return true;
  ie_ctx_fail(ctx, IE_UNSUPPORTED,
              "%s: %s: device %s has no product with weights of format %s in this precision", op, w->name,
              ctx->device->kind, ie_wformat_describe(w->format)->name);
  return false;
}

ie_tensor *ie_op_tensor_2d(ie_ctx *ctx, ie_dtype dtype, int64_t rows, int64_t cols) {
  return ie_ctx_tensor(ctx, dtype, 2, (int64_t[]){rows, cols});
}

ie_tensor ie_op_as_rows(const ie_tensor *x) {
  ie_tensor rows = *x;
  rows.rank = 2;
  rows.shape[1] = ie_tensor_count(x) / ie_max_i64(1, x->shape[0]);
  rows.shape[2] = rows.shape[3] = 1;
  return rows;
}

typedef struct residual_closure {
  ie_tensor *x, *y;
} residual_closure;

/* y = x + ... */
static void residual_backward(ie_ctx *ctx, const void *closure) {
  const residual_closure *c = closure;
  real *dx = ie_tape_grad(ctx, c->x);
  if (c->x->needs_grad) ctx->device->ops.add(ctx, dx, c->y->grad, ie_tensor_count(c->x));
}

ie_tensor *ie_op_residual(ie_ctx *ctx, ie_tensor *x) {
  if (!ie_tape_records(ctx)) return x;
  if (!OP_LAUNCHER(ctx, copy) || !OP_LAUNCHER(ctx, add)) return NULL;
  ie_tensor *y = ie_ctx_tensor(ctx, x->dtype, x->rank, x->shape);
  if (!y) return NULL;
  ctx->device->ops.copy(ctx, y, x);
  residual_closure *c = ie_tape_record(ctx, residual_backward, y, sizeof *c, ie_tape_needs(x));
  if (c) *c = (residual_closure){x, y};
  return y;
}
