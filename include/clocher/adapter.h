/* Low-rank adapters (LoRA) in the layout of PEFT: adapter_config.json and adapter_model.safetensors.
 *
 * An adapter adds scale * B A to weight matrices of a model, scale = alpha / r, or alpha / sqrt(r) with rsLoRA. Files
 * hold `base_model.model.MODULE.lora_A.weight` (r, in) and `.lora_B.weight` (out, r) for each adapted module; the weight
 * is the model's tensor MODULE.weight (out, in).
 *
 * Read are adapters for linear layers: any r, lora_alpha, rank_pattern, alpha_pattern, use_rslora; target_modules as a
 * list, a regular expression or "all-linear"; adapter_model.bin when there is no .safetensors; f32, f16 and bf16. What
 * would change the answer and is not built is refused by name (IE_UNSUPPORTED): DoRA, biases, modules_to_save,
 * target_parameters, embeddings, and initialisations that change the base weights. fan_in_fan_out is read and has no
 * effect: it is for layers that these models do not have (PEFT ignores it there too). Unknown keys are ignored.
 *
 * Thread safety: an open adapter may be read by any number of threads. */
#ifndef CLOCHER_ADAPTER_H
#define CLOCHER_ADAPTER_H

#include "clocher/model.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct ie_adapter ie_adapter;

/* One adapted weight. */
typedef struct ie_lora {
  const char *target; /* the tensor: "gpt_neox.layers.0.attention.dense.weight"; borrowed from the adapter */
  int64_t rows, cols; /* of the weight: (out, in) */
  int64_t r;
  double alpha, scale;
  float *a; /* (r, cols) owned by the adapter; training changes it in place */
  float *b; /* (rows, r) */
} ie_lora;

/* Reads both files of a folder. IE_IO, IE_FORMAT, IE_UNSUPPORTED; the message names file, key or tensor. */
ie_status ie_adapter_open(const char *dir, ie_adapter **out, ie_error *error);
void ie_adapter_free(ie_adapter *adapter);
/* By name, 0 <= i < count. Borrowed. */
size_t ie_adapter_count(const ie_adapter *adapter);
const ie_lora *ie_adapter_at(const ie_adapter *adapter, size_t i);
/* NULL when that tensor is not adapted. */
const ie_lora *ie_adapter_find(const ie_adapter *adapter, const char *target);

/* Puts an adapter on a model: everything that is computed from then on has it. It is borrowed and freed after the
 * model; a model takes one. train: its factors are the model's parameters (clocher/gradients.h). IE_FORMAT names weights
 * that the model lacks, or has in another shape; after another failure the model can only be freed. */
ie_status ie_model_attach(ie_model *model, ie_adapter *adapter, bool train, ie_error *error);

/* Called from the calling thread, once a tensor or more often. False stops: IE_CANCELLED. */
typedef bool (*ie_adapter_progress)(void *user, uint64_t done_bytes, uint64_t total_bytes);

typedef struct ie_adapter_merge_options {
  const char *model_dir;
  const char *adapter_dir;
  const char *out;              /* made when missing; a model in it is replaced when the new one is whole */
  ie_adapter_progress progress; /* may be NULL */
  void *user;
} ie_adapter_merge_options;

/* Writes the model with the adapter added to its weights: W + scale B A in f32, rounded to the weight's own type, to
 * nearest even; all other tensors, config.json and the tokenizer's files as they are. Memory: the adapter and a few
 * rows. IE_INVALID_ARGUMENT when out is the model's folder; IE_FORMAT names adapted weights that the model does not
 * have, or has in another shape; IE_UNSUPPORTED for quantised weights: the sum would have to be quantised anew. */
ie_status ie_adapter_merge(const ie_adapter_merge_options *options, ie_error *error);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
