/* Qwen 2, 2.5 and 3, dense. Qwen 2 and 2.5 have biases on q, k and v; Qwen 3 has none and an RMS norm over each head
 * of q and k (Yang et al. 2024, 2025). */
#include "models/dense.h"

#include <string.h>

static const char *model_type(const json_t *config) {
  const char *type = json_string_value(json_object_get(config, "model_type"));
  return type ? type : "";
}

static bool recognise(const json_t *config, const ie_checkpoint *checkpoint) {
  (void)checkpoint;
  return !strcmp(model_type(config), "qwen2") || !strcmp(model_type(config), "qwen3");
}

static void config(ie_json_reader *c, const ie_checkpoint *checkpoint, void *net) {
  (void)checkpoint;
  ie_dense *m = net;
  m->qk_norm = !strcmp(model_type(c->object), "qwen3");
  m->qkv_bias = m->qk_norm ? ie_json_bool(c, "attention_bias", false) : true;
  m->o_bias = m->qk_norm && m->qkv_bias;
  ie_dense_config(c, m, m->qk_norm ? 1e6 : 1e4);
}

static const ie_decoder_spec spec = {
    .net_bytes = sizeof(ie_dense),
    .layer_bytes = sizeof(ie_dense_layer),
    .config = config,
    .bind = ie_dense_bind,
    .block = ie_dense_block,
    .last = ie_dense_last,
};

const ie_arch ie_arch_qwen = {.name = "qwen", .recognise = recognise, .decoder = &spec};
