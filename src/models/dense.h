/* The dense decoder that Qwen and Llama share: pre-norm, grouped queries, SwiGLU.
 *
 *   x += O attention(rope(norm(Q n)), rope(norm(K n)), V n)    n = rms_norm(x); the norms per head where there are any
 *   x += down(silu(gate n) * up n)                             n = rms_norm(x)
 *
 * A model file says what its architecture has of it; the layout is Hugging Face's. */
#ifndef CLOCHER_MODELS_DENSE_H
#define CLOCHER_MODELS_DENSE_H

#include "models/decoder.h"

typedef struct ie_dense_layer {
  ie_vector attn_norm, mlp_norm; /* (C) */
  ie_weight q, k, v, o;          /* (H D, C), (HK D, C) twice, (C, H D) */
  ie_vector q_norm, k_norm;      /* (D), with qk_norm */
  ie_weight gate, up, down;      /* (F, C) twice, (C, F) */
} ie_dense_layer;

typedef struct ie_dense {
  ie_decoder base;
  bool qk_norm; /* an RMS norm over each head of q and k, before RoPE */
  bool qkv_bias, o_bias, mlp_bias;
  bool tied; /* the output matrix is the embedding */
  float eps;
  ie_vector norm; /* (C) */
} ie_dense;

/* What both configs have; the flags above are the model file's. */
void ie_dense_config(ie_json_reader *config, ie_dense *dense, double rope_theta_default);

/* Entries of an ie_decoder_spec. */
void ie_dense_bind(ie_binder *binder, void *net);
ie_tensor *ie_dense_block(ie_ctx *ctx, const void *net, int64_t layer, ie_tensor *x, ie_kv_layer *kv,
                          const ie_batch *batch, ie_rope_table rope);
ie_tensor *ie_dense_last(ie_ctx *ctx, const void *net, ie_tensor *x);

#endif
