#include "support/random_model.h"

#include "base/float.h"
#include "base/rng.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TENSORS_MAX = 256, NAME_BYTES = 96 };

typedef struct writer {
  const random_model *m;
  ie_tensor_out tensors[TENSORS_MAX];
  char names[TENSORS_MAX][NAME_BYTES];
  size_t count;
  const char *prefix; /* of the layer */
} writer;

const char *random_arch_name(random_arch arch) {
  static const char *const names[] = {"gpt_oss", "qwen2", "qwen3", "llama", "gpt_neox", "nanochat"};
  return names[arch];
}

static ie_tensor_out *tensor_add(writer *w, const char *name, ie_dtype dtype, size_t bytes) {
  assert_true(w->count < TENSORS_MAX);
  ie_tensor_out *t = &w->tensors[w->count];
  snprintf(w->names[w->count], NAME_BYTES, "%s%s", w->prefix, name);
  void *data = calloc(1, bytes);
  assert_non_null(data);
  *t = (ie_tensor_out){.name = w->names[w->count++], .dtype = dtype, .data = data};
  return t;
}

/* How a tensor's numbers are drawn: mean + spread * (-1 .. 1), row r times 2^exponent(r). */
typedef struct drawing {
  double mean, spread;
  int exponent; /* of all rows, or of those that `of_row` names */
  bool (*of_row)(const random_model *m, int64_t row);
} drawing;

/* A float tensor (rows, cols), or (cols) when rows is 0, or (experts, rows, cols). */
static void floats_add(writer *w, const char *name, int64_t experts, int64_t rows, int64_t cols, drawing d) {
  ie_dtype dtype = w->m->dtype;
  int64_t count = (experts ? experts : 1) * (rows ? rows : 1) * cols;
  ie_tensor_out *t = tensor_add(w, name, dtype, (size_t)count * 4);
  if (experts) t->shape[t->rank++] = experts;
  if (rows) t->shape[t->rank++] = rows;
  t->shape[t->rank++] = cols;
  uint64_t stream = w->count;
  uint8_t *out = (uint8_t *)(uintptr_t)t->data;
  for (int64_t i = 0; i < count; i++) {
    int64_t row = rows ? i / cols : i;
    float v = (float)(d.mean + d.spread * (2 * (double)ie_rng_f32(w->m->seed, stream, (uint64_t)i) - 1));
    uint16_t h = dtype == IE_F16 ? ie_f32_to_f16(v) : ie_f32_to_bf16(v);
    if (dtype != IE_F32) v = dtype == IE_F16 ? ie_f16_to_f32(h) : ie_bf16_to_f32(h);
    if (!d.of_row || d.of_row(w->m, row)) v = ldexpf(v, d.exponent);
    h = dtype == IE_F16 ? ie_f32_to_f16(v) : ie_f32_to_bf16(v);
    if (dtype == IE_F32)
      memcpy(out + 4 * i, &v, 4);
    else
      memcpy(out + 2 * i, &h, 2);
  }
}

static void matrix_scaled(writer *w, const char *name, int64_t rows, int64_t cols, drawing d) {
  d.spread = 1.7 / sqrt((double)cols);
  floats_add(w, name, 0, rows, cols, d);
}
static void matrix(writer *w, const char *name, int64_t rows, int64_t cols) {
  matrix_scaled(w, name, rows, cols, (drawing){0});
}
static void bias(writer *w, const char *name, int64_t n) {
  floats_add(w, name, 0, 0, n, (drawing){.spread = 0.1});
}
static void norm(writer *w, const char *name, int64_t n) {
  floats_add(w, name, 0, 0, n, (drawing){.mean = 1, .spread = 0.3});
}

static void mxfp4(writer *w, const char *name, int64_t experts, int64_t rows, int64_t cols) {
  char part[NAME_BYTES];
  int64_t blocks = experts * rows * (cols / 32);
  snprintf(part, sizeof part, "%s_blocks", name);
  ie_tensor_out *t = tensor_add(w, part, IE_U8, (size_t)blocks * 16);
  t->rank = 4;
  t->shape[0] = experts, t->shape[1] = rows, t->shape[2] = cols / 32, t->shape[3] = 16;
  uint8_t *out = (uint8_t *)(uintptr_t)t->data;
  for (int64_t i = 0; i < blocks * 16; i++) out[i] = (uint8_t)ie_rng_u64(w->m->seed, w->count, (uint64_t)i);
  snprintf(part, sizeof part, "%s_scales", name);
  t = tensor_add(w, part, IE_U8, (size_t)blocks);
  t->rank = 3;
  t->shape[0] = experts, t->shape[1] = rows, t->shape[2] = cols / 32;
  out = (uint8_t *)(uintptr_t)t->data;
  for (int64_t i = 0; i < blocks; i++) /* 2^-6 to 2^-4: values up to 6 give about 1 / sqrt(cols) */
    out[i] = (uint8_t)(121 + ie_rng_u64(w->m->seed, w->count, (uint64_t)i) % 3);
}

/* --- Layers ----------------------------------------------------------------------------------------------------- */

static void layer_attention(writer *w, bool biases, bool o_bias) {
  const random_model *m = w->m;
  int64_t q = m->heads * m->head_dim, k = m->kv_heads * m->head_dim;
  matrix(w, "self_attn.q_proj.weight", q, m->width);
  matrix(w, "self_attn.k_proj.weight", k, m->width);
  matrix(w, "self_attn.v_proj.weight", k, m->width);
  matrix(w, "self_attn.o_proj.weight", m->width, q);
  if (biases) {
    bias(w, "self_attn.q_proj.bias", q);
    bias(w, "self_attn.k_proj.bias", k);
    bias(w, "self_attn.v_proj.bias", k);
  }
  if (o_bias) bias(w, "self_attn.o_proj.bias", m->width);
}

static void layer_gpt_oss(writer *w) {
  const random_model *m = w->m;
  layer_attention(w, true, true);
  norm(w, "input_layernorm.weight", m->width);
  norm(w, "post_attention_layernorm.weight", m->width);
  bias(w, "self_attn.sinks", m->heads);
  matrix(w, "mlp.router.weight", m->experts, m->width);
  bias(w, "mlp.router.bias", m->experts);
  drawing up = {.spread = 1.7 / sqrt((double)m->width)}, down = {.spread = 1.7 / sqrt((double)m->ffn)};
  if (m->float_experts) { /* input-first, as transformers writes them */
    floats_add(w, "mlp.experts.gate_up_proj", m->experts, m->width, 2 * m->ffn, up);
    floats_add(w, "mlp.experts.down_proj", m->experts, m->ffn, m->width, down);
  } else {
    mxfp4(w, "mlp.experts.gate_up_proj", m->experts, 2 * m->ffn, m->width);
    mxfp4(w, "mlp.experts.down_proj", m->experts, m->width, m->ffn);
  }
  floats_add(w, "mlp.experts.gate_up_proj_bias", 0, m->experts, 2 * m->ffn, (drawing){.spread = 0.1});
  floats_add(w, "mlp.experts.down_proj_bias", 0, m->experts, m->width, (drawing){.spread = 0.1});
}

static void layer_dense(writer *w) {
  const random_model *m = w->m;
  layer_attention(w, m->arch == RANDOM_QWEN2, false);
  norm(w, "input_layernorm.weight", m->width);
  norm(w, "post_attention_layernorm.weight", m->width);
  if (m->arch == RANDOM_QWEN3) {
    norm(w, "self_attn.q_norm.weight", m->head_dim);
    norm(w, "self_attn.k_norm.weight", m->head_dim);
  }
  matrix(w, "mlp.gate_proj.weight", m->ffn, m->width);
  matrix(w, "mlp.up_proj.weight", m->ffn, m->width);
  matrix(w, "mlp.down_proj.weight", m->width, m->ffn);
}

static void layer_nanochat(writer *w) {
  layer_attention(w, false, false);
  matrix(w, "mlp.fc1.weight", w->m->ffn, w->m->width);
  matrix(w, "mlp.fc2.weight", w->m->width, w->m->ffn);
}

/* Rows of query_key_value are q, k, v of one head after the other. */
static bool is_value_row(const random_model *m, int64_t row) {
  return row / m->head_dim % 3 == 2;
}

/* Powers of two are exact: with values larger and attention.dense smaller by the same one, the same function. */
static void layer_gpt_neox(writer *w) {
  const random_model *m = w->m;
  int residual = m->residual_log2, value = m->value_log2, mlp = m->mlp_log2;
  drawing values = {.exponent = value, .of_row = is_value_row}, values_bias = {.spread = 0.1};
  values_bias.exponent = value;
  values_bias.of_row = is_value_row;
  matrix_scaled(w, "attention.query_key_value.weight", 3 * m->width, m->width, values);
  floats_add(w, "attention.query_key_value.bias", 0, 0, 3 * m->width, values_bias);
  matrix_scaled(w, "attention.dense.weight", m->width, m->width, (drawing){.exponent = residual - value});
  floats_add(w, "attention.dense.bias", 0, 0, m->width, (drawing){.spread = 0.1, .exponent = residual});
  norm(w, "input_layernorm.weight", m->width);
  bias(w, "input_layernorm.bias", m->width);
  norm(w, "post_attention_layernorm.weight", m->width);
  bias(w, "post_attention_layernorm.bias", m->width);
  matrix_scaled(w, "mlp.dense_h_to_4h.weight", m->ffn, m->width, (drawing){.exponent = mlp});
  floats_add(w, "mlp.dense_h_to_4h.bias", 0, 0, m->ffn, (drawing){.spread = 0.1, .exponent = mlp});
  matrix_scaled(w, "mlp.dense_4h_to_h.weight", m->width, m->ffn, (drawing){.exponent = residual - mlp});
  floats_add(w, "mlp.dense_4h_to_h.bias", 0, 0, m->width, (drawing){.spread = 0.1, .exponent = residual});
}

/* --- Files ------------------------------------------------------------------------------------------------------ */

static json_t *config_json(const random_model *m) {
  json_t *c = json_pack(
      "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:f, s:f, s:f}", "model_type", random_arch_name(m->arch),
      "num_hidden_layers", (json_int_t)m->layers, "hidden_size", (json_int_t)m->width, "intermediate_size",
      (json_int_t)m->ffn, "num_attention_heads", (json_int_t)m->heads, "num_key_value_heads",
      (json_int_t)m->kv_heads, "head_dim", (json_int_t)m->head_dim, "vocab_size", (json_int_t)m->vocab,
      "max_position_embeddings", 512, "rope_theta", 10000.0, "layer_norm_eps", 1e-12, "rotary_pct", 0.5);
  assert_non_null(c);
  if (m->arch == RANDOM_GPT_OSS) {
    json_object_set_new(c, "num_local_experts", json_integer(m->experts));
    json_object_set_new(c, "num_experts_per_tok", json_integer(m->top_k));
    json_object_set_new(c, "sliding_window", json_integer(m->window));
  }
  if (m->arch == RANDOM_NANOCHAT) json_object_set_new(c, "final_logit_softcapping", json_real(15));
  return c;
}

static void model_tensors(writer *w) {
  const random_model *m = w->m;
  bool neox = m->arch == RANDOM_GPT_NEOX;
  drawing embed = {.spread = 1.7, .exponent = m->residual_log2};
  w->prefix = "";
  floats_add(w, neox ? "gpt_neox.embed_in.weight" : "model.embed_tokens.weight", 0, m->vocab, m->width,
             embed);
  if (m->poisoned) /* all bits set is NaN in each type */
    memset((void *)(uintptr_t)w->tensors[0].data, 0xFF, (size_t)m->width * ie_dtype_bytes(m->dtype));
  matrix(w, neox ? "embed_out.weight" : "lm_head.weight", m->vocab, m->width);
  if (m->arch != RANDOM_NANOCHAT)
    norm(w, neox ? "gpt_neox.final_layer_norm.weight" : "model.norm.weight", m->width);
  if (neox) bias(w, "gpt_neox.final_layer_norm.bias", m->width);
}

void random_model_write(const random_model *model, const char *dir) {
  writer *w = calloc(1, sizeof *w);
  char path[1024], prefix[64];
  ie_error error;
  assert_non_null(w);
  w->m = model;
  model_tensors(w);
  for (int64_t i = 0; i < model->layers; i++) {
    snprintf(prefix, sizeof prefix, "%s.layers.%d.", model->arch == RANDOM_GPT_NEOX ? "gpt_neox" : "model",
             (int)i);
    w->prefix = prefix;
    switch (model->arch) {
    case RANDOM_GPT_OSS: layer_gpt_oss(w); break;
    case RANDOM_GPT_NEOX: layer_gpt_neox(w); break;
    case RANDOM_NANOCHAT: layer_nanochat(w); break;
    default: layer_dense(w);
    }
  }
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  if (ie_tensor_file_write(path, w->tensors, w->count, &error) != IE_OK) fail_msg("%s", error.message);
  snprintf(path, sizeof path, "%s/config.json", dir);
  json_t *config = config_json(model);
  assert_int_equal(json_dump_file(config, path, 0), 0);
  json_decref(config);
  for (size_t i = 0; i < w->count; i++) free((void *)(uintptr_t)w->tensors[i].data);
  free(w);
}
