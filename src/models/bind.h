/* Binding: from tensors in a checkpoint to weights that kernels read, by a table.
 *
 * A model lists what it needs: the tensor's name (with %d for the layer), the field that it fills, and its shape in
 * the model's own dimensions. The binder finds the tensor, checks type and shape, points the weight at the mapped
 * bytes and chooses its kernels. A matrix that the checkpoint stores input-first is transposed once, into memory
 * that the model owns; dense matrices are quantised into such memory where that is asked for. The first error is kept, with the tensor, what was expected and what was found. */
#ifndef CLOCHER_MODELS_BIND_H
#define CLOCHER_MODELS_BIND_H

#include "formats/checkpoint.h"
#include "tensor/device.h"

/* Memory that a model owns beside the mapping. */
typedef struct ie_owned {
  void *memory;
  size_t bytes;
  struct ie_owned *next;
} ie_owned;

/* A linear layer's matrix, which an adapter can be put on. */
typedef struct ie_linear {
  char *name; /* transformers': "model.layers.0.self_attn.q_proj.weight"; owned */
  ie_weight *weight;
  bool output; /* the output matrix */
} ie_linear;

typedef struct ie_linear_list {
  ie_linear *item; /* (count) owned */
  size_t count, capacity;
} ie_linear_list;

typedef struct ie_binder {
  ie_device *device;
  const ie_checkpoint *checkpoint;
  ie_class cls;
  ie_wformat dense;        /* IE_W_INT8 or IE_W_INT4: dense matrices are quantised; IE_W_COUNT: as they lie */
  const ie_weight *lookup; /* the embedding: rows of it are looked up, so it is not quantised */
  bool deterministic;
  bool limited;   /* a memory limit will follow: what is quantised leaves the page cache */
  bool plan_only; /* transposed and quantised weights, and masters, get no memory */
  ie_param_list
      *params; /* training: every tensor becomes a parameter of this list (models/bind_train.h); else NULL */
  bool create; /* there are no weights: parameters are made from the seed */
  uint64_t seed;
  ie_dtype create_dtype;   /* what they will be stored as: IE_F32, IE_F16 or IE_BF16 */
  int64_t layers;          /* of the model that is bound */
  ie_linear_list *linears; /* those that were bound are added; the model's */
  const int64_t *dims;     /* the model's dimensions, by the model's own index; dims[0] = 1 */
  ie_owned *owned;         /* handed to the model */
  size_t owned_bytes, bound_bytes;
  size_t replaced_bytes;  /* of bound_bytes: read once and quantised */
  size_t quantised_bytes; /* of owned_bytes: what they became */
  bool *bound; /* (tensors of the checkpoint) set for those that are computed where they lie; the model's */
  int64_t parameters;        /* elements of all bound tensors */
  int64_t expert_parameters; /* of those in stacks of experts */
  unsigned formats;          /* bit per ie_wformat in use */
  ie_status status;          /* the first failure */
  ie_error *error;
} ie_binder;

typedef enum ie_bind_kind {
  IE_BIND_VECTOR,    /* ie_vector (cols): a norm's weight, sinks */
  IE_BIND_MATRIX,    /* ie_weight (rows, cols), f32, f16 or bf16 */
  IE_BIND_ROWS,      /* ie_weight: rows first .. first + rows of a matrix (total, cols) */
  IE_BIND_BIAS,      /* the bias (experts, rows) of the ie_weight in the same field */
  IE_BIND_BIAS_ROWS, /* elements first .. first + rows of a vector (total) */
  IE_BIND_MXFP4,     /* ie_weight (experts, rows, cols): name + blocks and scales suffixes */
  IE_BIND_EXPERTS,   /* ie_weight (experts, rows, cols) stored (experts, cols, rows): transposed once */
} ie_bind_kind;

typedef struct ie_bind_entry {
  const char *name; /* printf format with one %d where the layer stands */
  ie_bind_kind kind;
  size_t field;                /* offset in the struct that is filled */
  uint8_t experts, rows, cols; /* indices into dims; 0 means 1 */
  uint8_t total, first;        /* IE_BIND_ROWS: indices into dims; first = 0 means row 0 */
  const char *blocks, *scales; /* IE_BIND_MXFP4: suffixes */
  bool f32;                    /* products of class fp32 whatever the model's class (routers) */
  bool padded;                 /* IE_BIND_ROWS: the other rows are padding and belong to the parameter */
  const char *hf;              /* transformers' name of the parameter, a format like name; NULL: name */
} ie_bind_entry;

/* Entries of the usual kinds. */
#define IE_MATRIX(tensor, at, r, c)                                                                          \
  { .name = tensor, .kind = IE_BIND_MATRIX, .field = at, .rows = r, .cols = c }
#define IE_VECTOR(tensor, at, c)                                                                             \
  { .name = tensor, .kind = IE_BIND_VECTOR, .field = at, .cols = c }
#define IE_BIAS(tensor, at, r)                                                                               \
  { .name = tensor, .kind = IE_BIND_BIAS, .field = at, .rows = r }

/* Attention as Hugging Face's decoders name it: q (HD, C), k and v (KD, C), o (C, HD), in the fields that L gives. */
#define IE_HF_ATTENTION(L, HD, KD, C)                                                                        \
  IE_MATRIX("model.layers.%d.self_attn.q_proj.weight", L(q), HD, C),                                         \
      IE_MATRIX("model.layers.%d.self_attn.k_proj.weight", L(k), KD, C),                                     \
      IE_MATRIX("model.layers.%d.self_attn.v_proj.weight", L(v), KD, C),                                     \
      IE_MATRIX("model.layers.%d.self_attn.o_proj.weight", L(o), C, HD)
#define IE_HF_QKV_BIAS(L, HD, KD)                                                                            \
  IE_BIAS("model.layers.%d.self_attn.q_proj.bias", L(q), HD),                                                \
      IE_BIAS("model.layers.%d.self_attn.k_proj.bias", L(k), KD),                                            \
      IE_BIAS("model.layers.%d.self_attn.v_proj.bias", L(v), KD)

/* Binds n entries into *target, for one layer. */
void ie_bind_entries(ie_binder *binder, const ie_bind_entry *entries, size_t n, int layer, void *target);

/* For an output matrix that is the embedding's: a copy of the weight, quantised where dense matrices are. Does nothing
 * to one that has bytes of its own. */
void ie_bind_tied_head(ie_binder *binder, const ie_weight *embed, ie_weight *head);

/* --- For the binder's own files ------------------------------------------------------------------------------ */

/* A tensor of this shape, noted as used; NULL after an error. */
const ie_tensor_info *ie_bind_find(ie_binder *binder, const char *name, const int64_t *shape, int rank);
/* F32, F16 or BF16, aligned to its element. */
bool ie_bind_float(ie_binder *binder, const ie_tensor_info *t);
/* Blocks and scales of a stack (E, R, K) in MXFP4. */
bool ie_bind_mxfp4_find(ie_binder *binder, const char *name, const char *blocks, const char *scales,
                        const int64_t shape[3], const ie_tensor_info *out[2]);
void ie_bind_weight_finish(ie_binder *binder, const ie_bind_entry *entry, ie_weight *w);
/* Memory that the model will own; NULL after an error. */
void *ie_bind_alloc(ie_binder *binder, size_t bytes);

void ie_owned_free(ie_device *device, ie_owned *owned);

#endif
