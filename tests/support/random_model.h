/* Small checkpoints of random weights, for every architecture and any dimensions: what the published layouts hold, in
 * one model.safetensors and a config.json. They compute, they make no sense. Failures fail the test. */
#ifndef CLOCHER_TESTS_SUPPORT_RANDOM_MODEL_H
#define CLOCHER_TESTS_SUPPORT_RANDOM_MODEL_H

#include "clocher/tensor.h"

#include <stdbool.h>

typedef enum random_arch {
  RANDOM_GPT_OSS, /* experts in MXFP4 (width and experts' width are multiples of 32) or, with float_experts, bf16 */
  RANDOM_QWEN2,
  RANDOM_QWEN3,
  RANDOM_LLAMA,
  RANDOM_GPT_NEOX, /* heads * head_dim is the width */
  RANDOM_NANOCHAT
} random_arch;

typedef struct random_model {
  random_arch arch;
  int64_t layers, width, ffn, heads, kv_heads, head_dim, vocab;
  int64_t experts, top_k, window; /* gpt-oss */
  bool float_experts;
  ie_dtype dtype; /* of weights that are not MXFP4: IE_BF16, IE_F16 or IE_F32 */
  uint64_t seed;
  /* GPT-NeoX: factors 2^x that make numbers inside larger and change no logit: of the residual stream (norms divide
   * it out), and of the values of attention (the matrix behind them divides it out). And of the MLP's hidden layer,
   * where the activation makes it another function. */
  int residual_log2, value_log2, mlp_log2;
  bool poisoned; /* the embedding of id 0 is NaN */
} random_model;

/* Writes config.json and model.safetensors into a folder. */
void random_model_write(const random_model *model, const char *dir);
const char *random_arch_name(random_arch arch);

#endif
