/* nanochat (Karpathy 2025), in transformers' layout: norms without weights, RoPE that turns the other way and stands
 * before the norms of q and k, an MLP with squared ReLU, soft-capped logits.
 *
 *   x = norm(embedding);  x += O attention(norm(rope(Q n)), norm(rope(K n)), V n);  x += down(relu(up n)^2) */
#include "models/arch.h"
#include "models/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct nano_layer {
  ie_weight q, k, v, o; /* (H D, C), (HK D, C) twice, (C, H D) */
  ie_weight up, down;   /* (F, C), (C, F) */
} nano_layer;

typedef struct nano {
  int64_t layers, C, H, HK, D, F, V, context;
  bool bias;
  float eps, cap; /* cap 0: logits as they are */
  ie_rope rope;
  ie_vector width_norm, head_norm; /* without data: all ones */
  ie_weight embed, head;           /* (V, C) */
  nano_layer *layer;
} nano;

static ie_tensor *block(ie_ctx *ctx, const nano *m, const nano_layer *l, ie_tensor *x, ie_kv_layer *kv,
                        const ie_batch *batch, ie_rope_table rope) {
  ie_tensor *n = ie_op_rms_norm(ctx, x, &m->width_norm, m->eps);
  ie_qkv a = ie_op_qkv(ctx, n, &l->q, &l->k, &l->v, m->D);
  a.q = ie_op_rms_norm(ctx, ie_op_rope(ctx, a.q, rope), &m->head_norm, m->eps);
  a.k = ie_op_rms_norm(ctx, ie_op_rope(ctx, a.k, rope), &m->head_norm, m->eps);
  ie_op_kv_append(ctx, kv, a.k, a.v, batch);
  ie_tensor *o =
      ie_op_attention(ctx, a.q, kv, batch, &(ie_attention_options){.scale = 1.0f / sqrtf((float)m->D)});
  x = ie_op_check_finite(ctx, ie_op_linear_residual(ctx, x, o, &l->o), "residual after attention");
  n = ie_op_rms_norm(ctx, x, &m->width_norm, m->eps);
  x = ie_op_linear_residual(ctx, x, ie_op_linear_activation(ctx, n, &l->up, IE_RELU2), &l->down);
  return ie_op_check_finite(ctx, x, "residual after the MLP");
}

static ie_tensor *forward(ie_ctx *ctx, const void *net, ie_kv_layer *kv, const ie_batch *batch,
                          const ie_hooks *hooks) {
  const nano *m = net;
  ctx->layer = -1;
  ie_tensor *x = ie_op_check_finite(ctx, ie_op_embed(ctx, &m->embed, batch), "embedding");
  x = ie_op_rms_norm(ctx, x, &m->width_norm, m->eps);
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
  x = ie_op_rms_norm(ctx, ie_op_gather_wanted(ctx, x, batch), &m->width_norm, m->eps);
  ie_tensor *logits = ie_op_linear(ctx, x, &m->head);
  if (m->cap > 0) logits = ie_op_soft_cap(ctx, logits, m->cap);
  return ie_op_check_finite(ctx, logits, "logits");
}

/* --- Config and binding ---------------------------------------------------------------------------------- */

enum { LAYERS_MAX = 4096, WIDTH_MAX = 1 << 20 };

static bool recognise(const json_t *config, const ie_checkpoint *checkpoint) {
  (void)checkpoint;
  const char *type = json_string_value(json_object_get(config, "model_type"));
  return type && !strcmp(type, "nanochat");
}

static void config_read(ie_json_reader *c, nano *m) {
  m->layers = ie_json_int_required(c, "num_hidden_layers", 1, LAYERS_MAX);
  m->C = ie_json_int_required(c, "hidden_size", 1, WIDTH_MAX);
  m->F = ie_json_int_required(c, "intermediate_size", 1, WIDTH_MAX);
  m->H = ie_json_int_required(c, "num_attention_heads", 1, WIDTH_MAX);
  m->HK = ie_json_int(c, "num_key_value_heads", m->H, 1, WIDTH_MAX);
  m->V = ie_json_int_required(c, "vocab_size", 1, INT32_MAX);
  m->D = ie_json_int(c, "head_dim", m->H > 0 ? m->C / m->H : 0, 2, 2 * IE_ROPE_HALF_MAX);
  m->eps = (float)ie_json_number(c, "rms_norm_eps", 1e-6, 0, 1);
  m->cap = (float)ie_json_number(c, "final_logit_softcapping", 0.0, 0, 1e30);
  m->context = ie_json_int(c, "max_position_embeddings", 2048, 1, INT32_MAX);
  m->bias = ie_json_bool(c, "attention_bias", false);
  const char *act = ie_json_string(c, "hidden_act", "relu2");
  if (c->status != IE_OK) return;
  if (m->H % m->HK != 0 || m->D % 2 != 0)
    c->status = ie_error_set(c->error, IE_FORMAT,
                             "%s: %lld heads, %lld key and value heads of %lld: expected a "
                             "multiple, and an even head",
                             c->where, (long long)m->H, (long long)m->HK, (long long)m->D);
  else if (strcmp(act, "relu2") != 0 || ie_json_bool(c, "tie_word_embeddings", false) || m->bias)
    c->status = ie_error_set(c->error, IE_UNSUPPORTED,
                             "%s: nanochat with another activation than relu2, tied "
                             "embeddings or biases is not built",
                             c->where);
  if (c->status != IE_OK) return;
  ie_rope_read(c, m->D, 10000.0, m->context, &m->rope);
  for (int64_t i = 0; i < m->rope.half; i++)
    m->rope.inv_freq[i] = -m->rope.inv_freq[i]; /* turns the other way */
  m->width_norm = (ie_vector){.n = m->C};
  m->head_norm = (ie_vector){.n = m->D};
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
    {.name = "model.embed_tokens.weight", .kind = IE_BIND_MATRIX, .field = M(embed), .rows = DV, .cols = DC},
    {.name = "lm_head.weight", .kind = IE_BIND_MATRIX, .field = M(head), .rows = DV, .cols = DC},
};

#define BIND(b, table, layer, target) ie_bind_entries(b, table, sizeof table / sizeof table[0], layer, target)

static void bind(ie_binder *b, nano *m) {
  const int64_t dims[DIMS] = {
      [ONE] = 1, [DC] = m->C, [DHD] = m->H * m->D, [DKD] = m->HK * m->D, [DF] = m->F, [DV] = m->V};
  b->dims = dims;
  for (int64_t i = 0; i < m->layers && b->status == IE_OK; i++) BIND(b, layer_table, (int)i, &m->layer[i]);
  BIND(b, model_table, 0, m);
  b->dims = NULL;
}

static void describe(const ie_binder *b, const nano *m, ie_model *model) {
  model->info.layout = ie_checkpoint_container(b->checkpoint) == IE_CONTAINER_IEBIN ? "iebin" : "hf";
  model->info.parameters = model->info.active_parameters = b->parameters;
  model->info.layers = m->layers;
  model->info.width = m->C;
  model->info.vocab = m->V;
  model->info.context_tok = m->context;
  for (int64_t i = 0; i < m->layers; i++) model->kv[i] = (ie_kv_spec){.heads = m->HK, .dim = m->D};
}

static void release(void *net) {
  nano *m = net;
  if (!m) return;
  free(m->layer);
  free(m);
}

static ie_status open_net(ie_binder *b, ie_json_reader *config, ie_model *model, void **net) {
  *net = NULL;
  nano *m = calloc(1, sizeof *m);
  if (!m) return b->status = ie_error_set(b->error, IE_OUT_OF_MEMORY, "out of memory for a model");
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
    release(m);
    return b->status;
  }
  describe(b, m, model);
  *net = m;
  return IE_OK;
}

const ie_arch ie_arch_nanochat = {
    .name = "nanochat",
    .recognise = recognise,
    .open = open_net,
    .release = release,
    .forward = forward,
};
