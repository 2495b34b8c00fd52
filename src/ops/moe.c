/* Routing and the mixture of experts. */
#include "ops/check.h"
#include "ops/ops.h"

typedef struct route_closure {
  ie_tensor *logits;
  ie_routing routing;
  ie_route_options options;
} route_closure;

/* weight = softmax of the chosen logits */
static void route_backward(ie_ctx *ctx, const void *closure) {
  const route_closure *c = closure;
  ie_tensor *const routing[2] = {c->routing.expert, c->routing.weight};
  ctx->device->ops.route_backward(ctx, ie_tape_grad(ctx, c->logits), c->routing.weight->grad, c->logits,
                                  routing, &c->options);
}

ie_routing ie_op_route(ie_ctx *ctx, ie_tensor *logits, const ie_route_options *options) {
  ie_routing out = {0};
  if (!logits || !OP_LAUNCHER(ctx, route)) return out;
  if (options->top_k < 1 || options->top_k > logits->shape[1]) {
    ie_ctx_fail(ctx, IE_FORMAT, "route: %lld experts of %lld", (long long)options->top_k,
                (long long)logits->shape[1]);
    return out;
  }
  out.expert = ie_op_tensor_2d(ctx, IE_I32, logits->shape[0], options->top_k);
  out.weight = ie_op_tensor_2d(ctx, IE_F32, logits->shape[0], options->top_k);
  if (!out.expert || !out.weight) return (ie_routing){0};
  ctx->device->ops.route(ctx, out.expert, out.weight, logits, options);
  route_closure *c = ie_tape_record(ctx, route_backward, out.weight, sizeof *c, ie_tape_needs(logits));
  if (!c || !OP_LAUNCHER(ctx, route_backward)) return out;
  *c = (route_closure){logits, out, *options};
  if (!options->balance && ctx->balance && ctx->layer >= 0) c->options.balance = &ctx->balance[ctx->layer];
  return out;
}

typedef struct moe_closure {
  ie_tensor *y, *gate_up;
  const ie_tensor *x;
  ie_routing routing;
  ie_moe_options options;
} moe_closure;

static void moe_params_done(ie_ctx *ctx, const ie_weight *w) {
  ie_tape_param_done(ctx, w->param);
  ie_tape_param_done(ctx, w->bias_param);
}

/* y += sum over chosen experts of weight * expert(x) */
static void moe_backward(ie_ctx *ctx, const void *closure) {
  const moe_closure *c = closure;
  const ie_moe_grads to = {ie_tape_grad(ctx, c->x), ie_tape_grad(ctx, c->routing.weight)};
  ie_tensor *const routing[2] = {c->routing.expert, c->routing.weight};
  ctx->device->ops.moe_backward(ctx, &to, c->y->grad, c->gate_up, c->x, routing, &c->options);
  moe_params_done(ctx, c->options.gate_up);
  moe_params_done(ctx, c->options.down);
}

static ie_tensor *moe_train(ie_ctx *ctx, ie_tensor *residual, const ie_tensor *x, ie_routing routing,
                            const ie_moe_options *options) {
  if (!OP_LAUNCHER(ctx, moe_train) || !OP_LAUNCHER(ctx, moe_backward)) return NULL;
  const ie_weight *up = options->gate_up, *down = options->down;
  ie_tensor *y = ie_op_residual(ctx, residual);
  ie_tensor *gate_up =
      ie_op_tensor_2d(ctx, IE_F32, x->shape[0] * routing.expert->shape[1], options->gate_up->rows);
  if (!y || !gate_up) return NULL;
  ie_tensor *const pair[2] = {routing.expert, routing.weight};
  ctx->device->ops.moe_train(ctx, y, gate_up, x, pair, options);
  bool needs = ie_tape_needs(x) || ie_tape_needs(routing.weight) || up->param || up->bias_param ||
               down->param || down->bias_param;
  moe_closure *c = ie_tape_record(ctx, moe_backward, y, sizeof *c, needs);
  if (!c) return y;
  *c = (moe_closure){y, gate_up, x, routing, *options};
  ie_tape_param_used(up->param);
  ie_tape_param_used(up->bias_param);
  ie_tape_param_used(down->param);
  ie_tape_param_used(down->bias_param);
  return y;
}

ie_tensor *ie_op_moe_residual(ie_ctx *ctx, ie_tensor *residual, const ie_tensor *x, ie_routing routing,
                              const ie_moe_options *options) {
  if (!residual || !x || !routing.expert || !routing.weight || !OP_LAUNCHER(ctx, moe)) return NULL;
  const ie_weight *up = options->gate_up, *down = options->down;
  if (!ie_op_shape_is(ctx, "moe", up->name, x->shape[1], up->cols) ||
      !ie_op_shape_is(ctx, "moe", down->name, down->cols * 2, up->rows) ||
      !ie_op_shape_is(ctx, "moe", "residual width", residual->shape[1], down->rows) ||
      !ie_op_shape_is(ctx, "moe", "experts", down->experts, up->experts) ||
      !ie_op_weight_is_read(ctx, "moe", up) || !ie_op_weight_is_read(ctx, "moe", down))
    return NULL;
  if (ctx->tape) return moe_train(ctx, residual, x, routing, options);
  ctx->device->ops.moe(ctx, residual, x, routing.expert, routing.weight, options);
  return residual;
}
