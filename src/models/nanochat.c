/* nanochat (Karpathy 2025), in transformers' layout: norms without weights, RoPE that turns the other way and stands
 * before the norms of q and k, an MLP with squared ReLU, soft-capped logits.
 *
 *   x = norm(embedding);  x += O attention(norm(rope(Q n)), norm(rope(K n)), V n);  x += down(relu(up n)^2) */
#include "models/decoder.h"

#include <math.h>
#include <string.h>

typedef struct nano_layer {
  ie_weight q, k, v, o; /* (H D, C), (HK D, C) twice, (C, H D) */
  ie_weight up, down;   /* (F, C), (C, F) */
} nano_layer;

typedef struct nano {
  ie_decoder base;
  float eps, cap;                  /* cap 0: logits as they are */
  ie_vector width_norm, head_norm; /* without data: all ones */
} nano;

static ie_tensor *begin(ie_ctx *ctx, const void *net, ie_tensor *x) {
  const nano *m = net;
  return ie_op_rms_norm(ctx, x, &m->width_norm, m->eps);
}

static ie_tensor *block(ie_ctx *ctx, const void *net, int64_t i, ie_tensor *x, ie_kv_layer *kv,
                        const ie_batch *batch, ie_rope_table rope) {
  const nano *m = net;
  const nano_layer *l = (const nano_layer *)m->base.layer + i;
  ie_tensor *n = ie_op_rms_norm(ctx, x, &m->width_norm, m->eps);
  ie_qkv a = ie_op_qkv(ctx, n, &l->q, &l->k, &l->v, m->base.D);
  a.q = ie_op_rms_norm(ctx, ie_op_rope(ctx, a.q, rope), &m->head_norm, m->eps);
  a.k = ie_op_rms_norm(ctx, ie_op_rope(ctx, a.k, rope), &m->head_norm, m->eps);
  ie_op_kv_append(ctx, kv, a.k, a.v, batch);
  ie_tensor *o =
      ie_op_attention(ctx, a.q, kv, batch, &(ie_attention_options){.scale = 1.0f / sqrtf((float)m->base.D)});
  x = ie_op_check_finite(ctx, ie_op_linear_residual(ctx, x, o, &l->o), "residual after attention");
  n = ie_op_rms_norm(ctx, x, &m->width_norm, m->eps);
  x = ie_op_linear_residual(ctx, x, ie_op_linear_activation(ctx, n, &l->up, IE_RELU2), &l->down);
  return ie_op_check_finite(ctx, x, "residual after the MLP");
}

static ie_tensor *logits(ie_ctx *ctx, const void *net, ie_tensor *x) {
  const nano *m = net;
  x = ie_op_linear(ctx, ie_op_rms_norm(ctx, x, &m->width_norm, m->eps), &m->base.head);
  return m->cap > 0 ? ie_op_soft_cap(ctx, x, m->cap) : x;
}

/* --- Config and binding ---------------------------------------------------------------------------------- */

static bool recognise(const json_t *config, const ie_checkpoint *checkpoint) {
  (void)checkpoint;
  const char *type = json_string_value(json_object_get(config, "model_type"));
  return type && !strcmp(type, "nanochat");
}

static void config(ie_json_reader *c, const ie_checkpoint *checkpoint, void *net) {
  (void)checkpoint;
  nano *m = net;
  ie_decoder *d = &m->base;
  ie_decoder_config(c, d, 2048);
  m->eps = (float)ie_json_number(c, "rms_norm_eps", 1e-6, 0, 1);
  m->cap = (float)ie_json_number(c, "final_logit_softcapping", 0.0, 0, 1e30);
  const char *act = ie_json_string(c, "hidden_act", "relu2");
  if (c->status != IE_OK) return;
  if (strcmp(act, "relu2") != 0 || ie_json_bool(c, "tie_word_embeddings", false) ||
      ie_json_bool(c, "attention_bias", false)) {
    if (c->status == IE_OK)
      c->status = ie_error_set(
          c->error, IE_UNSUPPORTED,
          "%s: nanochat with another activation than relu2, tied embeddings or biases is not built",
          c->where);
    return;
  }
  ie_rope_read(c, d->D, 10000.0, d->context, &d->rope);
  for (int64_t i = 0; i < d->rope.half; i++)
    d->rope.inv_freq[i] = -d->rope.inv_freq[i]; /* turns the other way */
  m->width_norm = (ie_vector){.n = d->C};
  m->head_norm = (ie_vector){.n = d->D};
}

enum { ONE, DC, DHD, DKD, DF, DV, DIMS };

#define L(field) offsetof(nano_layer, field)
#define M(field) offsetof(nano, field)

static const ie_bind_entry layer_table[] = {
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
    {.name = "model.layers.%d.mlp.fc1.weight",
     .kind = IE_BIND_MATRIX,
     .field = L(up),
     .rows = DF,
     .cols = DC},
    {.name = "model.layers.%d.mlp.fc2.weight",
     .kind = IE_BIND_MATRIX,
     .field = L(down),
     .rows = DC,
     .cols = DF},
};
static const ie_bind_entry model_table[] = {
    {.name = "model.embed_tokens.weight",
     .kind = IE_BIND_MATRIX,
     .field = M(base.embed),
     .rows = DV,
     .cols = DC},
    {.name = "lm_head.weight", .kind = IE_BIND_MATRIX, .field = M(base.head), .rows = DV, .cols = DC},
};

static void bind(ie_binder *b, void *net) {
  nano *m = net;
  const ie_decoder *d = &m->base;
  const int64_t dims[DIMS] = {
      [ONE] = 1, [DC] = d->C, [DHD] = d->H * d->D, [DKD] = d->HK * d->D, [DF] = d->F, [DV] = d->V};
  b->dims = dims;
  for (int64_t i = 0; i < d->layers && b->status == IE_OK; i++)
    IE_BIND(b, layer_table, i, (nano_layer *)d->layer + i);
  IE_BIND(b, model_table, 0, m);
  b->dims = NULL;
}

static const ie_decoder_spec spec = {
    .net_bytes = sizeof(nano),
    .layer_bytes = sizeof(nano_layer),
    .config = config,
    .bind = bind,
    .begin = begin,
    .block = block,
    .logits = logits,
};

const ie_arch ie_arch_nanochat = {.name = "nanochat", .recognise = recognise, .decoder = &spec};
