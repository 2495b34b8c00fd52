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

static ie_status open_net(ie_binder *b, ie_json_reader *config, ie_model *model, void **net) {
  bool third = !strcmp(model_type(config->object), "qwen3");
  ie_dense_spec spec = {.qk_norm = third, .rope_theta = third ? 1e6 : 1e4, .rms_norm_eps = 1e-6};
  spec.qkv_bias = third ? ie_json_bool(config, "attention_bias", false) : true;
  spec.o_bias = third && spec.qkv_bias;
  return ie_dense_open(b, config, &spec, model, net);
}

const ie_arch ie_arch_qwen = {
    .name = "qwen",
    .recognise = recognise,
    .open = open_net,
    .release = ie_dense_release,
    .forward = ie_dense_forward,
};
