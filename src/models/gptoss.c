/* gpt-oss: OpenAI's mixture of experts with attention sinks and alternating sliding windows (2025).
 *
 *   x += O attention(rope(Q n), rope(K n), V n)        n = rms_norm(x); softmax has one sink logit per head
 *   x += sum over top-k experts of w_e down_e(swiglu(gate_up_e n))   n = rms_norm(x); w = softmax of the chosen
 *
 * Layouts: Hugging Face with MXFP4 experts, Hugging Face with unquantised experts (input first), OpenAI's own.
 * Gate and up rows are interleaved in all of them: row 2i is gate i, row 2i + 1 is up i. */
#include "models/decoder.h"

#include <math.h>
#include <string.h>

typedef struct gptoss_layer {
  ie_vector attn_norm, mlp_norm; /* (C) */
  ie_weight q, k, v, o;          /* (H D, C), (HK D, C) twice, (C, H D) */
  ie_vector sinks;               /* (H) */
  ie_weight router;              /* (E, C) */
  ie_weight gate_up, down;       /* (E, 2F, C), (E, C, F) */
  int64_t window;                /* 0: full attention */
} gptoss_layer;

typedef struct gptoss {
  ie_decoder base;
  int64_t E, top_k;
  float eps, swiglu_limit;
  bool stored_mxfp4; /* what config.json says of the experts of a model that begins from nothing */
  ie_vector norm;    /* (C) */
} gptoss;

static gptoss_layer *layer_at(const gptoss *m, int64_t i) {
  return (gptoss_layer *)m->base.layer + i;
}

/* --- Forward --------------------------------------------------------------------------------------------- */

static const float swiglu_alpha = 1.702f; /* of the model card */

/* Few tokens wait for the disk: this layer's router on what goes into the layer guesses what it will say of what comes
 * out of attention, and the reads begin before attention does. The better half of the guesses is right nine times in
 * ten; with all of them the disk is busier with what nobody needs than it was idle before (docs/SPEED.md). */
static void expect(ie_ctx *ctx, const gptoss *m, const gptoss_layer *l, const ie_tensor *x) {
  if (!ctx->experts || !ctx->experts->expect || !x || x->shape[0] > 2) return;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  ie_tensor *scores = ie_op_linear(ctx, ie_op_rms_norm(ctx, x, &l->mlp_norm, m->eps), &l->router);
  ie_routing routing =
      ie_op_route(ctx, scores, &(ie_route_options){.top_k = m->top_k > 1 ? m->top_k / 2 : 1});
  if (routing.expert)
    ctx->experts->expect(ctx->experts, ctx, ie_tensor_i32(routing.expert), ie_tensor_count(routing.expert));
  ie_ctx_reset(ctx, mark);
}

static ie_tensor *block(ie_ctx *ctx, const void *net, int64_t i, ie_tensor *x, ie_kv_layer *kv,
                        const ie_batch *batch, ie_rope_table rope) {
  const gptoss *m = net;
  const gptoss_layer *l = layer_at(m, i);
  expect(ctx, m, l, x);
  ie_tensor *n = ie_op_rms_norm(ctx, x, &l->attn_norm, m->eps);
  ie_qkv a = ie_op_qkv(ctx, n, &l->q, &l->k, &l->v, m->base.D);
  ie_op_rope(ctx, a.q, rope);
  ie_op_rope(ctx, a.k, rope);
  ie_op_kv_append(ctx, kv, a.k, a.v, batch);
  ie_tensor *o =
      ie_op_attention(ctx, a.q, kv, batch,
                      &(ie_attention_options){
                          .scale = 1.0f / sqrtf((float)m->base.D), .window = l->window, .sinks = l->sinks});
  x = ie_op_linear_residual(ctx, x, o, &l->o);
  x = ie_op_check_finite(ctx, x, "residual after attention");

  n = ie_op_rms_norm(ctx, x, &l->mlp_norm, m->eps);
  ie_tensor *scores = ie_op_check_finite(ctx, ie_op_linear(ctx, n, &l->router), "router logits");
  ie_routing routing = ie_op_route(ctx, scores, &(ie_route_options){.top_k = m->top_k});
  x = ie_op_moe_residual(ctx, x, n, routing,
                         &(ie_moe_options){.gate_up = &l->gate_up,
                                           .down = &l->down,
                                           .activation = IE_MOE_SWIGLU_CLAMPED,
                                           .alpha = swiglu_alpha,
                                           .limit = m->swiglu_limit});
  return ie_op_check_finite(ctx, x, "residual after the experts");
}

static ie_tensor *last(ie_ctx *ctx, const void *net, ie_tensor *x) {
  const gptoss *m = net;
  return ie_op_rms_norm(ctx, x, &m->norm, m->eps);
}

/* --- Config ---------------------------------------------------------------------------------------------- */

static bool is_original(const ie_checkpoint *checkpoint) {
  return ie_checkpoint_find(checkpoint, "block.0.attn.sinks") != NULL;
}

static bool recognise(const json_t *config, const ie_checkpoint *checkpoint) {
  const char *type = json_string_value(json_object_get(config, "model_type"));
  return type ? !strcmp(type, "gpt_oss") : is_original(checkpoint);
}

static void config_dims(ie_json_reader *c, gptoss *m, bool original) {
  ie_decoder_config(c, &m->base, 131072);
  m->E = ie_json_int_required(c, original ? "num_experts" : "num_local_experts", 1, 1 << 16);
  int64_t top_k = ie_json_int(c, "experts_per_token", m->E < 4 ? m->E : 4, 1, m->E);
  m->top_k = ie_json_int(c, "num_experts_per_tok", top_k, 1, m->E);
  m->eps = (float)ie_json_number(c, "rms_norm_eps", 1e-5, 0, 1);
  m->swiglu_limit = (float)ie_json_number(c, "swiglu_limit", 7.0, 0, 1e30);
  if (m->swiglu_limit == 0) m->swiglu_limit = INFINITY;
  if (c->status == IE_OK && ie_json_bool(c, "tie_word_embeddings", false))
    c->status =
        ie_error_set(c->error, IE_UNSUPPORTED,
                     "%s: tie_word_embeddings is true; gpt-oss has an output matrix of its own", c->where);
}

/* Where a config names no scheme, the reference has YaRN (transformers, the defaults of GptOssConfig). */
static void config_rope(ie_json_reader *c, ie_decoder *d, bool original) {
  if (!original && (ie_json_object(c, "rope_scaling") || ie_json_object(c, "rope_parameters"))) {
    ie_rope_read(c, d->D, 150000.0, d->context, &d->rope);
    return;
  }
  ie_yarn yarn = {.factor = 32, .original_context = 4096, .beta_fast = 32, .beta_slow = 1, .truncate = false};
  yarn.theta = ie_json_number(c, "rope_theta", 150000.0, 1.0 + 1e-9, 1e15);
  if (original) {
    yarn.factor = ie_json_number(c, "rope_scaling_factor", yarn.factor, 1e-3, 1e6);
    yarn.beta_slow = ie_json_number(c, "rope_ntk_alpha", yarn.beta_slow, 1e-6, 1e6);
    yarn.beta_fast = ie_json_number(c, "rope_ntk_beta", yarn.beta_fast, 1e-6, 1e6);
    yarn.original_context = (double)ie_json_int(c, "initial_context_length", 4096, 1, INT32_MAX);
    double context = yarn.original_context * fmax(yarn.factor, 1.0);
    d->context = context < INT32_MAX ? (int64_t)context : INT32_MAX;
  }
  if (c->status != IE_OK) return;
  if (yarn.factor > 1.0)
    ie_rope_yarn(&yarn, d->D, &d->rope);
  else
    ie_rope_plain(yarn.theta, d->D, &d->rope);
}

static void config(ie_json_reader *c, const ie_checkpoint *checkpoint, void *net) {
  gptoss *m = net;
  bool original = is_original(checkpoint);
  config_dims(c, m, original);
  ie_json_reader quantised = {
      .object = ie_json_object(c, "quantization_config"), .where = c->where, .error = c->error};
  if (c->status == IE_OK && quantised.object) {
    m->stored_mxfp4 = !strcmp(ie_json_string(&quantised, "quant_method", ""), "mxfp4");
    c->status = quantised.status;
  }
  if (c->status == IE_OK) config_rope(c, &m->base, original);
}

/* Which layers slide: layer_types, or every second one beginning with the first. */
static void config_layers(ie_json_reader *c, void *net) {
  const gptoss *m = net;
  int64_t window = ie_json_int(c, "sliding_window", 128, 1, INT32_MAX);
  const json_t *types = ie_json_array(c, "layer_types");
  if (c->status != IE_OK) return;
  if (types && (int64_t)json_array_size(types) != m->base.layers) {
    c->status =
        ie_error_set(c->error, IE_FORMAT, "%s: layer_types has %zu entries, expected num_hidden_layers, %lld",
                     c->where, json_array_size(types), (long long)m->base.layers);
    return;
  }
  for (int64_t i = 0; i < m->base.layers; i++) {
    const char *type = types ? json_string_value(json_array_get(types, (size_t)i)) : NULL;
    bool sliding = types ? type && !strcmp(type, "sliding_attention") : i % 2 == 0;
    if (types && !sliding && (!type || strcmp(type, "full_attention") != 0)) {
      c->status = ie_error_set(c->error, IE_FORMAT,
                               "%s: layer_types[%lld]: expected sliding_attention or "
                               "full_attention, found %s",
                               c->where, (long long)i, type ? type : "no string");
      return;
    }
    layer_at(m, i)->window = sliding ? window : 0;
  }
}

/* --- Binding --------------------------------------------------------------------------------------------- */

enum { ONE, DC, DHD, DKD, DQKV, DK0, DV0, DH, DE, DF, DF2, DV, DIMS };

#define L(field) offsetof(gptoss_layer, field)
#define M(field) offsetof(gptoss, field)

static const ie_bind_entry hf_layer[] = {
    IE_VECTOR("model.layers.%d.input_layernorm.weight", L(attn_norm), DC),
    IE_HF_ATTENTION(L, DHD, DKD, DC),
    IE_HF_QKV_BIAS(L, DHD, DKD),
    IE_BIAS("model.layers.%d.self_attn.o_proj.bias", L(o), DC),
    IE_VECTOR("model.layers.%d.self_attn.sinks", L(sinks), DH),
    IE_VECTOR("model.layers.%d.post_attention_layernorm.weight", L(mlp_norm), DC),
    {.name = "model.layers.%d.mlp.router.weight",
     .kind = IE_BIND_MATRIX,
     .field = L(router),
     .rows = DE,
     .cols = DC,
     .f32 = true},
    IE_BIAS("model.layers.%d.mlp.router.bias", L(router), DE),
};
static const ie_bind_entry hf_bias[] = {
    {.name = "model.layers.%d.mlp.experts.gate_up_proj_bias",
     .kind = IE_BIND_BIAS,
     .field = L(gate_up),
     .experts = DE,
     .rows = DF2},
    {.name = "model.layers.%d.mlp.experts.down_proj_bias",
     .kind = IE_BIND_BIAS,
     .field = L(down),
     .experts = DE,
     .rows = DC},
};
static const ie_bind_entry hf_mxfp4[] = {
    {.name = "model.layers.%d.mlp.experts.gate_up_proj",
     .kind = IE_BIND_MXFP4,
     .field = L(gate_up),
     .experts = DE,
     .rows = DF2,
     .cols = DC,
     .blocks = "_blocks",
     .scales = "_scales"},
    {.name = "model.layers.%d.mlp.experts.down_proj",
     .kind = IE_BIND_MXFP4,
     .field = L(down),
     .experts = DE,
     .rows = DC,
     .cols = DF,
     .blocks = "_blocks",
     .scales = "_scales"},
};
static const ie_bind_entry hf_input_first[] = {
    {.name = "model.layers.%d.mlp.experts.gate_up_proj",
     .kind = IE_BIND_EXPERTS,
     .field = L(gate_up),
     .experts = DE,
     .rows = DF2,
     .cols = DC},
    {.name = "model.layers.%d.mlp.experts.down_proj",
     .kind = IE_BIND_EXPERTS,
     .field = L(down),
     .experts = DE,
     .rows = DC,
     .cols = DF},
};
static const ie_bind_entry hf_model[] = {
    IE_MATRIX("model.embed_tokens.weight", M(base.embed), DV, DC),
    IE_VECTOR("model.norm.weight", M(norm), DC),
    IE_MATRIX("lm_head.weight", M(base.head), DV, DC),
};

static const ie_bind_entry original_layer[] = {
    {.name = "block.%d.attn.norm.scale",
     .hf = "model.layers.%d.input_layernorm.weight",
     .kind = IE_BIND_VECTOR,
     .field = L(attn_norm),
     .cols = DC},
    {.name = "block.%d.attn.qkv.weight",
     .hf = "model.layers.%d.self_attn.q_proj.weight",
     .kind = IE_BIND_ROWS,
     .field = L(q),
     .rows = DHD,
     .cols = DC,
     .total = DQKV},
    {.name = "block.%d.attn.qkv.weight",
     .hf = "model.layers.%d.self_attn.k_proj.weight",
     .kind = IE_BIND_ROWS,
     .field = L(k),
     .rows = DKD,
     .cols = DC,
     .total = DQKV,
     .first = DK0},
    {.name = "block.%d.attn.qkv.weight",
     .hf = "model.layers.%d.self_attn.v_proj.weight",
     .kind = IE_BIND_ROWS,
     .field = L(v),
     .rows = DKD,
     .cols = DC,
     .total = DQKV,
     .first = DV0},
    {.name = "block.%d.attn.qkv.bias",
     .hf = "model.layers.%d.self_attn.q_proj.bias",
     .kind = IE_BIND_BIAS_ROWS,
     .field = L(q),
     .rows = DHD,
     .total = DQKV},
    {.name = "block.%d.attn.qkv.bias",
     .hf = "model.layers.%d.self_attn.k_proj.bias",
     .kind = IE_BIND_BIAS_ROWS,
     .field = L(k),
     .rows = DKD,
     .total = DQKV,
     .first = DK0},
    {.name = "block.%d.attn.qkv.bias",
     .hf = "model.layers.%d.self_attn.v_proj.bias",
     .kind = IE_BIND_BIAS_ROWS,
     .field = L(v),
     .rows = DKD,
     .total = DQKV,
     .first = DV0},
    {.name = "block.%d.attn.out.weight",
     .hf = "model.layers.%d.self_attn.o_proj.weight",
     .kind = IE_BIND_MATRIX,
     .field = L(o),
     .rows = DC,
     .cols = DHD},
    {.name = "block.%d.attn.out.bias",
     .hf = "model.layers.%d.self_attn.o_proj.bias",
     .kind = IE_BIND_BIAS,
     .field = L(o),
     .rows = DC},
    {.name = "block.%d.attn.sinks",
     .hf = "model.layers.%d.self_attn.sinks",
     .kind = IE_BIND_VECTOR,
     .field = L(sinks),
     .cols = DH},
    {.name = "block.%d.mlp.norm.scale",
     .hf = "model.layers.%d.post_attention_layernorm.weight",
     .kind = IE_BIND_VECTOR,
     .field = L(mlp_norm),
     .cols = DC},
    {.name = "block.%d.mlp.gate.weight",
     .hf = "model.layers.%d.mlp.router.weight",
     .kind = IE_BIND_MATRIX,
     .field = L(router),
     .rows = DE,
     .cols = DC,
     .f32 = true},
    {.name = "block.%d.mlp.gate.bias",
     .hf = "model.layers.%d.mlp.router.bias",
     .kind = IE_BIND_BIAS,
     .field = L(router),
     .rows = DE},
    {.name = "block.%d.mlp.mlp1_weight",
     .hf = "model.layers.%d.mlp.experts.gate_up_proj",
     .kind = IE_BIND_MXFP4,
     .field = L(gate_up),
     .experts = DE,
     .rows = DF2,
     .cols = DC,
     .blocks = ".blocks",
     .scales = ".scales"},
    {.name = "block.%d.mlp.mlp2_weight",
     .hf = "model.layers.%d.mlp.experts.down_proj",
     .kind = IE_BIND_MXFP4,
     .field = L(down),
     .experts = DE,
     .rows = DC,
     .cols = DF,
     .blocks = ".blocks",
     .scales = ".scales"},
    {.name = "block.%d.mlp.mlp1_bias",
     .hf = "model.layers.%d.mlp.experts.gate_up_proj_bias",
     .kind = IE_BIND_BIAS,
     .field = L(gate_up),
     .experts = DE,
     .rows = DF2},
    {.name = "block.%d.mlp.mlp2_bias",
     .hf = "model.layers.%d.mlp.experts.down_proj_bias",
     .kind = IE_BIND_BIAS,
     .field = L(down),
     .experts = DE,
     .rows = DC},
};
static const ie_bind_entry original_model[] = {
    {.name = "embedding.weight",
     .hf = "model.embed_tokens.weight",
     .kind = IE_BIND_MATRIX,
     .field = M(base.embed),
     .rows = DV,
     .cols = DC},
    {.name = "norm.scale", .hf = "model.norm.weight", .kind = IE_BIND_VECTOR, .field = M(norm), .cols = DC},
    {.name = "unembedding.weight",
     .hf = "lm_head.weight",
     .kind = IE_BIND_MATRIX,
     .field = M(base.head),
     .rows = DV,
     .cols = DC},
};

static void bind(ie_binder *b, void *net) {
  gptoss *m = net;
  const ie_decoder *d = &m->base;
  const int64_t HD = d->H * d->D, KD = d->HK * d->D;
  const int64_t dims[DIMS] = {
      [ONE] = 1,       [DC] = d->C, [DHD] = HD,  [DKD] = KD,  [DQKV] = HD + 2 * KD, [DK0] = HD,
      [DV0] = HD + KD, [DH] = d->H, [DE] = m->E, [DF] = d->F, [DF2] = 2 * d->F,     [DV] = d->V};
  b->dims = dims;
  bool original = is_original(b->checkpoint);
  bool mxfp4 =
      b->create ? m->stored_mxfp4
                : ie_checkpoint_find(b->checkpoint, "model.layers.0.mlp.experts.gate_up_proj_blocks") != NULL;
  for (int64_t i = 0; i < d->layers && b->status == IE_OK; i++) {
    gptoss_layer *l = layer_at(m, i);
    if (original) {
      IE_BIND(b, original_layer, i, l);
      continue;
    }
    IE_BIND(b, hf_layer, i, l);
    if (mxfp4)
      IE_BIND(b, hf_mxfp4, i, l);
    else
      IE_BIND(b, hf_input_first, i, l);
    IE_BIND(b, hf_bias, i, l);
  }
  if (original)
    IE_BIND(b, original_model, 0, m);
  else
    IE_BIND(b, hf_model, 0, m);
  b->dims = NULL;
}

static void describe(const ie_binder *b, const void *net, ie_model *model) {
  const gptoss *m = net;
  if (is_original(b->checkpoint) && ie_checkpoint_container(b->checkpoint) != IE_CONTAINER_IEBIN)
    model->info.layout = "original";
  model->info.active_parameters = b->parameters - b->expert_parameters / m->E * (m->E - m->top_k);
  for (int64_t i = 0; i < m->base.layers; i++) {
    const gptoss_layer *l = layer_at(m, i);
    model->kv[i].window = l->window;
    model->moe[i] = (ie_moe_layer){.gate_up = &l->gate_up, .down = &l->down, .top_k = m->top_k};
    model->expert_bytes += (size_t)m->E * (ie_weight_bytes(&l->gate_up) + ie_weight_bytes(&l->down));
  }
}

static const ie_decoder_spec spec = {
    .net_bytes = sizeof(gptoss),
    .layer_bytes = sizeof(gptoss_layer),
    .config = config,
    .config_layers = config_layers,
    .bind = bind,
    .describe = describe,
    .block = block,
    .last = last,
};

const ie_arch ie_arch_gptoss = {
    .name = "gpt-oss", .chat_format = "harmony", .recognise = recognise, .decoder = &spec};
