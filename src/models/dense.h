/* The dense decoder that Qwen and Llama share: pre-norm, grouped queries, SwiGLU.
 *
 *   x += O attention(rope(norm(Q n)), rope(norm(K n)), V n)    n = rms_norm(x); the norms per head where there are any
 *   x += down(silu(gate n) * up n)                             n = rms_norm(x)
 *
 * A model file says what its architecture has of it; the layout is Hugging Face's. */
#ifndef CLOCHER_MODELS_DENSE_H
#define CLOCHER_MODELS_DENSE_H

#include "models/arch.h"

typedef struct ie_dense_spec {
  bool qkv_bias, o_bias, mlp_bias;
  bool qk_norm;                    /* an RMS norm over each head of q and k, before RoPE */
  double rope_theta, rms_norm_eps; /* when config.json has none */
} ie_dense_spec;

ie_status ie_dense_open(ie_binder *binder, ie_json_reader *config, const ie_dense_spec *spec, ie_model *model,
                        void **net);
void ie_dense_release(void *net);
ie_tensor *ie_dense_forward(ie_ctx *ctx, const void *net, ie_kv_layer *kv, const ie_batch *batch,
                            const ie_hooks *hooks);

#endif
