/* config.json and generation_config.json of the published models, key by key (transformers 4). */
#include "eval/synth.h"

#include <string.h>

/* Every layer in turn: sliding, full, sliding, ... */
static void gptoss_layer_types(ie_buf *out, int layers) {
  ie_buf_append_str(out, "  \"layer_types\": [\n");
  for (int i = 0; i < layers; i++)
    ie_buf_printf(out, "    \"%s_attention\"%s\n", i % 2 ? "full" : "sliding", i + 1 < layers ? "," : "");
  ie_buf_append_str(out, "  ],\n");
}

static void gptoss_config(const synth_model *m, ie_buf *out) {
  ie_buf_printf(
      out,
      "{\n  \"architectures\": [\n    \"GptOssForCausalLM\"\n  ],\n"
      "  \"attention_bias\": true,\n  \"attention_dropout\": 0.0,\n  \"eos_token_id\": 200002,\n"
      "  \"experts_per_token\": 4,\n  \"head_dim\": %d,\n  \"hidden_act\": \"silu\",\n"
      "  \"hidden_size\": %d,\n  \"initial_context_length\": 4096,\n  \"initializer_range\": 0.02,\n"
      "  \"intermediate_size\": %d,\n",
      (int)m->head_dim, (int)m->hidden, (int)m->intermediate);
  gptoss_layer_types(out, m->layers);
  ie_buf_printf(
      out,
      "  \"max_position_embeddings\": 131072,\n  \"model_type\": \"gpt_oss\",\n"
      "  \"num_attention_heads\": %d,\n  \"num_experts_per_tok\": 4,\n  \"num_hidden_layers\": %d,\n"
      "  \"num_key_value_heads\": %d,\n  \"num_local_experts\": %d,\n"
      "  \"output_router_logits\": false,\n  \"pad_token_id\": 199999,\n",
      (int)m->heads, m->layers, (int)m->kv_heads, (int)m->experts);
  ie_buf_printf(
      out,
      "  \"quantization_config\": {\n    \"modules_to_not_convert\": [\n"
      "      \"model.layers.*.self_attn\",\n      \"model.layers.*.mlp.router\",\n"
      "      \"model.embed_tokens\",\n      \"lm_head\"\n    ],\n    \"quant_method\": \"mxfp4\"\n  },\n"
      "  \"rms_norm_eps\": 1e-05,\n  \"rope_scaling\": {\n    \"beta_fast\": 32.0,\n"
      "    \"beta_slow\": 1.0,\n    \"factor\": 32.0,\n    \"original_max_position_embeddings\": 4096,\n"
      "    \"rope_type\": \"yarn\",\n    \"truncate\": false\n  },\n  \"rope_theta\": 150000,\n"
      "  \"router_aux_loss_coef\": 0.9,\n  \"sliding_window\": 128,\n  \"swiglu_limit\": 7.0,\n"
      "  \"tie_word_embeddings\": false,\n  \"transformers_version\": \"4.55.0.dev0\",\n"
      "  \"use_cache\": true,\n  \"vocab_size\": %d\n}\n",
      (int)m->vocab);
}

/* OpenAI's own config.json has neither the context length nor stop ids. */
static void gptoss_config_original(const synth_model *m, ie_buf *out) {
  ie_buf_printf(
      out,
      "{\n    \"num_hidden_layers\": %d,\n    \"num_experts\": %d,\n    \"experts_per_token\": 4,\n"
      "    \"vocab_size\": %d,\n    \"hidden_size\": %d,\n    \"intermediate_size\": %d,\n"
      "    \"swiglu_limit\": 7.0,\n    \"head_dim\": %d,\n    \"num_attention_heads\": %d,\n"
      "    \"num_key_value_heads\": %d,\n    \"sliding_window\": 128,\n"
      "    \"initial_context_length\": 4096,\n    \"rope_theta\": 150000,\n"
      "    \"rope_scaling_factor\": 32.0,\n    \"rope_ntk_alpha\": 1,\n    \"rope_ntk_beta\": 32\n}\n",
      m->layers, (int)m->experts, (int)m->vocab, (int)m->hidden, (int)m->intermediate, (int)m->head_dim,
      (int)m->heads, (int)m->kv_heads);
}

/* The 20B of 2022 and the later Pythia differ in a few keys. */
static void gptneox_config(const synth_model *m, ie_buf *out) {
  bool pythia = strncmp(m->name, "pythia", 6) == 0;
  ie_buf_printf(out, "{\n  \"architectures\": [\n    \"GPTNeoXForCausalLM\"\n  ],\n%s",
                pythia ? "" : "  \"attention_probs_dropout_prob\": 0,\n");
  ie_buf_printf(out, "  \"bos_token_id\": 0,\n  \"eos_token_id\": 0,\n  \"hidden_act\": \"%s\",\n%s",
                pythia ? "gelu" : "gelu_fast", pythia ? "" : "  \"hidden_dropout_prob\": 0,\n");
  ie_buf_printf(
      out,
      "  \"hidden_size\": %d,\n  \"initializer_range\": 0.02,\n  \"intermediate_size\": %d,\n"
      "  \"layer_norm_eps\": 1e-05,\n  \"max_position_embeddings\": 2048,\n"
      "  \"model_type\": \"gpt_neox\",\n  \"num_attention_heads\": %d,\n  \"num_hidden_layers\": %d,\n"
      "  \"rotary_emb_base\": 10000,\n  \"rotary_pct\": 0.25,\n  \"tie_word_embeddings\": false,\n"
      "  \"torch_dtype\": \"float16\",\n  \"transformers_version\": \"%s\",\n  \"use_cache\": true,\n"
      "%s  \"vocab_size\": %d\n}\n",
      (int)m->hidden, (int)m->intermediate, (int)m->heads, m->layers, pythia ? "4.24.0" : "4.19.0.dev0",
      pythia ? "  \"use_parallel_residual\": true,\n" : "", (int)m->vocab);
}

static void qwen3_config(const synth_model *m, ie_buf *out) {
  ie_buf_printf(out,
                "{\n  \"architectures\": [\n    \"Qwen3ForCausalLM\"\n  ],\n  \"attention_bias\": false,\n"
                "  \"attention_dropout\": 0.0,\n  \"bos_token_id\": 151643,\n  \"eos_token_id\": 151645,\n"
                "  \"head_dim\": %d,\n  \"hidden_act\": \"silu\",\n  \"hidden_size\": %d,\n"
                "  \"initializer_range\": 0.02,\n  \"intermediate_size\": %d,\n"
                "  \"max_position_embeddings\": 40960,\n  \"max_window_layers\": %d,\n"
                "  \"model_type\": \"qwen3\",\n  \"num_attention_heads\": %d,\n  \"num_hidden_layers\": %d,\n"
                "  \"num_key_value_heads\": %d,\n  \"rms_norm_eps\": 1e-06,\n  \"rope_scaling\": null,\n"
                "  \"rope_theta\": 1000000,\n  \"sliding_window\": null,\n  \"tie_word_embeddings\": true,\n"
                "  \"torch_dtype\": \"bfloat16\",\n  \"transformers_version\": \"4.51.0\",\n"
                "  \"use_cache\": true,\n  \"use_sliding_window\": false,\n  \"vocab_size\": %d\n}\n",
                (int)m->head_dim, (int)m->hidden, (int)m->intermediate, m->layers, (int)m->heads, m->layers,
                (int)m->kv_heads, (int)m->vocab);
}

static void llama_config(const synth_model *m, ie_buf *out) {
  ie_buf_printf(
      out,
      "{\n  \"architectures\": [\n    \"LlamaForCausalLM\"\n  ],\n  \"attention_bias\": false,\n"
      "  \"attention_dropout\": 0.0,\n  \"bos_token_id\": 128000,\n  \"eos_token_id\": 128001,\n"
      "  \"head_dim\": %d,\n  \"hidden_act\": \"silu\",\n  \"hidden_size\": %d,\n"
      "  \"initializer_range\": 0.02,\n  \"intermediate_size\": %d,\n"
      "  \"max_position_embeddings\": 131072,\n  \"mlp_bias\": false,\n  \"model_type\": \"llama\",\n"
      "  \"num_attention_heads\": %d,\n  \"num_hidden_layers\": %d,\n  \"num_key_value_heads\": %d,\n"
      "  \"pretraining_tp\": 1,\n  \"rms_norm_eps\": 1e-05,\n  \"rope_scaling\": {\n"
      "    \"factor\": 32.0,\n    \"high_freq_factor\": 4.0,\n    \"low_freq_factor\": 1.0,\n"
      "    \"original_max_position_embeddings\": 8192,\n    \"rope_type\": \"llama3\"\n  },\n"
      "  \"rope_theta\": 500000.0,\n  \"tie_word_embeddings\": true,\n"
      "  \"torch_dtype\": \"bfloat16\",\n  \"transformers_version\": \"4.45.0.dev0\",\n"
      "  \"use_cache\": true,\n  \"vocab_size\": %d\n}\n",
      (int)m->head_dim, (int)m->hidden, (int)m->intermediate, (int)m->heads, m->layers, (int)m->kv_heads,
      (int)m->vocab);
}

void ie_synth_config_make(const synth_model *model, bool original, ie_buf *config,
                          ie_buf *generation_config) {
  const char *generation = "";
  if (strcmp(model->family, "gpt_oss") == 0) {
    if (original)
      gptoss_config_original(model, config);
    else
      gptoss_config(model, config);
    generation =
        "{\n  \"bos_token_id\": 199998,\n  \"do_sample\": true,\n  \"eos_token_id\": [\n    200002,\n"
        "    199999,\n    200012\n  ],\n  \"pad_token_id\": 199999,\n"
        "  \"transformers_version\": \"4.55.0.dev0\"\n}\n";
  } else if (strcmp(model->family, "gpt_neox") == 0) {
    gptneox_config(model, config);
    generation = "{\n  \"_from_model_config\": true,\n  \"bos_token_id\": 0,\n  \"eos_token_id\": 0,\n"
                 "  \"transformers_version\": \"4.26.1\"\n}\n";
  } else if (strcmp(model->family, "qwen3") == 0) {
    qwen3_config(model, config);
    generation =
        "{\n  \"bos_token_id\": 151643,\n  \"do_sample\": true,\n  \"eos_token_id\": [\n    151645,\n"
        "    151643\n  ],\n  \"pad_token_id\": 151643,\n  \"temperature\": 0.6,\n  \"top_k\": 20,\n"
        "  \"top_p\": 0.95,\n  \"transformers_version\": \"4.51.0\"\n}\n";
  } else {
    llama_config(model, config);
    generation = "{\n  \"_from_model_config\": true,\n  \"bos_token_id\": 128000,\n  \"do_sample\": true,\n"
                 "  \"eos_token_id\": 128001,\n  \"temperature\": 0.6,\n  \"top_p\": 0.9,\n"
                 "  \"transformers_version\": \"4.45.0.dev0\"\n}\n";
  }
  ie_buf_append_str(generation_config, generation);
}
