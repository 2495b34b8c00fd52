#include "train/gradients.h"

#include "base/pages.h"
#include "base/size.h"
#include "models/decoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ie_gradients {
  ie_model *model;
  ie_gradients_options options;
  ie_tape *tape;
  ie_kv_layer *kv;           /* (layers) shapes alone */
  ie_route_balance *balance; /* (layers) */
  int64_t *taken;            /* the counters of experts as they were when they were asked for last */
  int64_t *chosen;           /* of all layers' experts, one after the other */
  real *grads;               /* of all parameters, one after the other */
  size_t grads_bytes;
  void (*ready)(void *arg, ie_param *param);
  void *ready_arg;
  ie_ctx ctx;
};

/* Counters of the routers. False when memory is out. */
static bool balance_alloc(ie_gradients *g) {
  const ie_model *m = g->model;
  int64_t experts = 0;
  for (int64_t i = 0; i < m->info.layers; i++) experts += m->moe[i].gate_up ? m->moe[i].gate_up->experts : 0;
  g->balance = calloc((size_t)ie_max_i64(1, m->info.layers), sizeof *g->balance);
  g->chosen = calloc((size_t)experts + 1, sizeof *g->chosen);
  g->taken = calloc((size_t)experts + 1, sizeof *g->taken);
  if (!g->balance || !g->chosen || !g->taken) return false;
  int64_t *at = g->chosen;
  for (int64_t i = 0; i < m->info.layers; i++) {
    if (!m->moe[i].gate_up) continue;
    g->balance[i].chosen = at;
    at += m->moe[i].gate_up->experts;
  }
  g->ctx.balance = g->balance;
  return true;
}

void ie_gradients_balance(ie_gradients *g, double coefficient) {
  int64_t routers = 0;
  for (int64_t i = 0; i < g->model->info.layers; i++) routers += g->model->moe[i].gate_up != NULL;
  for (int64_t i = 0; i < g->model->info.layers; i++)
    g->balance[i].coefficient = coefficient / (double)ie_max_i64(1, routers);
}

void ie_gradients_balance_take(ie_gradients *g, ie_route_report *out) {
  double sum = 0;
  int64_t routers = 0, experts = 0, idle = 0, chosen = 0;
  *out = (ie_route_report){.fewest = INT64_MAX, .chosen = g->taken};
  for (int64_t i = 0; i < g->model->info.layers; i++) {
    ie_route_balance *b = &g->balance[i];
    const ie_moe_layer *m = &g->model->moe[i];
    if (!m->gate_up || b->tokens == 0) continue;
    int64_t here = 0, E = m->gate_up->experts;
    routers++;
    sum += b->loss / (double)b->tokens / (double)m->top_k;
    memcpy(g->taken + experts, b->chosen, (size_t)E * sizeof *g->taken);
    experts += E;
    for (int64_t e = 0; e < E; e++) {
      here += b->chosen[e] == 0;
      chosen += b->chosen[e];
      out->fewest = ie_min_i64(out->fewest, b->chosen[e]);
      out->most = ie_max_i64(out->most, b->chosen[e]);
      b->chosen[e] = 0;
    }
    idle += here;
    if (here * ie_max_i64(1, out->worst_experts) > out->worst_idle * E || out->worst_experts == 0) {
      out->worst_layer = i;
      out->worst_idle = here;
      out->worst_experts = E;
    }
    b->loss = 0;
    b->tokens = 0;
  }
  out->routers = routers;
  out->experts = experts;
  if (!experts) {
    *out = (ie_route_report){0};
    return;
  }
  out->loss = sum / (double)routers;
  out->idle_share = (double)idle / (double)experts;
  out->mean = (double)chosen / (double)experts;
}

size_t ie_gradients_counter_count(const ie_gradients *g) {
  size_t count = 0;
  for (int64_t i = 0; i < g->model->info.layers; i++)
    if (g->model->moe[i].gate_up) count += 2 + (size_t)g->model->moe[i].gate_up->experts;
  return count;
}

void ie_gradients_counters_take(ie_gradients *g, double *out) {
  for (int64_t i = 0; i < g->model->info.layers; i++) {
    ie_route_balance *b = &g->balance[i];
    if (!g->model->moe[i].gate_up) continue;
    *out++ = b->loss;
    *out++ = (double)b->tokens;
    b->loss = 0;
    b->tokens = 0;
    for (int64_t e = 0; e < g->model->moe[i].gate_up->experts; e++) {
      *out++ = (double)b->chosen[e];
      b->chosen[e] = 0;
    }
  }
}

void ie_gradients_counters_add(ie_gradients *g, const double *counters) {
  for (int64_t i = 0; i < g->model->info.layers; i++) {
    ie_route_balance *b = &g->balance[i];
    if (!g->model->moe[i].gate_up) continue;
    b->loss += *counters++;
    b->tokens += (int64_t)*counters++;
    for (int64_t e = 0; e < g->model->moe[i].gate_up->experts; e++) b->chosen[e] += (int64_t)*counters++;
  }
}

real *ie_gradients_block(ie_gradients *g, size_t *count) {
  *count = g->grads_bytes / sizeof(real);
  return g->grads;
}

const ie_param_list *ie_gradients_params(const ie_gradients *g) {
  return &g->model->params;
}

static ie_status model_check(const ie_model *model, ie_error *error) {
  if (model->params.count == 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "%s: the model was not opened for training",
                        model->info.dir);
  if (model->cls != IE_CLASS_F32 && model->cls != IE_CLASS_BF16)
    return ie_error_set(error, IE_UNSUPPORTED, "training computes in fp32 or bf16, not in %s",
                        ie_precision_name(model->info.precision));
  return IE_OK;
}

/* One block for the gradients of all parameters. */
static ie_status grads_alloc(ie_gradients *g, ie_error *error) {
  const ie_param_list *list = &g->model->params;
  size_t count = 0;
  for (int64_t i = 0; i < list->count; i++) count += (size_t)ie_div_up(list->item[i]->count, 16) * 16;
  g->grads_bytes = count * sizeof(real);
  g->grads = g->model->device->alloc(g->model->device, g->grads_bytes);
  if (!g->grads)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu bytes of gradients", g->grads_bytes);
  ie_pages_huge(g->grads, g->grads_bytes);
  real *at = g->grads;
  for (int64_t i = 0; i < list->count; i++) {
    list->item[i]->grad = at;
    at += ie_div_up(list->item[i]->count, 16) * 16;
  }
  return IE_OK;
}

ie_status ie_gradients_new(ie_model *model, const ie_gradients_options *options, ie_gradients **out,
                           ie_error *error) {
  *out = NULL;
  ie_status status = model_check(model, error);
  if (status != IE_OK) return status;
  ie_gradients *g = calloc(1, sizeof *g);
  if (!g) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for gradients");
  g->model = model;
  if (options) g->options = *options;
  g->ctx.device = model->device;
  g->ctx.cls = model->cls;
  g->tape = ie_tape_new();
  g->kv = calloc((size_t)model->info.layers, sizeof *g->kv);
  if (g->tape && g->kv && balance_alloc(g))
    status = grads_alloc(g, error);
  else
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for gradients");
  if (status != IE_OK) {
    ie_gradients_free(g);
    return status;
  }
  for (int64_t i = 0; i < model->info.layers; i++)
    g->kv[i] = (ie_kv_layer){.heads = model->kv[i].heads, .dim = model->kv[i].dim};
  *out = g;
  return IE_OK;
}

void ie_gradients_free(ie_gradients *g) {
  if (!g) return;
  for (int64_t i = 0; i < g->model->params.count; i++) g->model->params.item[i]->grad = NULL;
  g->model->device->dealloc(g->model->device, g->grads, g->grads_bytes);
  ie_arena_close(&g->ctx.arena);
  ie_tape_free(g->tape);
  free(g->kv);
  free(g->balance);
  free(g->chosen);
  free(g->taken);
  free(g);
}

void ie_gradients_on_ready(ie_gradients *g, void (*ready)(void *arg, ie_param *param), void *arg) {
  g->ready = ready;
  g->ready_arg = arg;
}

void ie_gradients_zero(ie_gradients *g) {
  g->ctx.device->ops.zero(&g->ctx, g->grads, (int64_t)(g->grads_bytes / sizeof(real)));
}

/* --- Forward and backward --------------------------------------------------------------------------------------- */

static ie_status rows_check(const ie_gradients *g, const ie_token_rows *rows, ie_error *error) {
  for (int64_t t = 0; t < rows->tokens; t++) {
    int32_t worst = rows->ids[t] < 0 || rows->ids[t] >= g->model->info.vocab ? rows->ids[t] : rows->target[t];
    if (rows->ids[t] < 0 || worst >= g->model->info.vocab)
      return ie_error_set(error, IE_INVALID_ARGUMENT, "token %lld: id %d, expected 0 to %lld", (long long)t,
                          (int)worst, (long long)g->model->info.vocab - 1);
  }
  return IE_OK;
}

/* The same for the dry run and the real one. Returns the loss. */
static double run(ie_gradients *g, const ie_token_rows *rows, double scale, bool backward) {
  ie_ctx *ctx = &g->ctx;
  const ie_decoder_spec *spec = g->model->arch->decoder;
  const ie_decoder *d = g->model->net;
  const ie_batch batch = {
      .tokens = rows->tokens, .ids = rows->ids, .position = rows->position, .sequence = rows->sequence};
  const ie_tape_options options = {
      .recompute = g->options.recompute, .on_grad_ready = g->ready, .arg = g->ready_arg};
  ie_ctx_reset(ctx, (ie_ctx_mark){0});
  ctx->status = IE_OK;
  for (int64_t i = 0; i < g->model->params.count; i++) g->model->params.item[i]->pending = 0;
  if (backward)
    ie_tape_begin(ctx, g->tape, &options);
  else
    ie_tape_begin_forward(ctx, g->tape);
  ie_tensor *x = ie_decoder_hidden(spec, ctx, g->model->net, g->kv, &batch, /*hooks=*/NULL);
  double loss = ie_op_cross_entropy(ctx, x,
                                    &(ie_loss_options){.head = &d->head,
                                                       .target = rows->target,
                                                       .weight = rows->weight,
                                                       .scale = scale,
                                                       .soft_cap = d->soft_cap});
  if (backward && ctx->status == IE_OK) ie_tape_backward(ctx);
  ie_tape_end(ctx);
  return loss;
}

static ie_status measure(ie_gradients *g, const ie_token_rows *rows, bool backward, size_t *bytes,
                         ie_error *error) {
  ie_ctx *ctx = &g->ctx;
  ie_arena arena = ctx->arena;
  ie_work work = ctx->work;
  ctx->arena = ie_arena_measure();
  ctx->dry = true;
  run(g, rows, /*scale=*/1.0, backward);
  ctx->dry = false;
  *bytes = ctx->arena.peak;
  ctx->arena = arena;
  ctx->work = work;
  return ctx->status == IE_OK ? IE_OK : ie_error_set(error, ctx->status, "%s", ctx->error.message);
}

ie_status ie_gradients_measure(ie_gradients *g, const ie_token_rows *rows, size_t *bytes, ie_error *error) {
  return measure(g, rows, /*backward=*/true, bytes, error);
}

/* Room for these rows. The arena grows; it never shrinks. */
static ie_status reserve(ie_gradients *g, const ie_token_rows *rows, bool backward, ie_error *error) {
  size_t bytes;
  ie_status status = measure(g, rows, backward, &bytes, error);
  if (status != IE_OK) return status;
  size_t limit = g->options.memory_bytes;
  if (limit && bytes + g->grads_bytes > limit)
    return ie_error_set(error, IE_LIMIT,
                        "%lld tokens need %zu bytes for activations beside %zu of gradients, more than %zu",
                        (long long)rows->tokens, bytes, g->grads_bytes, limit);
  if (bytes <= g->ctx.arena.capacity) return IE_OK;
  ie_arena_close(&g->ctx.arena);
  status = ie_arena_open(bytes, &g->ctx.arena, error);
  if (status == IE_OK) ie_pages_huge(g->ctx.arena.base, bytes);
  return status;
}

static ie_status compute(ie_gradients *g, const ie_token_rows *rows, double scale, bool backward,
                         double *loss, ie_error *error) {
  ie_status status = rows_check(g, rows, error);
  if (status == IE_OK) status = reserve(g, rows, backward, error);
  if (status != IE_OK) return status;
  double part = run(g, rows, scale, backward);
  if (g->ctx.status != IE_OK) return ie_error_set(error, g->ctx.status, "%s", g->ctx.error.message);
  *loss += part;
  return IE_OK;
}

ie_status ie_gradients_add(ie_gradients *g, const ie_token_rows *rows, double scale, double *loss,
                           ie_error *error) {
  return compute(g, rows, scale, /*backward=*/true, loss, error);
}

ie_status ie_gradients_loss(ie_gradients *g, const ie_token_rows *rows, double scale, double *loss,
                            ie_error *error) {
  return compute(g, rows, scale, /*backward=*/false, loss, error);
}

/* --- The file ----------------------------------------------------------------------------------------------------- */

/* A gradient as transformers holds the parameter: (E, K, R) where it stores it so. Fresh memory. */
static float *reported(const ie_param *p) {
  float *out = malloc((size_t)p->count * sizeof *out);
  if (!out) return NULL;
  int64_t E = p->swapped ? p->shape[0] : 1, R = p->swapped ? p->shape[1] : 1;
  int64_t K = p->swapped ? p->shape[2] : p->count;
  for (int64_t e = 0; e < E; e++)
    for (int64_t r = 0; r < R; r++)
      for (int64_t k = 0; k < K; k++) out[(e * K + k) * R + r] = (float)p->grad[(e * R + r) * K + k];
  return out;
}

static void outs_free(ie_tensor_out *outs, int64_t count) {
  for (int64_t i = 1; outs && i < count; i++) { /* the first one is the loss */
    free((void *)(uintptr_t)outs[i].name);
    free((void *)(uintptr_t)outs[i].data);
  }
  free(outs);
}

static bool out_fill(ie_tensor_out *out, const ie_param *p) {
  ie_buf name = {0};
  if (!ie_buf_printf(&name, "grad.%s", p->name)) ie_buf_free(&name);
  *out = (ie_tensor_out){.name = name.data, .dtype = IE_F32, .rank = p->rank, .data = reported(p)};
  for (int i = 0; i < p->rank; i++) out->shape[i] = p->shape[i];
  if (p->swapped) {
    out->shape[1] = p->shape[2];
    out->shape[2] = p->shape[1];
  }
  return out->name && out->data;
}

ie_status ie_gradients_write(const ie_gradients *g, double loss, const char *path, ie_error *error) {
  const ie_param_list *list = &g->model->params;
  int64_t count = list->count + 1;
  ie_tensor_out *outs = calloc((size_t)count, sizeof *outs);
  bool ready = outs != NULL;
  float value = (float)loss;
  if (outs)
    outs[0] = (ie_tensor_out){.name = "loss", .dtype = IE_F32, .rank = 1, .shape = {1}, .data = &value};
  for (int64_t i = 1; ready && i < count; i++) ready = out_fill(&outs[i], list->item[i - 1]);
  ie_status status = ready ? ie_tensor_file_write(path, outs, (size_t)count, error)
                           : ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for gradients", path);
  outs_free(outs, count);
  return status;
}
