/* An architecture: what a model file gives to the registry, and the model that the engine runs. */
#ifndef CLOCHER_MODELS_ARCH_H
#define CLOCHER_MODELS_ARCH_H

#include "base/hash.h"
#include "base/json.h"
#include "clocher/model.h"
#include "formats/checkpoint.h"
#include "models/bind.h"
#include "ops/ops.h"

/* What a layer's cache looks like. */
typedef struct ie_kv_spec {
  int64_t heads, dim;
  int64_t window; /* positions that a query sees; 0: all */
} ie_kv_spec;

/* Called with the residual after each layer (0: the embedding), when somebody listens. */
typedef struct ie_hooks {
  void (*hidden)(void *arg, int64_t layer, const ie_tensor *x);
  void *arg;
} ie_hooks;

/* The experts of a layer; NULL in a layer without. */
typedef struct ie_moe_layer {
  const ie_weight *gate_up, *down;
  int64_t top_k;
} ie_moe_layer;

/* All architectures so far are decoders (models/decoder.h); an encoder will bring a second kind. */
typedef struct ie_arch {
  const char *name;        /* "gpt-oss" */
  const char *chat_format; /* "harmony", or NULL */
  /* True when this file knows the checkpoint: by config.json's model_type, or by a tensor's name. */
  bool (*recognise)(const json_t *config, const ie_checkpoint *checkpoint);
  const struct ie_decoder_spec *decoder;
} ie_arch;

struct ie_model {
  ie_device *device;
  ie_checkpoint *checkpoint;
  const ie_arch *arch;
  void *net;
  ie_class cls;
  ie_owned *owned;
  ie_linear_list linears; /* owned */
  ie_low_rank *low_rank;  /* of an adapter, owned; NULL: none */
  ie_param_list params;   /* of a model that is opened for training; owned */
  bool plan_only;
  uint8_t config_digest[IE_SHA256_BYTES]; /* of config.json, for saved states */
  ie_kv_spec *kv;                         /* (info.layers), owned */
  bool limited;                           /* by ie_model_place: states take their memory when they are made */
  ie_moe_layer *moe;                      /* (info.layers), owned */
  bool *bound;              /* (tensors of the checkpoint) which of them are computed where they lie, owned */
  size_t expert_bytes;      /* of the weights: stacks of experts */
  size_t quantised_bytes;   /* of info.weights_copied_bytes */
  size_t tokenizer_bytes;   /* of the directory's tokenizer file; 0: it has none */
  struct ie_stream *stream; /* experts and embedding read while it computes; NULL: resident */
  void (*stream_free)(struct ie_stream *stream); /* engine/streaming.h, which stands right of this layer */
  char weights[64];
  ie_model_info info;
};

/* Bytes of an embedding of which only rows are read, where it is mapped; 0: none, as with one that is the head too.
 * *replaced: info.weights_replaced_bytes has them, as a quantised head was made of it. */
size_t ie_model_lookup_bytes(const ie_model *model, bool *replaced);

/* All architectures, ends with NULL. registry.c. */
extern const ie_arch *const ie_archs[];

extern const ie_arch ie_arch_gptoss;
extern const ie_arch ie_arch_qwen;
extern const ie_arch ie_arch_llama;
extern const ie_arch ie_arch_gptneox;
extern const ie_arch ie_arch_nanochat;

#endif
