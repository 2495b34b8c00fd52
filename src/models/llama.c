/* Llama 3.x (Grattafiori et al. 2024): no biases unless config.json says so, RoPE scaled for long contexts. */
#include "models/dense.h"

#include <string.h>

static bool recognise(const json_t *config, const ie_checkpoint *checkpoint) {
  (void)checkpoint;
  const char *type = json_string_value(json_object_get(config, "model_type"));
  return type && !strcmp(type, "llama");
}

static void config(ie_json_reader *c, const ie_checkpoint *checkpoint, void *net) {
  (void)checkpoint;
  ie_dense *m = net;
  m->qkv_bias = m->o_bias = ie_json_bool(c, "attention_bias", false);
  m->mlp_bias = ie_json_bool(c, "mlp_bias", false);
  ie_dense_config(c, m, 1e4);
}

static const ie_decoder_spec spec = {
    .net_bytes = sizeof(ie_dense),
    .layer_bytes = sizeof(ie_dense_layer),
    .config = config,
    .bind = ie_dense_bind,
    .block = ie_dense_block,
    .last = ie_dense_last,
};

const ie_arch ie_arch_llama = {.name = "llama", .recognise = recognise, .decoder = &spec};
