/* Operations: what a model file is written in.
 *
 * An operation checks shapes, takes its output from the arena and calls the device's launcher. Given NULL it
 * returns NULL, so a model file holds no error code; the caller asks ctx->status once per forward. A message names
 * the op, the tensor, the layer, and the shapes expected and found. Letters: docs/glossary.md.
 *
 * With a tape (ops/tape.h) every operation records itself. Inputs are not changed, except by those that say "in
 * place"; of these the *_residual ones return a new tensor while a tape records, so a caller uses what they return. */
#ifndef CLOCHER_OPS_OPS_H
#define CLOCHER_OPS_OPS_H

#include "ops/tape.h"

/* (T, C): rows batch->ids of w (V, C). */
ie_tensor *ie_op_embed(ie_ctx *ctx, const ie_weight *w, const ie_batch *batch);

/* (T, C): x / sqrt(mean(x^2) + eps) * weight (C). Zhang & Sennrich 2019. */
ie_tensor *ie_op_rms_norm(ie_ctx *ctx, const ie_tensor *x, const ie_vector *weight, float eps);

/* (T, C): (x - mean) / sqrt(variance + eps) * weight + bias over each row. Ba et al. 2016. */
ie_tensor *ie_op_layer_norm(ie_ctx *ctx, const ie_tensor *x, const ie_vector *weight, const ie_vector *bias,
                            float eps);

/* (T, R): x (T, K) W^T + b. */
ie_tensor *ie_op_linear(ie_ctx *ctx, const ie_tensor *x, const ie_weight *w);

/* q (T, H, D), k and v (T, HK, D) in one pass over x (T, C). The weights are (H D, C) and (HK D, C). */
typedef struct ie_qkv {
  ie_tensor *q, *k, *v;
} ie_qkv;
ie_qkv ie_op_qkv(ie_ctx *ctx, const ie_tensor *x, const ie_weight *wq, const ie_weight *wk,
                 const ie_weight *wv, int64_t head_dim);

/* The same from one matrix (H * 3 D, C) whose rows are q, k and v of head 0, then of head 1, ... */
ie_qkv ie_op_qkv_interleaved(ie_ctx *ctx, const ie_tensor *x, const ie_weight *w, int64_t head_dim);

/* (T, R): activation(x W^T + b). */
ie_tensor *ie_op_linear_activation(ie_ctx *ctx, const ie_tensor *x, const ie_weight *w,
                                   ie_activation activation);

/* In place: cap * tanh(x / cap). Returns x. */
ie_tensor *ie_op_soft_cap(ie_ctx *ctx, ie_tensor *x, float cap);

/* In place: residual (T, R) += x (T, K) W^T + b. Returns residual. */
ie_tensor *ie_op_linear_residual(ie_ctx *ctx, ie_tensor *residual, const ie_tensor *x, const ie_weight *w);

/* (T, F): silu(x Wg^T + bg) * (x Wu^T + bu), both products in one pass over x (T, C). Shazeer 2020. */
ie_tensor *ie_op_swiglu(ie_ctx *ctx, const ie_tensor *x, const ie_weight *gate, const ie_weight *up);

/* Rotation tables of a batch: cos and sin (T, D/2) of position * frequency, times `scale` (YaRN's attention
 * factor). inv_freq (D/2). The angle is rounded to f32 as the reference does. bf16: what is stored is rounded to
 * bfloat16, as by code that keeps its tables so. */
typedef struct ie_rope_table {
  ie_tensor *cos, *sin;
} ie_rope_table;
ie_rope_table ie_op_rope_table(ie_ctx *ctx, const ie_batch *batch, const float *inv_freq, int64_t half,
                               float scale, bool bf16);

/* In place: rotates the pairs (i, i + half) of each head of x (T, H, D), half = columns of the table; what stands
 * beyond 2 half passes through. Su et al. 2021, half-split. Returns x. */
ie_tensor *ie_op_rope(ie_ctx *ctx, ie_tensor *x, ie_rope_table table);

/* In place: puts k and v (T, HK, D) into their slots. */
void ie_op_kv_append(ie_ctx *ctx, ie_kv_layer *kv, const ie_tensor *k, const ie_tensor *v,
                     const ie_batch *batch);

/* (T, H D): attention of q (T, H, D) over the cached keys of each token's sequence. */
ie_tensor *ie_op_attention(ie_ctx *ctx, const ie_tensor *q, const ie_kv_layer *kv, const ie_batch *batch,
                           const ie_attention_options *options);

/* The k experts of each token: expert (T, k) i32, weight (T, k). */
typedef struct ie_routing {
  ie_tensor *expert, *weight;
} ie_routing;
ie_routing ie_op_route(ie_ctx *ctx, ie_tensor *logits, const ie_route_options *options);

/* In place: residual (T, C) += sum over chosen experts of weight * expert(x). Returns residual. */
ie_tensor *ie_op_moe_residual(ie_ctx *ctx, ie_tensor *residual, const ie_tensor *x, ie_routing routing,
                              const ie_moe_options *options);

/* (wanted, C): the rows of x whose logits are asked for. */
ie_tensor *ie_op_gather_wanted(ie_ctx *ctx, ie_tensor *x, const ie_batch *batch);

/* The loss of x (T, C) against an output matrix (tensor/device.h: ie_loss_options), in nats. While a tape records, the
 * gradients of x and of the output matrix are computed on the way: there are never logits of all rows. A loss that is
 * not finite is an error. 0 after a failure and in a dry run. */
double ie_op_cross_entropy(ie_ctx *ctx, const ie_tensor *x, const ie_loss_options *options);

/* Returns x; a NaN or an infinity in it is an error that names `what`. */
ie_tensor *ie_op_check_finite(ie_ctx *ctx, ie_tensor *x, const char *what);

#endif
