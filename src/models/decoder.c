#include "models/decoder.h"
#include "models/attach.h"

#include <stdlib.h>

void ie_decoder_config(ie_json_reader *c, ie_decoder *d, int64_t context_default) {
  d->layers = ie_json_int_required(c, "num_hidden_layers", 1, IE_LAYERS_MAX);
  d->C = ie_json_int_required(c, "hidden_size", 1, IE_WIDTH_MAX);
  d->F = ie_json_int_required(c, "intermediate_size", 1, IE_WIDTH_MAX);
  d->H = ie_json_int_required(c, "num_attention_heads", 1, IE_WIDTH_MAX);
  d->HK = ie_json_int(c, "num_key_value_heads", d->H, 1, IE_WIDTH_MAX);
  d->V = ie_json_int_required(c, "vocab_size", 1, INT32_MAX);
  d->D = ie_json_int(c, "head_dim", d->H > 0 ? d->C / d->H : 0, 2, 2 * IE_ROPE_HALF_MAX);
  d->context = ie_json_int(c, "max_position_embeddings", context_default, 1, INT32_MAX);
  if (c->status != IE_OK) return;
  if (d->H % d->HK != 0)
    c->status =
        ie_error_set(c->error, IE_FORMAT,
                     "%s: num_attention_heads is %lld, expected a multiple of num_key_value_heads, %lld",
                     c->where, (long long)d->H, (long long)d->HK);
  else if (d->D % 2 != 0)
    c->status = ie_error_set(c->error, IE_FORMAT, "%s: head_dim is %lld, expected an even number", c->where,
                             (long long)d->D);
}

static void describe(const ie_binder *b, const ie_decoder *d, ie_model *model) {
  static const char *const layouts[] = {[IE_CONTAINER_SAFETENSORS] = "hf",
                                        [IE_CONTAINER_IEBIN] = "iebin",
                                        [IE_CONTAINER_TORCH] = "hf",
                                        [IE_CONTAINER_NATIVE] = "native"};
  model->info.layout = layouts[ie_checkpoint_container(b->checkpoint)];
  model->info.parameters = model->info.active_parameters = b->parameters;
  model->info.layers = d->layers;
  model->info.width = d->C;
  model->info.vocab = d->V;
  model->info.context_tok = d->context;
  for (int64_t i = 0; i < d->layers; i++) model->kv[i] = (ie_kv_spec){.heads = d->HK, .dim = d->D};
}

void ie_decoder_release(void *net) {
  ie_decoder *d = net;
  if (!d) return;
  free(d->layer);
  free(d);
}

ie_status ie_decoder_open(const ie_decoder_spec *spec, ie_binder *b, ie_json_reader *config, ie_model *model,
                          void **net) {
  *net = NULL;
  ie_decoder *d = calloc(1, spec->net_bytes);
  if (!d) return b->status = ie_error_set(b->error, IE_OUT_OF_MEMORY, "out of memory for a model");
  spec->config(config, b->checkpoint, d);
  if (config->status == IE_OK) {
    d->layer = calloc((size_t)d->layers, spec->layer_bytes);
    model->kv = calloc((size_t)d->layers, sizeof *model->kv);
    model->moe = calloc((size_t)d->layers, sizeof *model->moe);
    if (!d->layer || !model->kv || !model->moe)
      config->status = ie_error_set(b->error, IE_OUT_OF_MEMORY, "out of memory for the model's layers");
  }
  if (config->status == IE_OK && spec->config_layers) spec->config_layers(config, d);
  b->status = config->status;
  b->lookup = &d->embed;
  b->layers = d->layers;
  if (b->status == IE_OK) spec->bind(b, d);
  ie_bind_tied_head(b, &d->embed, &d->head);
  bool tied = d->head.part[0] && d->head.name == d->embed.name;
  if (b->status == IE_OK && tied && b->linears &&
      !ie_linear_list_add(b->linears, "lm_head.weight", &d->head, /*output=*/true))
    b->status = ie_error_set(b->error, IE_OUT_OF_MEMORY, "out of memory for lm_head.weight");
  if (b->status != IE_OK) {
    ie_decoder_release(d);
    return b->status;
  }
  describe(b, d, model);
  if (spec->describe) spec->describe(b, d, model);
  *net = d;
  return IE_OK;
}

typedef struct block_args {
  const ie_decoder_spec *spec;
  const void *net;
  int64_t layer;
  ie_kv_layer *kv;
  const ie_batch *batch;
  ie_rope_table rope;
} block_args;

static ie_tensor *block_run(ie_ctx *ctx, const void *arg, ie_tensor *x) {
  const block_args *a = arg;
  return a->spec->block(ctx, a->net, a->layer, x, a->kv, a->batch, a->rope);
}

/* The residual after the last layer, of all tokens. */
static ie_tensor *layers_run(const ie_decoder_spec *spec, ie_ctx *ctx, const void *net, ie_kv_layer *kv,
                             const ie_batch *batch, const ie_hooks *hooks) {
  const ie_decoder *d = net;
  ctx->layer = -1;
  ie_tensor *x = ie_op_check_finite(ctx, ie_op_embed(ctx, &d->embed, batch), "embedding");
  if (spec->begin) x = spec->begin(ctx, net, x);
  ie_rope_table rope =
      ie_op_rope_table(ctx, batch, d->rope.inv_freq, d->rope.half, d->rope.attention_factor, d->rope.bf16);
  if (hooks && x) hooks->hidden(hooks->arg, 0, x);
  for (int64_t i = 0; i < d->layers; i++) {
    if (ctx->cancelled && ctx->cancelled(ctx->cancelled_arg))
      return ie_ctx_fail(ctx, IE_CANCELLED, "cancelled");
    ctx->layer = (int)i;
    const block_args args = {spec, net, i, &kv[i], batch, rope};
    x = ie_tape_block(ctx, block_run, &args, sizeof args, x);
    if (hooks && x) hooks->hidden(hooks->arg, i + 1, x);
  }
  ctx->layer = -1;
  return x;
}

ie_tensor *ie_decoder_hidden(const ie_decoder_spec *spec, ie_ctx *ctx, const void *net, ie_kv_layer *kv,
                             const ie_batch *batch, const ie_hooks *hooks) {
  return spec->last(ctx, net, layers_run(spec, ctx, net, kv, batch, hooks));
}

ie_tensor *ie_decoder_forward(const ie_decoder_spec *spec, ie_ctx *ctx, const void *net, ie_kv_layer *kv,
                              const ie_batch *batch, const ie_hooks *hooks) {
  const ie_decoder *d = net;
  ie_tensor *x = layers_run(spec, ctx, net, kv, batch, hooks);
  if (!x || batch->wanted_count == 0) return NULL;
  x = ie_op_linear(ctx, spec->last(ctx, net, ie_op_gather_wanted(ctx, x, batch)), &d->head);
  if (d->soft_cap > 0) x = ie_op_soft_cap(ctx, x, d->soft_cap);
  return ie_op_check_finite(ctx, x, "logits");
}
