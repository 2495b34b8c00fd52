/* nanochat (Karpathy 2025), in transformers' layout and in its own (model_NNNNNN.pt with meta_NNNNNN.json): norms
 * without weights, RoPE that turns the other way and stands before the norms of q and k, an MLP with squared ReLU,
 * soft-capped logits. Its own code keeps the tables of RoPE in bfloat16 and may pad the vocabulary.
 *
 *   x = norm(embedding);  x += O attention(norm(rope(Q n)), norm(rope(K n)), V n);  x += down(relu(up n)^2) */
#include "base/quote.h"
#include "base/size.h"
#include "models/decoder.h"

#include <math.h>
#include <string.h>

typedef struct nano_layer {
  ie_weight q, k, v, o; /* (H D, C), (HK D, C) twice, (C, H D) */
  ie_weight up, down;   /* (F, C), (C, F) */
} nano_layer;

typedef struct nano {
  ie_decoder base;
  float eps;
  ie_vector width_norm, head_norm; /* without data: all ones */
  bool native;                     /* its own layout and names */
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

static ie_tensor *last(ie_ctx *ctx, const void *net, ie_tensor *x) {
  const nano *m = net;
  return ie_op_rms_norm(ctx, x, &m->width_norm, m->eps);
}

/* --- Config ------------------------------------------------------------------------------------------------- */

static bool recognise(const json_t *config, const ie_checkpoint *checkpoint) {
  const char *type = json_string_value(json_object_get(config, "model_type"));
  return ie_checkpoint_container(checkpoint) == IE_CONTAINER_NATIVE || (type && !strcmp(type, "nanochat"));
}

static void config_hf(ie_json_reader *c, nano *m) {
  ie_decoder *d = &m->base;
  ie_decoder_config(c, d, 2048);
  m->eps = (float)ie_json_number(c, "rms_norm_eps", 1e-6, 0, 1);
  m->base.soft_cap = (float)ie_json_number(c, "final_logit_softcapping", 0.0, 0, 1e30);
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
}

/* The tensors of nanochat until December 2025. Later ones add value embeddings, residual scales and gates: a program
 * that leaves them out would compute something else, so any other name is refused. */
static bool native_name_is_known(const char *name) {
  static const char *const parts[] = {".attn.c_q.weight",    ".attn.c_k.weight", ".attn.c_v.weight",
                                      ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight"};
  static const char layer[] = "transformer.h.";
  if (!strcmp(name, "transformer.wte.weight") || !strcmp(name, "lm_head.weight")) return true;
  if (strncmp(name, layer, sizeof layer - 1) != 0) return false;
  name += sizeof layer - 1;
  name += strspn(name, "0123456789");
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
    if (!strcmp(name, parts[i])) return true;
  return false;
}

/* As its code computes them: powers and quotients in float32. */
static void native_rope(ie_decoder *d) {
  d->rope = (ie_rope){.half = d->D / 2, .attention_factor = 1.0f, .bf16 = true};
  for (int64_t i = 0; i < d->rope.half; i++)
    d->rope.inv_freq[i] = 1.0f / powf(10000.0f, (float)(2 * i) / (float)d->D);
}

static void config_native(ie_json_reader *c, const ie_checkpoint *checkpoint, nano *m) {
  ie_decoder *d = &m->base;
  ie_json_reader inner = {.object = ie_json_object(c, "model_config"), .where = c->where, .error = c->error};
  if (c->status == IE_OK && !json_is_object(inner.object))
    c->status = ie_error_set(c->error, IE_FORMAT, "%s: model_config: expected an object", c->where);
  if (c->status != IE_OK) return;
  d->layers = ie_json_int_required(&inner, "n_layer", 1, IE_LAYERS_MAX);
  d->C = ie_json_int_required(&inner, "n_embd", 1, IE_WIDTH_MAX / 4);
  d->H = ie_json_int_required(&inner, "n_head", 1, IE_WIDTH_MAX);
  d->HK = ie_json_int(&inner, "n_kv_head", d->H, 1, IE_WIDTH_MAX);
  d->V = ie_json_int_required(&inner, "vocab_size", 1, INT32_MAX - 64);
  d->context = ie_json_int(&inner, "sequence_len", 2048, 1, INT32_MAX);
  const char *windows = ie_json_string(&inner, "window_pattern", "L");
  m->eps = (float)ie_json_number(&inner, "rms_norm_eps", 1.1920929e-7, 0, 1);
  m->base.soft_cap = 15.0f;
  c->status = inner.status;
  if (c->status != IE_OK) return;
  d->F = 4 * d->C;
  d->D = d->C / d->H;
  if (d->C % d->H != 0 || d->D % 2 != 0 || d->D < 2 || d->D > 2 * IE_ROPE_HALF_MAX || d->H % d->HK != 0)
    c->status = ie_error_set(
        c->error, IE_FORMAT,
        "%s: n_embd %lld, n_head %lld and n_kv_head %lld do not fit each other: expected heads of "
        "an even width up to %d, a multiple of n_kv_head of them",
        c->where, (long long)d->C, (long long)d->H, (long long)d->HK, 2 * IE_ROPE_HALF_MAX);
  else if (strspn(windows, "Ll") != strlen(windows))
    c->status = ie_error_set(c->error, IE_UNSUPPORTED,
                             "%s: window_pattern is %s: nanochat with sliding windows is not built", c->where,
                             ie_quote(windows).text);
  for (size_t i = 0; c->status == IE_OK && i < ie_checkpoint_count(checkpoint); i++) {
    const ie_tensor_info *t = ie_checkpoint_at(checkpoint, i);
    if (!native_name_is_known(t->name))
      c->status = ie_error_set(c->error, IE_UNSUPPORTED,
                               "%s: tensor %s: of a later nanochat (after December 2025), which is not built",
                               t->file, ie_quote(t->name).text);
  }
  if (c->status == IE_OK) native_rope(d);
}

static void config(ie_json_reader *c, const ie_checkpoint *checkpoint, void *net) {
  nano *m = net;
  ie_decoder *d = &m->base;
  m->native = ie_checkpoint_container(checkpoint) == IE_CONTAINER_NATIVE;
  if (m->native)
    config_native(c, checkpoint, m);
  else
    config_hf(c, m);
  if (c->status != IE_OK) return;
  for (int64_t i = 0; i < d->rope.half; i++)
    d->rope.inv_freq[i] = -d->rope.inv_freq[i]; /* turns the other way */
  m->width_norm = (ie_vector){.n = d->C};
  m->head_norm = (ie_vector){.n = d->D};
}

/* --- Binding ------------------------------------------------------------------------------------------------ */

enum { ONE, DC, DHD, DKD, DF, DV, DVE, DVH, DIMS };

#define L(field) offsetof(nano_layer, field)
#define M(field) offsetof(nano, field)

static const ie_bind_entry layer_table[] = {
    IE_HF_ATTENTION(L, DHD, DKD, DC),
    IE_MATRIX("model.layers.%d.mlp.fc1.weight", L(up), DF, DC),
    IE_MATRIX("model.layers.%d.mlp.fc2.weight", L(down), DC, DF),
};
static const ie_bind_entry model_table[] = {
    IE_MATRIX("model.embed_tokens.weight", M(base.embed), DV, DC),
    IE_MATRIX("lm_head.weight", M(base.head), DV, DC),
};
static const ie_bind_entry native_layer_table[] = {
    IE_MATRIX("transformer.h.%d.attn.c_q.weight", L(q), DHD, DC),
    IE_MATRIX("transformer.h.%d.attn.c_k.weight", L(k), DKD, DC),
    IE_MATRIX("transformer.h.%d.attn.c_v.weight", L(v), DKD, DC),
    IE_MATRIX("transformer.h.%d.attn.c_proj.weight", L(o), DC, DHD),
    IE_MATRIX("transformer.h.%d.mlp.c_fc.weight", L(up), DF, DC),
    IE_MATRIX("transformer.h.%d.mlp.c_proj.weight", L(down), DC, DF),
};
/* The first V rows: the padding of the vocabulary is cut. */
static const ie_bind_entry native_model_table[] = {
    {.name = "transformer.wte.weight",
     .kind = IE_BIND_ROWS,
     .field = M(base.embed),
     .rows = DV,
     .cols = DC,
     .total = DVE,
     .padded = true},
    {.name = "lm_head.weight",
     .kind = IE_BIND_ROWS,
     .field = M(base.head),
     .rows = DV,
     .cols = DC,
     .total = DVH,
     .padded = true},
};

/* Rows of a matrix over the vocabulary: V, or V padded to a multiple of 64. */
static int64_t padded_rows(const ie_binder *b, const char *name, int64_t V) {
  const ie_tensor_info *t = ie_checkpoint_find(b->checkpoint, name);
  int64_t padded = ie_div_up(V, 64) * 64;
  return t && t->rank == 2 && t->shape[0] == padded ? padded : V;
}

static void bind(ie_binder *b, void *net) {
  nano *m = net;
  const ie_decoder *d = &m->base;
  const int64_t dims[DIMS] = {[ONE] = 1,
                              [DC] = d->C,
                              [DHD] = d->H * d->D,
                              [DKD] = d->HK * d->D,
                              [DF] = d->F,
                              [DV] = d->V,
                              [DVE] = padded_rows(b, "transformer.wte.weight", d->V),
                              [DVH] = padded_rows(b, "lm_head.weight", d->V)};
  b->dims = dims;
  for (int64_t i = 0; i < d->layers && b->status == IE_OK; i++) {
    nano_layer *layer = (nano_layer *)d->layer + i;
    if (m->native)
      IE_BIND(b, native_layer_table, i, layer);
    else
      IE_BIND(b, layer_table, i, layer);
  }
  if (m->native)
    IE_BIND(b, native_model_table, 0, m);
  else
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
    .last = last,
};

const ie_arch ie_arch_nanochat = {.name = "nanochat", .recognise = recognise, .decoder = &spec};
