#include "models/dense.h"

#include <math.h>
#include <string.h>

/* --- Forward --------------------------------------------------------------------------------------------- */

ie_tensor *ie_dense_block(ie_ctx *ctx, const void *net, int64_t i, ie_tensor *x, ie_kv_layer *kv,
                          const ie_batch *batch, ie_rope_table rope) {
  const ie_dense *m = net;
  const ie_dense_layer *l = (const ie_dense_layer *)m->base.layer + i;
  ie_tensor *n = ie_op_rms_norm(ctx, x, &l->attn_norm, m->eps);
  ie_qkv a = ie_op_qkv(ctx, n, &l->q, &l->k, &l->v, m->base.D);
  if (m->qk_norm) {
    a.q = ie_op_rms_norm(ctx, a.q, &l->q_norm, m->eps);
    a.k = ie_op_rms_norm(ctx, a.k, &l->k_norm, m->eps);
  }
  ie_op_rope(ctx, a.q, rope);
  ie_op_rope(ctx, a.k, rope);
  ie_op_kv_append(ctx, kv, a.k, a.v, batch);
  ie_tensor *o =
      ie_op_attention(ctx, a.q, kv, batch, &(ie_attention_options){.scale = 1.0f / sqrtf((float)m->base.D)});
  x = ie_op_linear_residual(ctx, x, o, &l->o);
  x = ie_op_check_finite(ctx, x, "residual after attention");

  n = ie_op_rms_norm(ctx, x, &l->mlp_norm, m->eps);
  x = ie_op_linear_residual(ctx, x, ie_op_swiglu(ctx, n, &l->gate, &l->up), &l->down);
  return ie_op_check_finite(ctx, x, "residual after the MLP");
}

ie_tensor *ie_dense_last(ie_ctx *ctx, const void *net, ie_tensor *x) {
  const ie_dense *m = net;
  return ie_op_rms_norm(ctx, x, &m->norm, m->eps);
}

/* --- Binding --------------------------------------------------------------------------------------------- */

enum { ONE, DC, DHD, DKD, DF, DV, DD, DIMS };

#define L(field) offsetof(ie_dense_layer, field)
#define M(field) offsetof(ie_dense, field)

static const ie_bind_entry layer_table[] = {
    IE_VECTOR("model.layers.%d.input_layernorm.weight", L(attn_norm), DC),
    IE_HF_ATTENTION(L, DHD, DKD, DC),
    IE_VECTOR("model.layers.%d.post_attention_layernorm.weight", L(mlp_norm), DC),
    IE_MATRIX("model.layers.%d.mlp.gate_proj.weight", L(gate), DF, DC),
    IE_MATRIX("model.layers.%d.mlp.up_proj.weight", L(up), DF, DC),
    IE_MATRIX("model.layers.%d.mlp.down_proj.weight", L(down), DC, DF),
};
static const ie_bind_entry qkv_bias_table[] = {
    IE_HF_QKV_BIAS(L, DHD, DKD),
};
static const ie_bind_entry o_bias_table[] = {
    IE_BIAS("model.layers.%d.self_attn.o_proj.bias", L(o), DC),
};
static const ie_bind_entry mlp_bias_table[] = {
    IE_BIAS("model.layers.%d.mlp.gate_proj.bias", L(gate), DF),
    IE_BIAS("model.layers.%d.mlp.up_proj.bias", L(up), DF),
    IE_BIAS("model.layers.%d.mlp.down_proj.bias", L(down), DC),
};
static const ie_bind_entry qk_norm_table[] = {
    IE_VECTOR("model.layers.%d.self_attn.q_norm.weight", L(q_norm), DD),
    IE_VECTOR("model.layers.%d.self_attn.k_norm.weight", L(k_norm), DD),
};
static const ie_bind_entry model_table[] = {
    IE_MATRIX("model.embed_tokens.weight", M(base.embed), DV, DC),
    IE_VECTOR("model.norm.weight", M(norm), DC),
};
static const ie_bind_entry head_table[] = {
    IE_MATRIX("lm_head.weight", M(base.head), DV, DC),
};

void ie_dense_bind(ie_binder *b, void *net) {
  ie_dense *m = net;
  ie_decoder *d = &m->base;
  const int64_t dims[DIMS] = {[ONE] = 1,   [DC] = d->C, [DHD] = d->H * d->D, [DKD] = d->HK * d->D,
                              [DF] = d->F, [DV] = d->V, [DD] = d->D};
  b->dims = dims;
  for (int64_t i = 0; i < d->layers && b->status == IE_OK; i++) {
    ie_dense_layer *l = (ie_dense_layer *)d->layer + i;
    IE_BIND(b, layer_table, i, l);
    if (m->qkv_bias) IE_BIND(b, qkv_bias_table, i, l);
    if (m->o_bias) IE_BIND(b, o_bias_table, i, l);
    if (m->mlp_bias) IE_BIND(b, mlp_bias_table, i, l);
    if (m->qk_norm) IE_BIND(b, qk_norm_table, i, l);
  }
  IE_BIND(b, model_table, 0, m);
  if (m->tied)
    d->head = d->embed;
  else
    IE_BIND(b, head_table, 0, m);
  b->dims = NULL;
}

/* --- Config ---------------------------------------------------------------------------------------------- */

void ie_dense_config(ie_json_reader *c, ie_dense *m, double rope_theta) {
  ie_decoder_config(c, &m->base, 4096);
  m->eps = (float)ie_json_number(c, "rms_norm_eps", 1e-6, 0, 1);
  m->tied = ie_json_bool(c, "tie_word_embeddings", false);
  const char *act = ie_json_string(c, "hidden_act", "silu");
  if (c->status != IE_OK) return;
  if (strcmp(act, "silu") != 0)
    c->status =
        ie_error_set(c->error, IE_UNSUPPORTED, "%s: hidden_act '%s', only silu is built", c->where, act);
  else if (ie_json_bool(c, "use_sliding_window", false))
    c->status = ie_error_set(c->error, IE_UNSUPPORTED,
                             "%s: use_sliding_window is true, which is not built here", c->where);
  if (c->status == IE_OK) ie_rope_read(c, m->base.D, rope_theta, m->base.context, &m->base.rope);
}
