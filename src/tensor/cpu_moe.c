/* CPU launcher of the mixture of experts.
 *
 * The (token, expert) pairs are sorted by expert; each expert's tokens are gathered while they are packed, its two
 * products run over them, and the results are added to y in the order of the router, so that nothing depends on
 * threads or on which tokens share an expert. Three dispatches: gate and up; activation and packing; down. With a
 * provider (tensor/experts.h) the experts come in waves, each three dispatches over those that have arrived. */
#include "tensor/cpu_finite.h"
#include "tensor/cpu_product.h"

#include "base/size.h"
#include "tensor/moe_pairs.h"

#include <math.h>

typedef struct moe_expert {
  int64_t expert;
  int64_t first, count; /* its pairs in the sorted order */
  const ie_product *up_product, *down_product;
  const uint8_t *up_part[2], *down_part[2]; /* where its bytes are, when a provider has them */
  void *packed_x, *packed_a;
  int64_t first_share; /* of its tokens in a dispatch over shares */
} moe_expert;

typedef struct moe_run {
  ie_ctx *ctx;
  const ie_moe_options *options;
  const ie_tensor *x, *weight;
  int64_t T, k, P, C, F; /* tokens, experts per token, pairs = T k, width, expert width */
  moe_pairs pairs;
  moe_expert *list; /* experts that have tokens */
  int64_t experts;
  moe_expert **wave; /* those that are computed together: all of them, or what the provider has */
  int64_t wave_count;
  ie_expert_want *want;   /* (experts) with a provider */
  ie_expert_taken *taken; /* (experts) */
  cpu_segment *segments;
  float *h; /* (P, 2F) gate and up */
  float *a; /* (P, F) */
  float *d; /* (P, C) */
  uint8_t *packed;
  size_t packed_bytes;
  void *scratch;
  size_t per_thread;
  float *y;
} moe_run;

/* Upper bound of the packed bytes of P tokens spread in any way over at most n experts. */
static size_t packed_bound(const ie_weight *w, int64_t P, int64_t n) {
  size_t bound = 0;
  const ie_product *products[2] = {w->few, w->many};
  for (int i = 0; i < 2; i++) {
    if (!products[i]) continue;
    size_t bytes = products[i]->pack_bytes(P + n * products[i]->pack_tok, w->cols);
    if (bytes > bound) bound = bytes;
  }
  return bound + (size_t)n * IE_ARENA_ALIGN;
}

/* The most that a thread needs for a product of any number of tokens. */
static size_t scratch_bound(const moe_run *run, const ie_weight *w) {
  const ie_product *products[2] = {w->few, w->many};
  size_t bound = 0;
  for (int i = 0; i < 2; i++) {
    size_t bytes = products[i] ? cpu_run_bytes(products[i], run->T, w->cols) : 0;
    if (bytes > bound) bound = bytes;
  }
  return bound;
}

static bool moe_take(moe_run *run) {
  ie_ctx *ctx = run->ctx;
  const ie_weight *up = run->options->gate_up, *down = run->options->down;
  int64_t n = ie_min_i64(up->experts, run->P);
  size_t P = (size_t)run->P, F = (size_t)run->F, C = (size_t)run->C;
  size_t bytes = packed_bound(up, run->P, n);
  size_t down_bytes = packed_bound(down, run->P, n);
  run->packed_bytes = bytes > down_bytes ? bytes : down_bytes;
  size_t up_scratch = scratch_bound(run, up), down_scratch = scratch_bound(run, down);
  run->per_thread = up_scratch > down_scratch ? up_scratch : down_scratch;
  return moe_pairs_take(ctx, &run->pairs, run->T, run->k, up->experts) &&
         ie_ctx_scratch(ctx, (size_t)n * sizeof(moe_expert), (void **)&run->list) &&
         ie_ctx_scratch(ctx, (size_t)n * sizeof(moe_expert *), (void **)&run->wave) &&
         ie_ctx_scratch(ctx, (size_t)n * sizeof(ie_expert_want), (void **)&run->want) &&
         ie_ctx_scratch(ctx, (size_t)n * sizeof(ie_expert_taken), (void **)&run->taken) &&
         ie_ctx_scratch(ctx, (size_t)n * sizeof(cpu_segment), (void **)&run->segments) &&
         ie_ctx_scratch(ctx, P * 2 * F * sizeof(float), (void **)&run->h) &&
         ie_ctx_scratch(ctx, P * F * sizeof(float), (void **)&run->a) &&
         ie_ctx_scratch(ctx, P * C * sizeof(float), (void **)&run->d) &&
         ie_ctx_scratch(ctx, run->packed_bytes, (void **)&run->packed) &&
         cpu_run_scratch(ctx, run->per_thread, &run->scratch);
}

/* The experts that have tokens. */
static void moe_list(moe_run *run, const int32_t *expert) {
  moe_pairs_sort(&run->pairs, expert);
  const int32_t *start = run->pairs.start;
  run->experts = 0;
  for (int64_t e = 0; e < run->pairs.E; e++) {
    int64_t count = start[e + 1] - start[e];
    if (count == 0) continue;
    moe_expert *m = &run->list[run->experts++];
    *m = (moe_expert){.expert = e, .first = start[e], .count = count};
    m->up_product = ie_weight_product(run->options->gate_up, count);
    m->down_product = ie_weight_product(run->options->down, count);
  }
}

/* --- Shares: a few tokens of an expert, so that all threads have work where one expert has arrived alone ---------- */

enum { SHARE_TOK = 16 };

static int64_t share_tok(const ie_product *product) {
  return ie_div_up(SHARE_TOK, product->pack_tok) * product->pack_tok;
}

static const ie_product *share_product(const moe_expert *m, bool down) {
  return down ? m->down_product : m->up_product;
}

/* Numbers the shares of the wave's experts; returns how many there are. */
static int64_t shares_make(moe_run *run, bool down) {
  int64_t shares = 0;
  for (int64_t i = 0; i < run->wave_count; i++) {
    moe_expert *m = run->wave[i];
    m->first_share = shares;
    shares += ie_div_up(m->count, share_tok(share_product(m, down)));
  }
  return shares;
}

/* The expert of a share, and its tokens [*t0, *t1). *i: an expert before it in the wave, or it; moved to it. */
static moe_expert *share_find(const moe_run *run, bool down, int64_t share, int64_t *i, int64_t *t0,
                              int64_t *t1) {
  while (*i + 1 < run->wave_count && run->wave[*i + 1]->first_share <= share) ++*i;
  moe_expert *m = run->wave[*i];
  int64_t tokens = share_tok(share_product(m, down));
  *t0 = (share - m->first_share) * tokens;
  *t1 = ie_min_i64(*t0 + tokens, m->count);
  return m;
}

static void moe_pack_x(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  moe_run *run = arg;
  for (int64_t share = begin, i = 0, t0, t1; share < end; share++) {
    moe_expert *m = share_find(run, /*down=*/false, share, &i, &t0, &t1);
    m->up_product->pack(m->packed_x, ie_tensor_f32(run->x), run->C, run->pairs.row + m->first, m->count, t0,
                        t1, run->C);
  }
}

static void moe_activate(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  moe_run *run = arg;
  const ie_kernels *kernels = &run->ctx->device->kernels;
  for (int64_t share = begin, i = 0, t0, t1; share < end; share++) {
    moe_expert *m = share_find(run, /*down=*/true, share, &i, &t0, &t1);
    float *a = run->a + m->first * run->F;
    kernels->swiglu_clamped(a + t0 * run->F, run->h + (m->first + t0) * 2 * run->F, (t1 - t0) * run->F,
                            run->options->alpha, run->options->limit);
    m->down_product->pack(m->packed_a, a, run->F, /*x_rows=*/NULL, m->count, t0, t1, run->F);
  }
}

static void moe_combine(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  moe_run *run = arg;
  const ie_kernels *kernels = &run->ctx->device->kernels;
  for (int64_t t = begin; t < end; t++)
    for (int64_t j = 0; j < run->k; j++)
      kernels->axpy(run->y + t * run->C, run->d + run->pairs.sorted[t * run->k + j] * run->C,
                    ie_tensor_f32(run->weight)[t * run->k + j], run->C);
}

/* Where each expert's packed tokens lie; both products use the same buffer, one after the other. */
static void moe_place(moe_run *run, bool down) {
  uint8_t *at = run->packed;
  for (int64_t i = 0; i < run->wave_count; i++) {
    moe_expert *m = run->wave[i];
    if (down)
      m->packed_a = at;
    else
      m->packed_x = at;
    at += ie_size_align(down ? m->down_product->pack_bytes(m->count, run->F)
                             : m->up_product->pack_bytes(m->count, run->C),
                        IE_ARENA_ALIGN);
  }
}

static void moe_multiply(moe_run *run, bool down) {
  const ie_weight *w = down ? run->options->down : run->options->gate_up;
  for (int64_t i = 0; i < run->wave_count; i++) {
    moe_expert *m = run->wave[i];
    cpu_segment *s = &run->segments[i];
    *s = cpu_segment_make(w, m->expert, down ? m->down_product : m->up_product, m->count);
    if (run->ctx->experts)
      for (int part = 0; part < 2; part++)
        s->args.w.part[part] = down ? m->down_part[part] : m->up_part[part];
    s->args.packed = down ? m->packed_a : m->packed_x;
    s->args.y = (down ? run->d : run->h) + m->first * w->rows;
    s->args.y_stride = w->rows;
  }
  cpu_segments_run(run->ctx, run->segments, run->wave_count, run->scratch, run->per_thread);
}

/* The clamp of the activation would turn an infinity into a number: it is named before. Experts whose rows follow each
 * other are looked at together. */
static void moe_check(const moe_run *run) {
  int64_t width = 2 * run->F;
  for (int64_t i = 0, next; i < run->wave_count; i = next) {
    int64_t first = run->wave[i]->first, end = first;
    for (next = i; next < run->wave_count && run->wave[next]->first == end; next++)
      end += run->wave[next]->count;
    const float *h = run->h + first * width;
    int64_t at = cpu_first_nonfinite(run->ctx->device, h, (end - first) * width);
    if (at < 0) continue;
    while (first + at / width >= run->wave[i]->first + run->wave[i]->count) i++;
    ie_ctx_fail(run->ctx, IE_NUMERIC, "gate and up of expert %lld: %s in row %lld",
                (long long)run->wave[i]->expert, isnan(h[at]) ? "NaN" : "infinity", (long long)(at % width));
    return;
  }
}

/* Gate and up, activation and down of the experts of the wave. */
static void moe_compute(moe_run *run) {
  ie_team *team = run->ctx->device->team;
  moe_place(run, /*down=*/false);
  ie_team_for(team, shares_make(run, /*down=*/false), /*chunk=*/1, moe_pack_x, run);
  moe_multiply(run, /*down=*/false);
  moe_check(run);
  moe_place(run, /*down=*/true);
  ie_team_for(team, shares_make(run, /*down=*/true), /*chunk=*/1, moe_activate, run);
  moe_multiply(run, /*down=*/true);
}

static void moe_resident(moe_run *run) {
  for (int64_t i = 0; i < run->experts; i++) run->wave[i] = &run->list[i];
  run->wave_count = run->experts;
  moe_compute(run);
}

/* False when the provider failed: some experts are not computed then. */
static bool moe_provided(moe_run *run) {
  ie_experts *provider = run->ctx->experts;
  for (int64_t i = 0; i < run->experts; i++)
    run->want[i] = (ie_expert_want){.expert = run->list[i].expert, .tokens = run->list[i].count};
  provider->want(provider, run->ctx, run->want, run->experts);
  for (int64_t done = 0; done < run->experts; done += run->wave_count) {
    run->wave_count = provider->take(provider, run->ctx, run->taken);
    if (run->wave_count == 0) return false;
    for (int64_t i = 0; i < run->wave_count; i++) {
      const ie_expert_taken *t = &run->taken[i];
      moe_expert *m = run->wave[i] = &run->list[t->index];
      for (int part = 0; part < 2; part++) {
        m->up_part[part] = t->gate_up[part];
        m->down_part[part] = t->down[part];
      }
    }
    moe_compute(run);
    provider->give_back(provider);
  }
  return true;
}

static void cpu_moe(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_tensor *expert,
                    const ie_tensor *weight, const ie_moe_options *options) {
  moe_run run = {
      .ctx = ctx, .options = options, .x = x, .weight = weight, .T = x->shape[0], .k = expert->shape[1]};
  run.P = run.T * run.k;
  run.C = x->shape[1];
  run.F = options->down->cols;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  if (moe_take(&run) && !ctx->dry) {
    run.y = ie_tensor_f32(y);
    moe_list(&run, ie_tensor_i32(expert));
    bool computed = true;
    if (ctx->experts)
      computed = moe_provided(&run);
    else
      moe_resident(&run);
    if (computed) ie_team_for(ctx->device->team, run.T, /*chunk=*/4, moe_combine, &run);
  }
  ie_ctx_reset(ctx, mark);
}

void ie_cpu_fill_moe(ie_device_ops *ops) {
  ops->moe = cpu_moe;
}
