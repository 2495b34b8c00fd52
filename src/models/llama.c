/* Llama 3.x (Grattafiori et al. 2024): no biases unless config.json says so, RoPE scaled for long contexts. */
#include "models/dense.h"

#include <string.h>

static bool recognise(const json_t *config, const ie_checkpoint *checkpoint) {
  (void)checkpoint;
  const char *type = json_string_value(json_object_get(config, "model_type"));
  return type && !strcmp(type, "llama");
}

static ie_status open_net(ie_binder *b, ie_json_reader *config, ie_model *model, void **net) {
  ie_dense_spec spec = {.rope_theta = 1e4, .rms_norm_eps = 1e-6};
  spec.qkv_bias = spec.o_bias = ie_json_bool(config, "attention_bias", false);
  spec.mlp_bias = ie_json_bool(config, "mlp_bias", false);
  return ie_dense_open(b, config, &spec, model, net);
}

const ie_arch ie_arch_llama = {
    .name = "llama",
    .recognise = recognise,
    .open = open_net,
    .release = ie_dense_release,
    .forward = ie_dense_forward,
};
