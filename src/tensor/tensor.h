/* Tensors, weights and the batch: the nouns that operations work on.
 *
 * A tensor is a dense row-major array in the arena (or borrowed memory). A weight is one matrix, or a stack of
 * expert matrices, in any encoding; its kernels are chosen once, when it is bound, so its format never appears
 * in a model file. Dimension letters: docs/glossary.md. */
#ifndef CLOCHER_TENSOR_TENSOR_H
#define CLOCHER_TENSOR_TENSOR_H

#include "clocher/tensor.h"
#include "kernels/kern.h"
#include "tensor/param.h"

#include <stdbool.h>
#include <stdint.h>

enum { IE_TENSOR_RANK = 4 };

typedef struct ie_tensor {
  ie_dtype dtype; /* IE_F32 or IE_I32 */
  int rank;
  int64_t shape[IE_TENSOR_RANK]; /* outermost first; unused entries are 1 */
  void *data;                    /* NULL in a dry run */
  /* Of a tape (ops/tape.h): */
  real *grad;      /* as data; NULL until something flows back, and in a dry run */
  bool needs_grad; /* a parameter or an input that is differentiated stands before it */
  bool has_grad;   /* grad holds sums (in a dry run: would) */
  bool has_place;  /* grad has its memory already */
} ie_tensor;

/* Bytes of a number in memory: IE_F32 is held as `real`, which the gradient-check build makes double. */
static inline size_t ie_number_bytes(ie_dtype dtype) {
  return dtype == IE_F32 ? sizeof(real) : ie_dtype_bytes(dtype);
}

static inline int64_t ie_tensor_count(const ie_tensor *t) {
  return t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
}
static inline real *ie_tensor_f32(const ie_tensor *t) {
  return t->data;
}
static inline int32_t *ie_tensor_i32(const ie_tensor *t) {
  return t->data;
}

/* Tensors of a tape: as many as it takes, at addresses that stay. Made on demand, kept until it is freed. */
enum { IE_POOL_CHUNK = 256, IE_POOL_CHUNKS = 1 << 12 };
typedef struct ie_tensor_pool {
  ie_tensor *chunk[IE_POOL_CHUNKS];
} ie_tensor_pool;
/* The i-th tensor; NULL when memory is out or there are too many. */
ie_tensor *ie_tensor_pool_at(ie_tensor_pool *pool, int i);
void ie_tensor_pool_free(ie_tensor_pool *pool);

/* A vector parameter (norm weight, bias, sinks), as it lies in the checkpoint. data NULL: absent. */
typedef struct ie_vector {
  const void *data; /* (n) of dtype */
  ie_dtype dtype;   /* IE_F32, IE_F16 or IE_BF16 */
  int64_t n;
  ie_param *param; /* data is its value; NULL: frozen */
} ie_vector;

real ie_vector_at(const ie_vector *v, int64_t i);

/* A weight (E, R, K); E = 1 for a plain matrix. Borrowed bytes: the checkpoint or the model owns them. */
typedef struct ie_weight {
  const char *name; /* for messages, borrowed */
  ie_wformat format;
  int64_t experts, rows, cols;
  const uint8_t *part[2];
  size_t row_bytes[2];    /* stride between rows, in each part */
  size_t expert_bytes[2]; /* stride between experts */
  bool exact;             /* products of class fp32 whatever the context's class (routers) */
  const void *bias;       /* (E, R) of bias_dtype or NULL */
  ie_dtype bias_dtype;
  int64_t bias_stride;          /* elements between the biases of two experts */
  ie_param *param, *bias_param; /* part[0] and bias are their values (E, R, K) and (E, R); NULL: frozen */
  const struct ie_low_rank *low_rank; /* an adapter; NULL: none. Owned by the model */
  /* Chosen at bind from the device's table: */
  const ie_product *few, *many; /* many NULL: there is none */
  int64_t many_min_tok;
} ie_weight;

/* An adapter on a plain weight: y = x W^T + scale * (x A^T) B^T (Hu et al. 2021). */
typedef struct ie_low_rank {
  ie_weight a, b; /* (r, K) and (R, r), products of class fp32 */
  float scale;
} ie_low_rank;

/* The rows of one expert as kernels take them. */
ie_wview ie_weight_view(const ie_weight *w, int64_t expert);
/* The bias of one expert, or NULL. */
const void *ie_weight_bias(const ie_weight *w, int64_t expert);
/* Bytes that one expert occupies: parts and bias. What a product reads from memory. */
size_t ie_weight_bytes(const ie_weight *w);
/* Chooses the kernels of arithmetic class `cls`. */
void ie_weight_choose(ie_weight *w, const ie_kernels *kernels, ie_class cls);
/* The product for T tokens. */
const ie_product *ie_weight_product(const ie_weight *w, int64_t T);

/* One forward's tokens. Arrays have `tokens` entries and are borrowed for the duration of the call. Tokens of one
 * sequence stand in the order of their positions; sequences may follow each other. */
typedef struct ie_batch {
  int64_t tokens;
  const int32_t *ids;
  const int32_t *position; /* of each token in its sequence, from 0 */
  const int32_t *sequence; /* which cache row each token belongs to */
  const int32_t *wanted;   /* (wanted_count) indices of the tokens whose logits are asked for, ascending */
  int64_t wanted_count;
  /* Of devices that cannot look into the arrays when they launch; 0: not told. */
  int64_t reach;       /* every position is below it */
  int64_t longest_run; /* at least the most tokens of one sequence */
} ie_batch;

/* Keys and values of one layer for all sequences: (B, HK, cap, D) each. The token at position p of sequence b is
 * in slot p % cap, so a layer with a window keeps a ring and a full layer has cap >= context. cap is a multiple
 * of 64, so the tiles of the attention kernel begin at the same positions whatever the chunks were.
 *
 * In an int8 layer (full attention only; blocks/kv_int8.h has the numbers) a group of IE_KV_GROUP positions is
 * quantised when its last one is written. The query at position p reads the groups before its own from k and v, and
 * its own from `recent`, exact: what a query reads depends on its position alone. `recent` is a ring that holds a
 * group more than the tokens of one append. */
typedef struct ie_kv_layer {
  /* With a tape no cache is written: the op that appends leaves the forward's own k and v (T, HK, D) here for
   * attention. Before them every sequence sees the prefix (P, HK, D), an input like any other; NULL: none. */
  const ie_tensor *step_k, *step_v, *prefix_k, *prefix_v;
  void *k, *v; /* of dtype */
  ie_dtype dtype;
  int64_t sequences, heads, cap, dim;
  uint16_t *k_scale, *v_scale; /* of IE_I8, bf16: (B, HK, cap / IE_KV_GROUP, D) and (B, HK, cap); else NULL */
  struct ie_kv_layer *recent;  /* of IE_I8: of a float type; else NULL */
} ie_kv_layer;

#endif
