/* The device as two tables: management calls, and one launcher per operation.
 *
 * A launcher takes tensors whose shapes its op has checked, splits the work and calls kernels. An empty entry is
 * a refusal that names the op, never a silent run elsewhere. In a dry run (ctx->dry) a launcher takes the scratch
 * that it would take from the arena and returns.
 *
 * The context carries the device, the arena and the first error of a forward. */
#ifndef CLOCHER_TENSOR_DEVICE_H
#define CLOCHER_TENSOR_DEVICE_H

#include "base/team.h"
#include "clocher/device.h"
#include "tensor/arena.h"
#include "tensor/experts.h"
#include "tensor/tensor.h"

enum { IE_CTX_NODES = 256 }; /* tensors alive between two marks */

/* What a forward read and computed; the launchers count, so the numbers are those of the work done. */
typedef struct ie_work {
  uint64_t weight_bytes; /* bytes of weights read, each panel once per pass over it */
  uint64_t kv_bytes;     /* bytes of cached keys and values read */
  uint64_t flop;         /* 2 per multiply-add of products and attention */
} ie_work;

typedef struct ie_ctx {
  struct ie_device *device;
  ie_arena arena;
  ie_class cls;                 /* arithmetic class of all products but the router's */
  bool deterministic;           /* rows do not depend on how many are computed together */
  bool dry;                     /* measuring: shapes are checked and memory is taken, nothing is computed */
  int layer;                    /* for messages; -1 outside the layers */
  bool (*cancelled)(void *arg); /* asked between layers; may be NULL */
  void *cancelled_arg;
  struct ie_route_balance *balance; /* (layers) of routers that name none of their own; NULL: none */
  ie_experts *experts;              /* who has the experts' bytes; NULL: they lie where their weights point */
  ie_status status;                 /* the first failure, IE_OK until then */
  ie_error error;
  ie_tensor nodes[IE_CTX_NODES];
  int node_count;
  ie_work work;
  ie_tensor_pool *pool; /* where tensors are taken from; NULL: nodes */
  struct ie_tape *tape; /* ops/tape.h: what was computed is differentiated; NULL: inference */
} ie_ctx;

/* Stores the first error (later ones are dropped), with the layer in front. Returns NULL. */
__attribute__((format(printf, 3, 4))) void *ie_ctx_fail(ie_ctx *ctx, ie_status status, const char *format,
                                                        ...);

/* The failure of a check: `value` stands at index `at` of `what`, rows of `width` numbers, one a token. Returns NULL. */
void *ie_ctx_nonfinite(ie_ctx *ctx, const char *what, double value, int64_t at, int64_t width);

/* A mark over arena and tensors. */
typedef struct ie_ctx_mark {
  ie_arena_mark arena;
  int node_count;
} ie_ctx_mark;
ie_ctx_mark ie_ctx_save(const ie_ctx *ctx);
void ie_ctx_reset(ie_ctx *ctx, ie_ctx_mark mark);

/* A new tensor of the arena; unused trailing dimensions are 1. NULL after a failure. */
ie_tensor *ie_ctx_tensor(ie_ctx *ctx, ie_dtype dtype, int rank, const int64_t *shape);
/* Scratch of the arena. False after a failure; *out is NULL in a dry run. */
bool ie_ctx_scratch(ie_ctx *ctx, size_t bytes, void **out);

/* Softmax attention over cached keys. Gemma-style soft-caps and biases come when a model needs them. */
typedef struct ie_attention_options {
  float scale;     /* of q . k */
  int64_t window;  /* query p sees keys p - window < s <= p; 0: all s <= p */
  ie_vector sinks; /* (H) a logit per head that takes weight and gives no value; data NULL: none */
} ie_attention_options;

/* What keeps all experts of a router in use: the auxiliary loss of Fedus et al. 2021 as transformers'
 * load_balancing_loss_func computes it, E * sum over e of f_e P_e, with f_e the tokens that chose expert e and P_e the
 * mean of its probability (softmax over all logits), both over the tokens of one forward: k when all are used alike,
 * E when k = 1 and one takes everything. f is a constant for the gradient.
 *
 * A struct is that of one router. Its numbers are added to in the backward of a route, which happens once for each
 * forward even where blocks are computed again; whoever reads them sets them to zero. */
typedef struct ie_route_balance {
  double coefficient; /* of the loss in what is minimised; 0: it is only reported */
  double loss;        /* += tokens of the forward * the loss, without the coefficient */
  int64_t tokens;     /* += tokens of the forward */
  int64_t *chosen;    /* (E) += tokens that chose each expert, or NULL */
} ie_route_balance;

/* How the router's logits become experts and weights. */
typedef struct ie_route_options {
  int64_t top_k;
  ie_route_balance *balance; /* of the backward; NULL: none */
} ie_route_options;          /* softmax over the chosen logits */

/* What an attention reads under a tape: tensors, not a cache. Tokens of a sequence stand together, at consecutive
 * positions. The token at position p of a sequence sees those of its sequence at p - window < s <= p; a prefix stands
 * at positions 0 .. P - 1 of every sequence, which then begins at P. */
typedef struct ie_attention_inputs {
  const ie_tensor *q;                   /* (T, H, D) */
  const ie_tensor *k, *v;               /* (T, HK, D) */
  const ie_tensor *prefix_k, *prefix_v; /* (P, HK, D); NULL: none */
} ie_attention_inputs;

/* Where gradients are added; NULL: not wanted. Shapes as the inputs'; sinks (H). */
typedef struct ie_attention_grads {
  real *q, *k, *v, *prefix_k, *prefix_v, *sinks;
} ie_attention_grads;

/* Where the gradients of a mixture are added; NULL: not wanted. Those of the experts go to their parameters. */
typedef struct ie_moe_grads {
  real *x;      /* (T, C) */
  real *weight; /* (T, k) */
} ie_moe_grads;

/* Softmax cross-entropy of x (T, C) against an output matrix. The loss is scale * sum over t of weight[t] *
 * (log sum exp(l_t) - l_t[target[t]]) in nats, l_t = x_t W^T + b, with the head's adapter (soft-capped: cap tanh(l / cap)). */
typedef struct ie_loss_options {
  const ie_weight *head;
  const int32_t *target; /* (T) below the vocabulary; negative: not counted, as are those of weight 0 */
  const float *weight;   /* (T) or NULL: ones */
  double scale;
  float soft_cap; /* 0: none */
} ie_loss_options;

typedef enum ie_moe_activation { IE_MOE_SWIGLU_CLAMPED } ie_moe_activation;

/* A mixture of experts. gate_up is (E, 2F, C) with interleaved rows (2i gate, 2i+1 up), down is (E, C, F). */
typedef struct ie_moe_options {
  const ie_weight *gate_up, *down;
  ie_moe_activation activation;
  float alpha, limit; /* of the clamped SwiGLU; limit = inf: no clamp */
} ie_moe_options;

typedef struct ie_device_ops {
  /* y (T, C) = rows ids of w (V, C); of the weight formats in embed_formats */
  void (*embed)(ie_ctx *ctx, ie_tensor *y, const ie_weight *w, const ie_batch *batch);
  /* y (T, C) = rows index[0..T) of x (.., C) */
  void (*gather_rows)(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const int32_t *index);
  void (*rms_norm)(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_vector *weight, float eps);
  /* y, x (T, C); weight and bias (C) of one dtype */
  void (*layer_norm)(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_vector *weight,
                     const ie_vector *bias, float eps);
  /* In place. */
  void (*activate)(ie_ctx *ctx, ie_tensor *x, ie_activation activation);
  /* y[0..3) (T, H, D): the q, k and v of each head of x (T, H * 3 D) */
  void (*split_heads)(ie_ctx *ctx, ie_tensor *const *y, const ie_tensor *x);
  /* In place: x = cap * tanh(x / cap) */
  void (*soft_cap)(ie_ctx *ctx, ie_tensor *x, float cap);
  /* y[i] (T, R_i) = x (T, K) w[i]^T + bias for n weights that share x; add: y += */
  void (*linear)(ie_ctx *ctx, ie_tensor *const *y, const ie_tensor *x, const ie_weight *const *w, int n,
                 bool add);
  /* cos, sin (T, half) of position * inv_freq, the angle rounded to f32, times scale; bf16: rounded to that */
  void (*rope_table)(ie_ctx *ctx, ie_tensor *cos, ie_tensor *sin, const ie_batch *batch,
                     const float *inv_freq, float scale, bool bf16);
  /* x (T, H, D) in place; cos, sin (T, half): the first 2 half numbers of a head are rotated */
  void (*rope)(ie_ctx *ctx, ie_tensor *x, const ie_tensor *cos, const ie_tensor *sin);
  /* k, v (T, HK, D) to their slots */
  void (*kv_append)(ie_ctx *ctx, ie_kv_layer *kv, const ie_tensor *k, const ie_tensor *v,
                    const ie_batch *batch);
  /* y, q (T, H, D) */
  void (*attention)(ie_ctx *ctx, ie_tensor *y, const ie_tensor *q, const ie_kv_layer *kv,
                    const ie_batch *batch, const ie_attention_options *options);
  /* expert (T, k) i32, weight (T, k) f32 from logits (T, E); ties go to the smaller index */
  void (*route)(ie_ctx *ctx, ie_tensor *expert, ie_tensor *weight, const ie_tensor *logits,
                const ie_route_options *options);
  /* y (T, C) += sum over the k experts of each token of weight * expert(x), added in the order of k */
  void (*moe)(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_tensor *expert, const ie_tensor *weight,
              const ie_moe_options *options);
  /* y (T, F) = silu(gate) * up; y may be gate */
  void (*swiglu)(ie_ctx *ctx, ie_tensor *y, const ie_tensor *gate, const ie_tensor *up);
  /* First index that is not finite, or -1. A device that works behind the host's back answers -1, and at the end of
   * the forward fails by ie_ctx_nonfinite. `what` names x and outlives the forward. */
  int64_t (*find_nonfinite)(ie_ctx *ctx, const ie_tensor *x, const char *what);

  /* --- With a tape. real * are gradients, to which is added. ------------------------------------------- */

  /* A product with a weight in each direction. y (T, R) = or += x (T, K) w[expert]^T + bias; dx (T, K) += dy (T, R) w;
   * dw (R, K) += dy^T x and the sum of dy to the bias's gradient. Class of ctx->cls: both sides rounded to bf16 in
   * class bf16; `exact` weights (routers) in f32. */
  void (*linear_train)(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_weight *w, bool add);
  void (*linear_backward)(ie_ctx *ctx, real *dx, const real *dy, const ie_tensor *x, const ie_weight *w);
  /* x (n) = 0 */
  void (*zero)(ie_ctx *ctx, real *x, int64_t n);
  /* x (n) *= factor */
  void (*scale)(ie_ctx *ctx, real *x, int64_t n, float factor);
  /* y (n) += x (n) */
  void (*add)(ie_ctx *ctx, real *y, const real *x, int64_t n);
  void (*copy)(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x);
  void (*embed_backward)(ie_ctx *ctx, const real *dy, const ie_weight *w, const ie_batch *batch);
  /* dx rows index[t] += dy row t */
  void (*gather_rows_backward)(ie_ctx *ctx, real *dx, const real *dy, int64_t width, const int32_t *index,
                               int64_t rows);
  void (*rms_norm_backward)(ie_ctx *ctx, real *dx, const real *dy, const ie_tensor *x,
                            const ie_vector *weight, float eps);
  void (*layer_norm_backward)(ie_ctx *ctx, real *dx, const real *dy, const ie_tensor *x,
                              const ie_vector *weight, const ie_vector *bias, float eps);
  void (*activate_backward)(ie_ctx *ctx, real *dx, const real *dy, const ie_tensor *x,
                            ie_activation activation);
  void (*split_heads_backward)(ie_ctx *ctx, real *dx, const real *const dy[3], const ie_tensor *q);
  /* In place on dy: y = cap tanh(x / cap) as it came out. */
  void (*soft_cap_backward)(ie_ctx *ctx, real *dy, const ie_tensor *y, float cap);
  /* In place on the gradient of x (T, H, D). */
  void (*rope_backward)(ie_ctx *ctx, real *dx, const ie_tensor *x, const ie_tensor *cos,
                        const ie_tensor *sin);
  void (*swiglu_backward)(ie_ctx *ctx, real *dgate, real *dup, const real *dy, const ie_tensor *gate,
                          const ie_tensor *up);
  /* y (T, H D); lse (T, H): log of the softmax's denominator, the sink's share in it. f32 whatever the class. */
  void (*attention_train)(ie_ctx *ctx, ie_tensor *y, ie_tensor *lse, const ie_attention_inputs *in,
                          const ie_batch *batch, const ie_attention_options *options);
  void (*attention_backward)(ie_ctx *ctx, const ie_attention_grads *to, const real *dy, const ie_tensor *y,
                             const ie_tensor *lse, const ie_attention_inputs *in, const ie_batch *batch,
                             const ie_attention_options *options);
  /* dlogits (T, E) from the gradient of the weights (T, k), which may be NULL, and of the balance; routing: expert and
   * weight (T, k) */
  void (*route_backward)(ie_ctx *ctx, real *dlogits, const real *dweight, const ie_tensor *logits,
                         ie_tensor *const routing[2], const ie_route_options *options);
  /* y (T, C) += the mixture; keeps what the backward needs: gate_up (T k, 2F), the outputs of the first product in the
   * order of the pairs (t, j) sorted by expert, then t */
  void (*moe_train)(ie_ctx *ctx, ie_tensor *y, ie_tensor *gate_up, const ie_tensor *x,
                    ie_tensor *const routing[2], const ie_moe_options *options);
  void (*moe_backward)(ie_ctx *ctx, const ie_moe_grads *to, const real *dy, const ie_tensor *gate_up,
                       const ie_tensor *x, ie_tensor *const routing[2], const ie_moe_options *options);
  /* Returns the loss; dx (T, C) += its gradient, and the head's parameters get theirs. dx NULL: not wanted; the loss
   * alone when the head has no parameters either. Logits exist for a few rows at a time. Its products are linear_train
   * and linear_backward; a head with an adapter is refused. */
  double (*cross_entropy)(ie_ctx *ctx, real *dx, const ie_tensor *x, const ie_loss_options *options);

  /* What embed reads: bit 1 << ie_wformat. (linear and moe read what the kernel of a weight, chosen at bind, is for.) */
  uint64_t embed_formats;
} ie_device_ops;

struct ie_device {
  const char *kind; /* "cpu", "cuda" */
  char name[112];   /* "cuda:0 NVIDIA H200", for messages; "cpu" */
  char note[192];   /* why "auto" did not choose another device; empty: nothing to say */
  void (*release)(struct ie_device *device);
  /* Memory of the host, for what the host writes: weights made at load, gradients. NULL when memory is out. */
  void *(*alloc)(struct ie_device *device, size_t bytes);
  void (*dealloc)(struct ie_device *device, void *memory, size_t bytes);
  /* Of a device that computes in memory of its own (tensor/device_memory.h); NULL: in the host's. */
  const struct ie_device_memory *memory;
  ie_device_ops ops;
  ie_kernels kernels; /* of the CPU: the device's own, or the host's for small work */
  ie_team *team;
};

/* Fills in the host's side of a device: kernel table and team, as options say. */
ie_status ie_device_host_open(ie_device *device, const ie_device_options *options, ie_error *error);

/* The CPU device's launchers, by file. */
void ie_cpu_fill_elementwise(ie_device_ops *ops);
void ie_cpu_fill_linear(ie_device_ops *ops);
void ie_cpu_fill_attention(ie_device_ops *ops);
void ie_cpu_fill_moe(ie_device_ops *ops);
void ie_cpu_fill_train(ie_device_ops *ops);             /* cpu_train.c: linear */
void ie_cpu_fill_train_elementwise(ie_device_ops *ops); /* cpu_train_elementwise.c */
void ie_cpu_fill_loss(ie_device_ops *ops);              /* cpu_loss.c */
void ie_cpu_fill_attention_train(ie_device_ops *ops);   /* cpu_attention_train.c */
void ie_cpu_fill_moe_train(ie_device_ops *ops);         /* cpu_moe_train.c */
void ie_cpu_fill_route_train(ie_device_ops *ops);       /* cpu_route_train.c: route, SwiGLU */

#endif
