/* Which tensors each published checkpoint holds, and how each is drawn. */
#include "base/hash.h"
#include "base/quote.h"
#include "eval/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Shard sizes give the published numbers of files: 3 and 1, 15 and 7, 46, and one for the rest. */
static const synth_model models[] = {
    {"gpt-oss-20b", "gpt_oss", 24, 2880, 2880, 201088, 64, 8, 64, 32, 5000, 13800},
    {"gpt-oss-120b", "gpt_oss", 36, 2880, 2880, 201088, 64, 8, 64, 128, 4700, 10000},
    {"gpt-neox-20b", "gpt_neox", 44, 6144, 24576, 50432, 64, 64, 96, 0, 1000, 0},
    {"pythia-1.4b", "gpt_neox", 24, 2048, 8192, 50304, 16, 16, 128, 0, 5000, 0},
    {"qwen3-0.6b", "qwen3", 28, 1024, 3072, 151936, 16, 8, 128, 0, 5000, 0},
    {"llama-3.2-1b", "llama", 16, 2048, 8192, 128256, 32, 8, 64, 0, 5000, 0},
};
enum { MODELS = sizeof models / sizeof models[0], MAX_LAYERS = 1000 };

const char *const *ie_synth_archs(void) {
  static const char *const names[MODELS + 1] = {"gpt-oss-20b", "gpt-oss-120b", "gpt-neox-20b",
                                                "pythia-1.4b", "qwen3-0.6b",   "llama-3.2-1b"};
  return names;
}

/* A builder: names are made from a prefix that the layer sets. */
typedef struct plan_builder {
  synth_plan *plan;
  ie_dtype dtype;   /* of SYNTH_NORMAL tensors */
  char prefix[64];  /* "model.layers.3." or "block.3.", or "" */
  char streams[64]; /* the prefix whose names give the streams: the Hugging Face one */
} plan_builder;

static synth_tensor *plan_grow(synth_plan *plan) {
  if (plan->failed) return NULL;
  if (plan->count == plan->capacity) {
    size_t capacity = plan->capacity ? 2 * plan->capacity : 256;
    synth_tensor *tensors = realloc(plan->tensors, capacity * sizeof *tensors);
    if (!tensors) {
      plan->failed = true;
      return NULL;
    }
    plan->tensors = tensors;
    plan->capacity = capacity;
  }
  plan->tensors[plan->count] = (synth_tensor){0};
  return &plan->tensors[plan->count];
}

/* Adds prefix + name. `like` names the tensor of the Hugging Face layout that holds the same numbers (NULL: the
 * same name). The shape ends with a negative number or after four. */
static synth_tensor *add(plan_builder *b, const char *name, const char *like, synth_draw draw,
                         const int64_t shape[4]) {
  synth_tensor *t = plan_grow(b->plan);
  char full[128], stream[128];
  if (!t) return NULL;
  snprintf(full, sizeof full, "%s%s", b->prefix, name);
  snprintf(stream, sizeof stream, "%s%s", b->streams, like ? like : name);
  t->out.name = strdup(full);
  if (!t->out.name) {
    b->plan->failed = true;
    return NULL;
  }
  t->draw = draw;
  static const ie_dtype dtypes[] = {[SYNTH_MXFP4_BLOCKS] = IE_U8,
                                    [SYNTH_MXFP4_SCALES] = IE_U8,
                                    [SYNTH_CAUSAL] = IE_BOOL,
                                    [SYNTH_CONSTANT] = IE_F32,
                                    [SYNTH_ROPE] = IE_F32};
  t->out.dtype = draw.kind == SYNTH_NORMAL ? b->dtype : dtypes[draw.kind];
  int64_t elements = 1;
  for (int i = 0; i < 4 && shape[i] >= 0; i++) {
    t->out.shape[t->out.rank++] = shape[i];
    elements *= shape[i];
  }
  t->parts[0] = (synth_part){.stream = ie_hash_name(stream), .elements = elements};
  t->part_count = 1;
  t->bytes = (size_t)elements * ie_dtype_bytes(t->out.dtype);
  b->plan->count++;
  return t;
}

/* Splits a tensor's rows over the streams of other tensors (below the builder's prefix). */
static void set_parts(plan_builder *b, synth_tensor *t, const char *const names[SYNTH_MAX_PARTS],
                      const int64_t rows[SYNTH_MAX_PARTS], int64_t row_elements) {
  if (!t) return;
  for (int i = 0; i < SYNTH_MAX_PARTS; i++) {
    char stream[128];
    snprintf(stream, sizeof stream, "%s%s", b->streams, names[i]);
    t->parts[i] = (synth_part){.stream = ie_hash_name(stream), .elements = rows[i] * row_elements};
  }
  t->part_count = SYNTH_MAX_PARTS;
}

#define SHAPE(...)  ((const int64_t[4]){__VA_ARGS__, -1})
#define SHAPE4(...) ((const int64_t[4]){__VA_ARGS__})

static synth_draw normal(double std) {
  return (synth_draw){.kind = SYNTH_NORMAL, .std = (float)std};
}
static synth_draw near_one(void) {
  return (synth_draw){.kind = SYNTH_NORMAL, .mean = 1, .std = 0.1f};
}

/* Weights of N(0, 0.02) with 2880 inputs of unit size give outputs of unit size, which leaves the clamp of the
 * activation and the softmax of attention in their working range. */
enum { FP4_GROUP = 32 };
static const double weight_std = 0.02, bias_std = 0.01, sink_std = 0.5, embedding_std = 0.5;
static const synth_draw blocks = {.kind = SYNTH_MXFP4_BLOCKS}, scales = {.kind = SYNTH_MXFP4_SCALES};

static void layer_prefix(plan_builder *b, const char *prefix, const char *streams, int layer) {
  snprintf(b->prefix, sizeof b->prefix, prefix, layer);
  snprintf(b->streams, sizeof b->streams, streams, layer);
}

static void no_prefix(plan_builder *b) {
  b->prefix[0] = b->streams[0] = '\0';
}

/* Outputs that are added to the residual: unit size whatever the number of inputs. */
static double fan_in_std(int64_t inputs) {
  return 1 / sqrt((double)inputs);
}

static void gptoss_tensors(plan_builder *b, const synth_model *m) {
  int64_t H = m->hidden, F = m->intermediate, E = m->experts, q = m->heads * m->head_dim;
  int64_t kv = m->kv_heads * m->head_dim;
  add(b, "model.embed_tokens.weight", NULL, normal(embedding_std), SHAPE(m->vocab, H));
  for (int layer = 0; layer < m->layers; layer++) {
    layer_prefix(b, "model.layers.%d.", "model.layers.%d.", layer);
    add(b, "input_layernorm.weight", NULL, near_one(), SHAPE(H));
    add(b, "self_attn.q_proj.weight", NULL, normal(weight_std), SHAPE(q, H));
    add(b, "self_attn.q_proj.bias", NULL, normal(bias_std), SHAPE(q));
    add(b, "self_attn.k_proj.weight", NULL, normal(weight_std), SHAPE(kv, H));
    add(b, "self_attn.k_proj.bias", NULL, normal(bias_std), SHAPE(kv));
    add(b, "self_attn.v_proj.weight", NULL, normal(weight_std), SHAPE(kv, H));
    add(b, "self_attn.v_proj.bias", NULL, normal(bias_std), SHAPE(kv));
    add(b, "self_attn.o_proj.weight", NULL, normal(fan_in_std(q)), SHAPE(H, q));
    add(b, "self_attn.o_proj.bias", NULL, normal(bias_std), SHAPE(H));
    add(b, "self_attn.sinks", NULL, normal(sink_std), SHAPE(m->heads));
    add(b, "post_attention_layernorm.weight", NULL, near_one(), SHAPE(H));
    add(b, "mlp.router.weight", NULL, normal(weight_std), SHAPE(E, H));
    add(b, "mlp.router.bias", NULL, normal(bias_std), SHAPE(E));
    add(b, "mlp.experts.gate_up_proj_blocks", NULL, blocks, SHAPE4(E, 2 * F, H / FP4_GROUP, FP4_GROUP / 2));
    add(b, "mlp.experts.gate_up_proj_scales", NULL, scales, SHAPE(E, 2 * F, H / FP4_GROUP));
    add(b, "mlp.experts.gate_up_proj_bias", NULL, normal(bias_std), SHAPE(E, 2 * F));
    add(b, "mlp.experts.down_proj_blocks", NULL, blocks, SHAPE4(E, H, F / FP4_GROUP, FP4_GROUP / 2));
    add(b, "mlp.experts.down_proj_scales", NULL, scales, SHAPE(E, H, F / FP4_GROUP));
    add(b, "mlp.experts.down_proj_bias", NULL, normal(bias_std), SHAPE(E, H));
  }
  no_prefix(b);
  add(b, "model.norm.weight", NULL, near_one(), SHAPE(H));
  add(b, "lm_head.weight", NULL, normal(weight_std), SHAPE(m->vocab, H));
}

/* The same numbers under OpenAI's names; q, k and v stand in one matrix. */
static void gptoss_tensors_original(plan_builder *b, const synth_model *m) {
  static const char *const qkv_weight[] = {"self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                           "self_attn.v_proj.weight"};
  static const char *const qkv_bias[] = {"self_attn.q_proj.bias", "self_attn.k_proj.bias",
                                         "self_attn.v_proj.bias"};
  int64_t H = m->hidden, F = m->intermediate, E = m->experts, q = m->heads * m->head_dim;
  int64_t kv = m->kv_heads * m->head_dim;
  const int64_t rows[] = {q, kv, kv};
  add(b, "embedding.weight", "model.embed_tokens.weight", normal(embedding_std), SHAPE(m->vocab, H));
  for (int layer = 0; layer < m->layers; layer++) {
    layer_prefix(b, "block.%d.", "model.layers.%d.", layer);
    add(b, "attn.norm.scale", "input_layernorm.weight", near_one(), SHAPE(H));
    set_parts(b, add(b, "attn.qkv.weight", NULL, normal(weight_std), SHAPE(q + 2 * kv, H)), qkv_weight, rows,
              H);
    set_parts(b, add(b, "attn.qkv.bias", NULL, normal(bias_std), SHAPE(q + 2 * kv)), qkv_bias, rows, 1);
    add(b, "attn.out.weight", "self_attn.o_proj.weight", normal(fan_in_std(q)), SHAPE(H, q));
    add(b, "attn.out.bias", "self_attn.o_proj.bias", normal(bias_std), SHAPE(H));
    add(b, "attn.sinks", "self_attn.sinks", normal(sink_std), SHAPE(m->heads));
    add(b, "mlp.norm.scale", "post_attention_layernorm.weight", near_one(), SHAPE(H));
    add(b, "mlp.gate.weight", "mlp.router.weight", normal(weight_std), SHAPE(E, H));
    add(b, "mlp.gate.bias", "mlp.router.bias", normal(bias_std), SHAPE(E));
    add(b, "mlp.mlp1_weight.blocks", "mlp.experts.gate_up_proj_blocks", blocks,
        SHAPE4(E, 2 * F, H / FP4_GROUP, FP4_GROUP / 2));
    add(b, "mlp.mlp1_weight.scales", "mlp.experts.gate_up_proj_scales", scales,
        SHAPE(E, 2 * F, H / FP4_GROUP));
    add(b, "mlp.mlp1_bias", "mlp.experts.gate_up_proj_bias", normal(bias_std), SHAPE(E, 2 * F));
    add(b, "mlp.mlp2_weight.blocks", "mlp.experts.down_proj_blocks", blocks,
        SHAPE4(E, H, F / FP4_GROUP, FP4_GROUP / 2));
    add(b, "mlp.mlp2_weight.scales", "mlp.experts.down_proj_scales", scales, SHAPE(E, H, F / FP4_GROUP));
    add(b, "mlp.mlp2_bias", "mlp.experts.down_proj_bias", normal(bias_std), SHAPE(E, H));
  }
  no_prefix(b);
  add(b, "norm.scale", "model.norm.weight", near_one(), SHAPE(H));
  add(b, "unembedding.weight", "lm_head.weight", normal(weight_std), SHAPE(m->vocab, H));
}

/* Published with the buffers of its time: causal mask, its fill value, inverse frequencies. Rotary part: 25%. */
static void gptneox_tensors(plan_builder *b, const synth_model *m) {
  int64_t H = m->hidden, F = m->intermediate, rotary = m->head_dim / 4, context = 2048;
  const synth_draw causal = {.kind = SYNTH_CAUSAL}, fill = {.kind = SYNTH_CONSTANT, .mean = -1e9f};
  const synth_draw rope = {.kind = SYNTH_ROPE};
  add(b, "gpt_neox.embed_in.weight", NULL, normal(weight_std), SHAPE(m->vocab, H));
  for (int layer = 0; layer < m->layers; layer++) {
    layer_prefix(b, "gpt_neox.layers.%d.", "gpt_neox.layers.%d.", layer);
    add(b, "input_layernorm.weight", NULL, near_one(), SHAPE(H));
    add(b, "input_layernorm.bias", NULL, normal(bias_std), SHAPE(H));
    add(b, "post_attention_layernorm.weight", NULL, near_one(), SHAPE(H));
    add(b, "post_attention_layernorm.bias", NULL, normal(bias_std), SHAPE(H));
    add(b, "attention.bias", NULL, causal, SHAPE4(1, 1, context, context));
    add(b, "attention.masked_bias", NULL, fill, (const int64_t[4]){-1});
    add(b, "attention.rotary_emb.inv_freq", NULL, rope, SHAPE(rotary / 2));
    add(b, "attention.query_key_value.weight", NULL, normal(weight_std), SHAPE(3 * H, H));
    add(b, "attention.query_key_value.bias", NULL, normal(bias_std), SHAPE(3 * H));
    add(b, "attention.dense.weight", NULL, normal(fan_in_std(H)), SHAPE(H, H));
    add(b, "attention.dense.bias", NULL, normal(bias_std), SHAPE(H));
    add(b, "mlp.dense_h_to_4h.weight", NULL, normal(weight_std), SHAPE(F, H));
    add(b, "mlp.dense_h_to_4h.bias", NULL, normal(bias_std), SHAPE(F));
    add(b, "mlp.dense_4h_to_h.weight", NULL, normal(fan_in_std(F)), SHAPE(H, F));
    add(b, "mlp.dense_4h_to_h.bias", NULL, normal(bias_std), SHAPE(H));
  }
  no_prefix(b);
  add(b, "gpt_neox.final_layer_norm.weight", NULL, near_one(), SHAPE(H));
  add(b, "gpt_neox.final_layer_norm.bias", NULL, normal(bias_std), SHAPE(H));
  add(b, "embed_out.weight", NULL, normal(weight_std), SHAPE(m->vocab, H));
}

/* Qwen3 and Llama 3.2, both with tied embeddings. Qwen3-0.6B is published with lm_head.weight all the same. */
static void llama_tensors(plan_builder *b, const synth_model *m) {
  bool qwen = strcmp(m->family, "qwen3") == 0;
  int64_t H = m->hidden, F = m->intermediate, q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
  if (qwen) add(b, "lm_head.weight", "model.embed_tokens.weight", normal(weight_std), SHAPE(m->vocab, H));
  add(b, "model.embed_tokens.weight", NULL, normal(weight_std), SHAPE(m->vocab, H));
  for (int layer = 0; layer < m->layers; layer++) {
    layer_prefix(b, "model.layers.%d.", "model.layers.%d.", layer);
    add(b, "input_layernorm.weight", NULL, near_one(), SHAPE(H));
    add(b, "mlp.down_proj.weight", NULL, normal(fan_in_std(F)), SHAPE(H, F));
    add(b, "mlp.gate_proj.weight", NULL, normal(weight_std), SHAPE(F, H));
    add(b, "mlp.up_proj.weight", NULL, normal(weight_std), SHAPE(F, H));
    add(b, "post_attention_layernorm.weight", NULL, near_one(), SHAPE(H));
    if (qwen) add(b, "self_attn.k_norm.weight", NULL, near_one(), SHAPE(m->head_dim));
    add(b, "self_attn.k_proj.weight", NULL, normal(weight_std), SHAPE(kv, H));
    add(b, "self_attn.o_proj.weight", NULL, normal(fan_in_std(q)), SHAPE(H, q));
    if (qwen) add(b, "self_attn.q_norm.weight", NULL, near_one(), SHAPE(m->head_dim));
    add(b, "self_attn.q_proj.weight", NULL, normal(weight_std), SHAPE(q, H));
    add(b, "self_attn.v_proj.weight", NULL, normal(weight_std), SHAPE(kv, H));
  }
  no_prefix(b);
  add(b, "model.norm.weight", NULL, near_one(), SHAPE(H));
}

/* Fills file after file up to max_file_bytes, as transformers does. */
static void plan_assign_files(synth_plan *plan) {
  uint64_t in_file = 0;
  plan->file_count = 1;
  for (size_t i = 0; i < plan->count; i++) {
    synth_tensor *t = &plan->tensors[i];
    if (in_file > 0 && in_file + t->bytes > plan->max_file_bytes) {
      plan->file_count++;
      in_file = 0;
    }
    t->file = plan->file_count - 1;
    in_file += t->bytes;
    plan->total_bytes += t->bytes;
  }
}

static ie_status model_find(const ie_synth_options *options, synth_model *out, ie_error *error) {
  const char *arch = options->arch ? options->arch : "";
  const char *layout = options->layout ? options->layout : "";
  for (size_t i = 0; i < MODELS; i++) {
    if (strcmp(arch, models[i].name) != 0) continue;
    *out = models[i];
    if (options->layers < 0 || options->layers > MAX_LAYERS)
      return ie_error_set(error, IE_INVALID_ARGUMENT, "%d layers, expected 1 to %d", options->layers,
                          MAX_LAYERS);
    if (options->layers > 0) out->layers = options->layers;
    bool has_original = strcmp(out->family, "gpt_oss") == 0;
    if (strcmp(layout, "hf") == 0 || (has_original && strcmp(layout, "original") == 0)) return IE_OK;
    return ie_error_set(error, IE_INVALID_ARGUMENT, "%s is not written in layout '%s', expected hf%s", arch,
                        ie_quote(layout).text, has_original ? " or original" : "");
  }
  return ie_error_set(
      error, IE_INVALID_ARGUMENT,
      "unknown architecture '%s', expected gpt-oss-20b, gpt-oss-120b, gpt-neox-20b, pythia-1.4b, "
      "qwen3-0.6b or llama-3.2-1b",
      ie_quote(arch).text);
}

ie_status ie_synth_plan_build(const synth_model *model, bool original, synth_plan *plan, ie_error *error) {
  *plan = (synth_plan){0};
  bool gptoss = strcmp(model->family, "gpt_oss") == 0, neox = strcmp(model->family, "gpt_neox") == 0;
  plan_builder b = {.plan = plan, .dtype = neox ? IE_F16 : IE_BF16};
  if (gptoss)
    (original ? gptoss_tensors_original : gptoss_tensors)(&b, model);
  else if (neox)
    gptneox_tensors(&b, model);
  else
    llama_tensors(&b, model);
  plan->original = original;
  plan->first_shard = gptoss && !original ? 0 : 1;
  plan->max_file_bytes = (uint64_t)(original ? model->original_shard_mb : model->max_shard_mb) * 1000000;
  plan_assign_files(plan);
  ie_synth_config_make(model, original, &plan->config, &plan->generation_config);
  if (plan->failed || plan->config.failed || plan->generation_config.failed)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the list of tensors");
  return IE_OK;
}

ie_status ie_synth_plan_make(const ie_synth_options *options, synth_plan *plan, ie_error *error) {
  *plan = (synth_plan){0};
  synth_model model;
  ie_status status = model_find(options, &model, error);
  if (status != IE_OK) return status;
  return ie_synth_plan_build(&model, strcmp(options->layout, "original") == 0, plan, error);
}

void ie_synth_plan_free(synth_plan *plan) {
  for (size_t i = 0; i < plan->count; i++) free((char *)(uintptr_t)plan->tensors[i].out.name);
  free(plan->tensors);
  ie_buf_free(&plan->config);
  ie_buf_free(&plan->generation_config);
  *plan = (synth_plan){0};
}

/* gpt-oss counts its shards from 0 to the last; OpenAI's own have two dashes. */
void ie_synth_file_name(const synth_plan *plan, size_t file, char *out, size_t room) {
  if (plan->file_count == 1) {
    snprintf(out, room, "model.safetensors");
    return;
  }
  size_t first = (size_t)plan->first_shard, last = first + plan->file_count - 1;
  snprintf(out, room, "model-%s%05zu-of-%05zu.safetensors", plan->original ? "-" : "", first + file, last);
}

ie_status ie_synth_index_make(const synth_plan *plan, ie_buf *out, ie_error *error) {
  if (plan->file_count == 1) return IE_OK;
  ie_buf_printf(out, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {\n",
                (unsigned long long)plan->total_bytes);
  for (size_t i = 0; i < plan->count; i++) {
    char file[64];
    ie_synth_file_name(plan, plan->tensors[i].file, file, sizeof file);
    ie_buf_printf(out, "    \"%s\": \"%s\"%s\n", plan->tensors[i].out.name, file,
                  i + 1 < plan->count ? "," : "");
  }
  ie_buf_append_str(out, "  }\n}\n");
  if (out->failed) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the index of tensors");
  return IE_OK;
}
