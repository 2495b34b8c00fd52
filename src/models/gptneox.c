/* GPT-NeoX (Black et al. 2022) and Pythia (Biderman et al. 2023).
 *
 *   parallel (the default):  x += attention(LN1(x)) + mlp(LN2(x))      both norms read the same x
 *   sequential:              x += attention(LN1(x));  x += mlp(LN2(x))
 *
 * q, k and v are interleaved per head; RoPE turns the first rotary_pct of each head. The residual stream is f32: in f16
 * the 20B model overflows. Buffers of the published files (attention.bias, masked_bias, rotary_emb.inv_freq) are not
 * weights and are ignored. */
#include "models/decoder.h"

#include <math.h>
#include <string.h>

typedef struct neox_layer {
  ie_vector norm1, norm1_bias, norm2, norm2_bias; /* (C) */
  ie_weight qkv, o;                               /* (H 3 D, C), (C, C) */
  ie_weight up, down;                             /* (F, C), (C, F) */
} neox_layer;

typedef struct neox {
  ie_decoder base;
  bool parallel, bias;
  float eps;
  ie_activation activation;
  ie_vector norm, norm_bias; /* (C) */
} neox;

/* --- Forward --------------------------------------------------------------------------------------------- */

static ie_tensor *attention(ie_ctx *ctx, const neox *m, const neox_layer *l, const ie_tensor *n,
                            ie_kv_layer *kv, const ie_batch *batch, ie_rope_table rope) {
  ie_qkv a = ie_op_qkv_interleaved(ctx, n, &l->qkv, m->base.D);
  ie_op_rope(ctx, a.q, rope);
  ie_op_rope(ctx, a.k, rope);
  ie_op_kv_append(ctx, kv, a.k, a.v, batch);
  return ie_op_attention(ctx, a.q, kv, batch,
                         &(ie_attention_options){.scale = 1.0f / sqrtf((float)m->base.D)});
}

static ie_tensor *block(ie_ctx *ctx, const void *net, int64_t i, ie_tensor *x, ie_kv_layer *kv,
                        const ie_batch *batch, ie_rope_table rope) {
  const neox *m = net;
  const neox_layer *l = (const neox_layer *)m->base.layer + i;
  ie_tensor *n1 = ie_op_layer_norm(ctx, x, &l->norm1, &l->norm1_bias, m->eps);
  ie_tensor *n2 = m->parallel ? ie_op_layer_norm(ctx, x, &l->norm2, &l->norm2_bias, m->eps) : NULL;
  x = ie_op_linear_residual(ctx, x, attention(ctx, m, l, n1, kv, batch, rope), &l->o);
  x = ie_op_check_finite(ctx, x, "residual after attention");
  if (!m->parallel) n2 = ie_op_layer_norm(ctx, x, &l->norm2, &l->norm2_bias, m->eps);
  x = ie_op_linear_residual(ctx, x, ie_op_linear_activation(ctx, n2, &l->up, m->activation), &l->down);
  return ie_op_check_finite(ctx, x, "residual after the MLP");
}

static ie_tensor *last(ie_ctx *ctx, const void *net, ie_tensor *x) {
  const neox *m = net;
  return ie_op_layer_norm(ctx, x, &m->norm, &m->norm_bias, m->eps);
}

/* --- Config ---------------------------------------------------------------------------------------------- */

static bool recognise(const json_t *config, const ie_checkpoint *checkpoint) {
  (void)checkpoint;
  const char *type = json_string_value(json_object_get(config, "model_type"));
  return type && !strcmp(type, "gpt_neox");
}

static void config_activation(ie_json_reader *c, neox *m) {
  static const struct {
    const char *name;
    ie_activation activation;
  } known[] = {{"gelu", IE_GELU},
               {"gelu_fast", IE_GELU_TANH},
               {"gelu_new", IE_GELU_TANH},
               {"gelu_python", IE_GELU},
               {"gelu_pytorch_tanh", IE_GELU_TANH}};
  const char *name = ie_json_string(c, "hidden_act", "gelu");
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    if (strcmp(name, known[i].name) != 0) continue;
    m->activation = known[i].activation;
    return;
  }
  if (c->status == IE_OK)
    c->status = ie_error_set(c->error, IE_UNSUPPORTED,
                             "%s: hidden_act '%s'; built are gelu, gelu_fast, gelu_new, "
                             "gelu_python and gelu_pytorch_tanh",
                             c->where, name);
}

/* rotary_pct and rotary_emb_base, or rope_parameters.partial_rotary_factor and rope_theta. */
static void config_rope(ie_json_reader *c, ie_decoder *d) {
  double part = ie_json_number(c, "rotary_pct", 0.25, 0, 1);
  double theta = ie_json_number(c, "rotary_emb_base", 10000.0, 1.0 + 1e-9, 1e15);
  const json_t *parameters = ie_json_object(c, "rope_parameters");
  if (parameters && c->status == IE_OK) {
    ie_json_reader inner = {.object = parameters, .where = c->where, .error = c->error};
    part = ie_json_number(&inner, "partial_rotary_factor", part, 0, 1);
    c->status = inner.status;
  }
  int64_t rotated = (int64_t)((double)d->D * part);
  if (c->status == IE_OK && rotated % 2 != 0)
    c->status = ie_error_set(c->error, IE_FORMAT,
                             "%s: rotary_pct %g of a head of %lld is %lld dimensions, expected an "
                             "even number",
                             c->where, part, (long long)d->D, (long long)rotated);
  if (c->status == IE_OK) ie_rope_read(c, rotated, theta, d->context, &d->rope);
}

static void config(ie_json_reader *c, const ie_checkpoint *checkpoint, void *net) {
  (void)checkpoint;
  neox *m = net;
  ie_decoder_config(c, &m->base, 2048);
  m->eps = (float)ie_json_number(c, "layer_norm_eps", 1e-5, 0, 1);
  m->parallel = ie_json_bool(c, "use_parallel_residual", true);
  m->bias = ie_json_bool(c, "attention_bias", true);
  if (c->status == IE_OK && (m->base.HK != m->base.H || m->base.C != m->base.H * m->base.D))
    c->status =
        ie_error_set(c->error, IE_FORMAT,
                     "%s: %lld heads of %lld for a hidden_size of %lld: GPT-NeoX has as many key and value "
                     "heads, and they fill it",
                     c->where, (long long)m->base.H, (long long)m->base.D, (long long)m->base.C);
  if (c->status == IE_OK) config_activation(c, m);
  if (c->status == IE_OK) config_rope(c, &m->base);
}

/* --- Binding --------------------------------------------------------------------------------------------- */

enum { ONE, DC, DQKV, DF, DV, DIMS };

#define L(field) offsetof(neox_layer, field)
#define M(field) offsetof(neox, field)

static const ie_bind_entry layer_table[] = {
    IE_VECTOR("gpt_neox.layers.%d.input_layernorm.weight", L(norm1), DC),
    IE_VECTOR("gpt_neox.layers.%d.input_layernorm.bias", L(norm1_bias), DC),
    IE_VECTOR("gpt_neox.layers.%d.post_attention_layernorm.weight", L(norm2), DC),
    IE_VECTOR("gpt_neox.layers.%d.post_attention_layernorm.bias", L(norm2_bias), DC),
    IE_MATRIX("gpt_neox.layers.%d.attention.query_key_value.weight", L(qkv), DQKV, DC),
    IE_MATRIX("gpt_neox.layers.%d.attention.dense.weight", L(o), DC, DC),
    IE_MATRIX("gpt_neox.layers.%d.mlp.dense_h_to_4h.weight", L(up), DF, DC),
    IE_BIAS("gpt_neox.layers.%d.mlp.dense_h_to_4h.bias", L(up), DF),
    IE_MATRIX("gpt_neox.layers.%d.mlp.dense_4h_to_h.weight", L(down), DC, DF),
    IE_BIAS("gpt_neox.layers.%d.mlp.dense_4h_to_h.bias", L(down), DC),
};
static const ie_bind_entry bias_table[] = {
    IE_BIAS("gpt_neox.layers.%d.attention.query_key_value.bias", L(qkv), DQKV),
    IE_BIAS("gpt_neox.layers.%d.attention.dense.bias", L(o), DC),
};
static const ie_bind_entry model_table[] = {
    IE_MATRIX("gpt_neox.embed_in.weight", M(base.embed), DV, DC),
    IE_VECTOR("gpt_neox.final_layer_norm.weight", M(norm), DC),
    IE_VECTOR("gpt_neox.final_layer_norm.bias", M(norm_bias), DC),
};
static const ie_bind_entry head_published[] = {IE_MATRIX("embed_out.weight", M(base.head), DV, DC)};
static const ie_bind_entry head_renamed[] = {IE_MATRIX("lm_head.weight", M(base.head), DV, DC)};

static void bind(ie_binder *b, void *net) {
  neox *m = net;
  const ie_decoder *d = &m->base;
  const int64_t dims[DIMS] = {[ONE] = 1, [DC] = d->C, [DQKV] = 3 * d->C, [DF] = d->F, [DV] = d->V};
  b->dims = dims;
  for (int64_t i = 0; i < d->layers && b->status == IE_OK; i++) {
    neox_layer *l = (neox_layer *)d->layer + i;
    IE_BIND(b, layer_table, i, l);
    if (m->bias) IE_BIND(b, bias_table, i, l);
  }
  IE_BIND(b, model_table, 0, m);
  if (ie_checkpoint_find(b->checkpoint, "lm_head.weight")) /* as transformers 5 writes it */
    IE_BIND(b, head_renamed, 0, m);
  else
    IE_BIND(b, head_published, 0, m);
  b->dims = NULL;
}

static const ie_decoder_spec spec = {
    .net_bytes = sizeof(neox),
    .layer_bytes = sizeof(neox_layer),
    .config = config,
    .bind = bind,
    .block = block,
    .last = last,
};

const ie_arch ie_arch_gptneox = {.name = "gpt-neox", .recognise = recognise, .decoder = &spec};
