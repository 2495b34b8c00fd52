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
  bool dry;                     /* measuring: shapes are checked and memory is taken, nothing is computed */
  int layer;                    /* for messages; -1 outside the layers */
  bool (*cancelled)(void *arg); /* asked between layers; may be NULL */
  void *cancelled_arg;
  ie_experts *experts; /* who has the experts' bytes; NULL: they lie where their weights point */
  ie_status status;    /* the first failure, IE_OK until then */
  ie_error error;
  ie_tensor nodes[IE_CTX_NODES];
  int node_count;
  ie_work work;
} ie_ctx;

/* Stores the first error (later ones are dropped), with the layer in front. Returns NULL. */
__attribute__((format(printf, 3, 4))) void *ie_ctx_fail(ie_ctx *ctx, ie_status status, const char *format,
                                                        ...);

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

/* How the router's logits become experts and weights. */
typedef struct ie_route_options {
  int64_t top_k;
} ie_route_options; /* softmax over the chosen logits */

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
  /* First index that is not finite, or -1. */
  int64_t (*find_nonfinite)(ie_ctx *ctx, const ie_tensor *x);

  /* What embed reads: bit 1 << ie_wformat. (linear and moe read what the kernel of a weight, chosen at bind, is for.) */
  uint64_t embed_formats;
} ie_device_ops;

struct ie_device {
  const char *kind;
  void (*release)(struct ie_device *device);
  /* Memory that kernels read: pinned or device memory elsewhere, pages here. NULL when memory is out. */
  void *(*alloc)(struct ie_device *device, size_t bytes);
  void (*dealloc)(struct ie_device *device, void *memory, size_t bytes);
  ie_device_ops ops;
  ie_kernels kernels; /* of the CPU: the device's own, or the host's for small work */
  ie_team *team;
};

/* The CPU device's launchers, by file. */
void ie_cpu_fill_elementwise(ie_device_ops *ops);
void ie_cpu_fill_linear(ie_device_ops *ops);
void ie_cpu_fill_attention(ie_device_ops *ops);
void ie_cpu_fill_moe(ie_device_ops *ops);

#endif
