/* Adapters in memory: made for a model, read (clocher/adapter.h), changed by training, written as PEFT writes them. */
#ifndef CLOCHER_MODELS_ADAPTER_H
#define CLOCHER_MODELS_ADAPTER_H

#include "clocher/adapter.h"
#include "models/adapter_config.h"

struct ie_adapter {
  ie_lora *items; /* (count) by target; targets, a and b are owned */
  size_t count, capacity;
  ie_adapter_config config;
};

/* A linear layer's weight of a model, for a new adapter. */
typedef struct ie_adapter_weight {
  const char *name; /* as transformers names it, "model.layers.0.self_attn.q_proj.weight" */
  int64_t rows, cols;
  bool output; /* the output matrix: all-linear leaves it out */
} ie_adapter_weight;

typedef struct ie_adapter_options {
  int64_t r;
  double alpha;
  double dropout;
  bool rslora;
  const char *const *targets; /* (target_count) names of modules or their ends; none: all linear layers */
  size_t target_count;
  const char *base_model; /* what base_model_name_or_path says; NULL: null */
  uint64_t seed;
} ie_adapter_options;

/* A new adapter for those weights that the targets name. A is drawn from U(-1/sqrt(cols), 1/sqrt(cols)), which is
 * PyTorch's kaiming_uniform_ with a = sqrt(5), by seed and name alone (PEFT's distribution, not its numbers); B is zero, so that the model's
 * answer is what it was. IE_INVALID_ARGUMENT names a target that fits no weight, and those that there are. */
ie_status ie_adapter_create(const ie_adapter_options *options, const ie_adapter_weight *weights, size_t count,
                            ie_adapter **out, ie_error *error);

/* Writes adapter_config.json, then adapter_model.safetensors (f32), each atomically; the folder is made when missing. */
ie_status ie_adapter_write(const ie_adapter *adapter, const char *dir, ie_error *error);

/* Asks a model for each adapted weight: rows and columns, or false when it has none of that name. IE_FORMAT names up to
 * three weights that are missing, or the first of another shape. */
typedef bool (*ie_adapter_shape)(void *user, const char *target, int64_t *rows, int64_t *cols);
ie_status ie_adapter_check(const ie_adapter *adapter, ie_adapter_shape shape, void *user, ie_error *error);

/* row[c] += scale * sum over k of b[row][k] a[k][c], in f32: k ascending, the scale last. sum is (cols) scratch. */
void ie_lora_add_row(const ie_lora *lora, int64_t row, float *out, float *sum);

#endif
