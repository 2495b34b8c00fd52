#include "models/dense.h"

#include "models/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct dense_layer {
  ie_vector attn_norm, mlp_norm; /* (C) */
  ie_weight q, k, v, o;          /* (H D, C), (HK D, C) twice, (C, H D) */
  ie_vector q_norm, k_norm;      /* (D) or absent */
  ie_weight gate, up, down;      /* (F, C) twice, (C, F) */
} dense_layer;

typedef struct dense {
  ie_dense_spec spec;
  int64_t layers, C, H, HK, D, F, V, context;
  bool tied;
  float eps;
  ie_rope rope;
  ie_weight embed, head; /* (V, C); the same bytes when tied */
  ie_vector norm;        /* (C) */
  dense_layer *layer;
} dense;

/* --- Forward --------------------------------------------------------------------------------------------- */

static ie_tensor *block(ie_ctx *ctx, const dense *m, const dense_layer *l, ie_tensor *x, ie_kv_layer *kv,
                        const ie_batch *batch, ie_rope_table rope) {
  ie_tensor *n = ie_op_rms_norm(ctx, x, &l->attn_norm, m->eps);
  ie_qkv a = ie_op_qkv(ctx, n, &l->q, &l->k, &l->v, m->D);
  if (m->spec.qk_norm) {
    a.q = ie_op_rms_norm(ctx, a.q, &l->q_norm, m->eps);
    a.k = ie_op_rms_norm(ctx, a.k, &l->k_norm, m->eps);
  }
  ie_op_rope(ctx, a.q, rope);
  ie_op_rope(ctx, a.k, rope);
  ie_op_kv_append(ctx, kv, a.k, a.v, batch);
  ie_tensor *o =
      ie_op_attention(ctx, a.q, kv, batch, &(ie_attention_options){.scale = 1.0f / sqrtf((float)m->D)});
  x = ie_op_linear_residual(ctx, x, o, &l->o);
  x = ie_op_check_finite(ctx, x, "residual after attention");

  n = ie_op_rms_norm(ctx, x, &l->mlp_norm, m->eps);
  x = ie_op_linear_residual(ctx, x, ie_op_swiglu(ctx, n, &l->gate, &l->up), &l->down);
  return ie_op_check_finite(ctx, x, "residual after the MLP");
}

ie_tensor *ie_dense_forward(ie_ctx *ctx, const void *net, ie_kv_layer *kv, const ie_batch *batch,
                            const ie_hooks *hooks) {
  const dense *m = net;
  ctx->layer = -1;
  ie_tensor *x = ie_op_check_finite(ctx, ie_op_embed(ctx, &m->embed, batch), "embedding");
  ie_rope_table rope = ie_op_rope_table(ctx, batch, m->rope.inv_freq, m->rope.half, m->rope.attention_factor);
  if (hooks && x) hooks->hidden(hooks->arg, 0, x);
  for (int64_t i = 0; i < m->layers; i++) {
    ie_ctx_mark mark = ie_ctx_save(ctx);
    ctx->layer = (int)i;
    x = block(ctx, m, &m->layer[i], x, &kv[i], batch, rope);
    ie_ctx_reset(ctx, mark);
    if (hooks && x) hooks->hidden(hooks->arg, i + 1, x);
  }
  ctx->layer = -1;
  if (batch->wanted_count == 0) return NULL;
  x = ie_op_rms_norm(ctx, ie_op_gather_wanted(ctx, x, batch), &m->norm, m->eps);
  return ie_op_check_finite(ctx, ie_op_linear(ctx, x, &m->head), "logits");
}

/* --- Config ---------------------------------------------------------------------------------------------- */

enum { LAYERS_MAX = 4096, WIDTH_MAX = 1 << 20 };

static void config_read(ie_json_reader *c, dense *m) {
  m->layers = ie_json_int_required(c, "num_hidden_layers", 1, LAYERS_MAX);
  m->C = ie_json_int_required(c, "hidden_size", 1, WIDTH_MAX);
  m->F = ie_json_int_required(c, "intermediate_size", 1, WIDTH_MAX);
  m->H = ie_json_int_required(c, "num_attention_heads", 1, WIDTH_MAX);
  m->HK = ie_json_int(c, "num_key_value_heads", m->H, 1, WIDTH_MAX);
  m->V = ie_json_int_required(c, "vocab_size", 1, INT32_MAX);
  m->D = ie_json_int(c, "head_dim", m->H > 0 ? m->C / m->H : 0, 2, 2 * IE_ROPE_HALF_MAX);
  m->eps = (float)ie_json_number(c, "rms_norm_eps", m->spec.rms_norm_eps, 0, 1);
  m->context = ie_json_int(c, "max_position_embeddings", 4096, 1, INT32_MAX);
  m->tied = ie_json_bool(c, "tie_word_embeddings", false);
  const char *act = ie_json_string(c, "hidden_act", "silu");
  if (c->status != IE_OK) return;
  if (m->H % m->HK != 0)
    c->status =
        ie_error_set(c->error, IE_FORMAT,
                     "%s: num_attention_heads is %lld, expected a multiple of num_key_value_heads, %lld",
                     c->where, (long long)m->H, (long long)m->HK);
  else if (m->D % 2 != 0)
    c->status = ie_error_set(c->error, IE_FORMAT, "%s: head_dim is %lld, expected an even number", c->where,
                             (long long)m->D);
  else if (strcmp(act, "silu") != 0)
    c->status =
        ie_error_set(c->error, IE_UNSUPPORTED, "%s: hidden_act '%s', only silu is built", c->where, act);
  else if (ie_json_bool(c, "use_sliding_window", false))
    c->status = ie_error_set(c->error, IE_UNSUPPORTED,
                             "%s: use_sliding_window is true, which is not built here", c->where);
  if (c->status == IE_OK) ie_rope_read(c, m->D, m->spec.rope_theta, m->context, &m->rope);
}

/* --- Binding --------------------------------------------------------------------------------------------- */

enum { ONE, DC, DHD, DKD, DF, DV, DD, DIMS };

#define L(field) offsetof(dense_layer, field)
#define M(field) offsetof(dense, field)

static const ie_bind_entry layer_table[] = {
    {.name = "model.layers.%d.input_layernorm.weight",
     .kind = IE_BIND_VECTOR,
     .field = L(attn_norm),
     .cols = DC},
    {.name = "model.layers.%d.self_attn.q_proj.weight",
     .kind = IE_BIND_MATRIX,
     .field = L(q),
     .rows = DHD,
     .cols = DC},
    {.name = "model.layers.%d.self_attn.k_proj.weight",
     .kind = IE_BIND_MATRIX,
     .field = L(k),
     .rows = DKD,
     .cols = DC},
    {.name = "model.layers.%d.self_attn.v_proj.weight",
     .kind = IE_BIND_MATRIX,
     .field = L(v),
     .rows = DKD,
     .cols = DC},
    {.name = "model.layers.%d.self_attn.o_proj.weight",
     .kind = IE_BIND_MATRIX,
     .field = L(o),
     .rows = DC,
     .cols = DHD},
    {.name = "model.layers.%d.post_attention_layernorm.weight",
     .kind = IE_BIND_VECTOR,
     .field = L(mlp_norm),
     .cols = DC},
    {.name = "model.layers.%d.mlp.gate_proj.weight",
     .kind = IE_BIND_MATRIX,
     .field = L(gate),
     .rows = DF,
     .cols = DC},
    {.name = "model.layers.%d.mlp.up_proj.weight",
     .kind = IE_BIND_MATRIX,
     .field = L(up),
     .rows = DF,
     .cols = DC},
    {.name = "model.layers.%d.mlp.down_proj.weight",
     .kind = IE_BIND_MATRIX,
     .field = L(down),
     .rows = DC,
     .cols = DF},
};
static const ie_bind_entry qkv_bias_table[] = {
    {.name = "model.layers.%d.self_attn.q_proj.bias", .kind = IE_BIND_BIAS, .field = L(q), .rows = DHD},
    {.name = "model.layers.%d.self_attn.k_proj.bias", .kind = IE_BIND_BIAS, .field = L(k), .rows = DKD},
    {.name = "model.layers.%d.self_attn.v_proj.bias", .kind = IE_BIND_BIAS, .field = L(v), .rows = DKD},
};
static const ie_bind_entry o_bias_table[] = {
    {.name = "model.layers.%d.self_attn.o_proj.bias", .kind = IE_BIND_BIAS, .field = L(o), .rows = DC},
};
static const ie_bind_entry mlp_bias_table[] = {
    {.name = "model.layers.%d.mlp.gate_proj.bias", .kind = IE_BIND_BIAS, .field = L(gate), .rows = DF},
    {.name = "model.layers.%d.mlp.up_proj.bias", .kind = IE_BIND_BIAS, .field = L(up), .rows = DF},
    {.name = "model.layers.%d.mlp.down_proj.bias", .kind = IE_BIND_BIAS, .field = L(down), .rows = DC},
};
static const ie_bind_entry qk_norm_table[] = {
    {.name = "model.layers.%d.self_attn.q_norm.weight",
     .kind = IE_BIND_VECTOR,
     .field = L(q_norm),
     .cols = DD},
    {.name = "model.layers.%d.self_attn.k_norm.weight",
     .kind = IE_BIND_VECTOR,
     .field = L(k_norm),
     .cols = DD},
};
static const ie_bind_entry model_table[] = {
    {.name = "model.embed_tokens.weight", .kind = IE_BIND_MATRIX, .field = M(embed), .rows = DV, .cols = DC},
    {.name = "model.norm.weight", .kind = IE_BIND_VECTOR, .field = M(norm), .cols = DC},
};
static const ie_bind_entry head_table[] = {
    {.name = "lm_head.weight", .kind = IE_BIND_MATRIX, .field = M(head), .rows = DV, .cols = DC},
};

#define BIND(b, table, layer, target) ie_bind_entries(b, table, sizeof table / sizeof table[0], layer, target)

static void bind(ie_binder *b, dense *m) {
  const int64_t dims[DIMS] = {[ONE] = 1,   [DC] = m->C, [DHD] = m->H * m->D, [DKD] = m->HK * m->D,
                              [DF] = m->F, [DV] = m->V, [DD] = m->D};
  b->dims = dims;
  for (int64_t i = 0; i < m->layers && b->status == IE_OK; i++) {
    dense_layer *l = &m->layer[i];
    BIND(b, layer_table, (int)i, l);
    if (m->spec.qkv_bias) BIND(b, qkv_bias_table, (int)i, l);
    if (m->spec.o_bias) BIND(b, o_bias_table, (int)i, l);
    if (m->spec.mlp_bias) BIND(b, mlp_bias_table, (int)i, l);
    if (m->spec.qk_norm) BIND(b, qk_norm_table, (int)i, l);
  }
  BIND(b, model_table, 0, m);
  if (m->tied)
    m->head = m->embed;
  else
    BIND(b, head_table, 0, m);
  b->dims = NULL;
}

static void describe(const ie_binder *b, const dense *m, ie_model *model) {
  model->info.layout = ie_checkpoint_container(b->checkpoint) == IE_CONTAINER_IEBIN ? "iebin" : "hf";
  model->info.parameters = model->info.active_parameters = b->parameters;
  model->info.layers = m->layers;
  model->info.width = m->C;
  model->info.vocab = m->V;
  model->info.context_tok = m->context;
  for (int64_t i = 0; i < m->layers; i++) model->kv[i] = (ie_kv_spec){.heads = m->HK, .dim = m->D};
}

void ie_dense_release(void *net) {
  dense *m = net;
  if (!m) return;
  free(m->layer);
  free(m);
}

ie_status ie_dense_open(ie_binder *b, ie_json_reader *config, const ie_dense_spec *spec, ie_model *model,
                        void **net) {
  *net = NULL;
  dense *m = calloc(1, sizeof *m);
  if (!m) return b->status = ie_error_set(b->error, IE_OUT_OF_MEMORY, "out of memory for a model");
  m->spec = *spec;
  config_read(config, m);
  b->status = config->status;
  if (b->status == IE_OK) {
    m->layer = calloc((size_t)m->layers, sizeof *m->layer);
    model->kv = calloc((size_t)m->layers, sizeof *model->kv);
    if (!m->layer || !model->kv)
      b->status = ie_error_set(b->error, IE_OUT_OF_MEMORY, "out of memory for the model's layers");
  }
  if (b->status == IE_OK) bind(b, m);
  if (b->status != IE_OK) {
    ie_dense_release(m);
    return b->status;
  }
  describe(b, m, model);
  *net = m;
  return IE_OK;
}
