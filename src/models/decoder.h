/* What all decoders share around their blocks: embedding, the table of angles, the loop over layers, the logits; and
 * on the way in, config, memory, binding, description. A model file gives its config, its table of tensors, its block
 * and its last step, and keeps an ie_decoder as the first member of its struct. */
#ifndef CLOCHER_MODELS_DECODER_H
#define CLOCHER_MODELS_DECODER_H

#include "models/arch.h"
#include "models/rope.h"

enum { IE_LAYERS_MAX = 4096, IE_WIDTH_MAX = 1 << 20 };

typedef struct ie_decoder {
  int64_t layers, C, H, HK, D, F, V, context;
  ie_rope rope;
  ie_weight embed, head; /* (V, C) */
  float soft_cap;        /* logits become cap tanh(logits / cap); 0: they stay */
  void *layer;           /* (layers) structs of the model's own, owned */
} ie_decoder;

/* How a model file fills in the rest. All get the model's struct, whose first member is the ie_decoder. */
typedef struct ie_decoder_spec {
  size_t net_bytes, layer_bytes;
  /* Dimensions and settings; the reader keeps the error. Layers are not there yet. */
  void (*config)(ie_json_reader *config, const ie_checkpoint *checkpoint, void *net);
  /* Settings of single layers; may be NULL. */
  void (*config_layers)(ie_json_reader *config, void *net);
  void (*bind)(ie_binder *binder, void *net);
  /* Changes to the description that ie_decoder_open made; may be NULL. */
  void (*describe)(const ie_binder *binder, const void *net, ie_model *model);
  ie_tensor *(*begin)(ie_ctx *ctx, const void *net, ie_tensor *x); /* after the embedding; may be NULL */
  ie_tensor *(*block)(ie_ctx *ctx, const void *net, int64_t layer, ie_tensor *x, ie_kv_layer *kv,
                      const ie_batch *batch, ie_rope_table rope);
  ie_tensor *(*last)(ie_ctx *ctx, const void *net, ie_tensor *x); /* the norm before the output matrix */
} ie_decoder_spec;

ie_status ie_decoder_open(const ie_decoder_spec *spec, ie_binder *binder, ie_json_reader *config,
                          ie_model *model, void **net);
void ie_decoder_release(void *net);
/* (wanted, V): the logits that the batch asks for; NULL when none, or after a failure. */
ie_tensor *ie_decoder_forward(const ie_decoder_spec *spec, ie_ctx *ctx, const void *net, ie_kv_layer *kv,
                              const ie_batch *batch, const ie_hooks *hooks);

/* (T, C): what the output matrix multiplies, of all tokens; hooks may be NULL. Under a tape kv (layers) holds nothing
 * but shapes and prefixes, and a batch must outlive the backward, as must kv. */
ie_tensor *ie_decoder_hidden(const ie_decoder_spec *spec, ie_ctx *ctx, const void *net, ie_kv_layer *kv,
                             const ie_batch *batch, const ie_hooks *hooks);

/* num_hidden_layers, hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, head_dim, vocab_size,
 * max_position_embeddings, and whether they fit each other. */
void ie_decoder_config(ie_json_reader *config, ie_decoder *decoder, int64_t context_default);

#define IE_BIND(binder, table, layer, target)                                                                \
  ie_bind_entries(binder, table, sizeof table / sizeof table[0], (int)(layer), target)

#endif
