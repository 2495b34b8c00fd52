/* CPU launchers of attention under a tape: forward and backward in tiles (FlashAttention-2, Dao 2023), never a T x T
 * matrix. Arithmetic is f32 whatever the class is.
 *
 * Keys and values are packed once a call, a KV head after the other. A unit of the forward is one tile of queries of a
 * sequence and one KV head. A unit of the backward is one sequence, one KV head and one of `parts` shares of the query
 * tiles; it owns the gradients of its queries, and leaves those of keys and values in a buffer of its own; the buffers
 * are then added in the order of sequences and shares. Tiles begin with the sequence and the number of shares depends
 * on the heads alone, so the result depends neither on the threads nor on what else is in the batch. */
#include "tensor/device.h"

#include "base/real.h"
#include "base/size.h"

#include <float.h>
#include <string.h>

enum {
  QUERIES = IE_ATTEND_QUERIES,
  KEYS = IE_ATTEND_KEYS,
  UNITS_WANTED = 8, /* of the backward, a sequence: with fewer KV heads, their queries are shared out */
  PREFIX_WAVE = 8   /* sequences whose gradients of the prefix exist at a time */
};

/* Consecutive tokens of one sequence: all of them, or those of a query tile. */
typedef struct span {
  int32_t first, count;
  int32_t offset; /* tokens of the sequence before the first */
} span;

typedef struct train_job {
  const ie_kernels *kernels;
  const ie_attention_inputs *in;
  const ie_attention_options *options;
  int64_t T, P, H, HK, G, D, width, parts;
  int64_t window;            /* beyond every position: none */
  real *keys, *values;       /* (HK, P + T, width) */
  const span *spans, *tiles; /* sequences; query tiles in their order */
  int64_t span_count, tile_count;
  real *y, *lse; /* of the forward: written */
  /* Of the backward: */
  const real *dy, *y_in, *lse_in;
  const ie_attention_grads *to;
  real *delta;   /* (H, T) */
  real *dk, *dv; /* (parts, HK, T, width); local: (threads, T, width) */
  bool local;
  real *dpk, *dpv;    /* (PREFIX_WAVE, parts, HK, P, width) */
  int64_t wave_first; /* the sequence with which the wave begins */
  real *scratch;      /* per thread */
  size_t per_thread;  /* reals */
} train_job;

static real *key_row(const train_job *job, real *base, int64_t head, int64_t row) {
  return base + (head * (job->P + job->T) + row) * job->width;
}

/* --- Packing ----------------------------------------------------------------------------------------------- */

/* Row `row` of the packed keys or values: the prefix, then the tokens. */
static void row_pack(const train_job *job, real *to, int64_t row, const ie_tensor *prefix,
                     const ie_tensor *own) {
  const real *from = row < job->P ? ie_tensor_f32(prefix) + row * job->HK * job->D
                                  : ie_tensor_f32(own) + (row - job->P) * job->HK * job->D;
  for (int64_t h = 0; h < job->HK; h++) {
    real *packed = key_row(job, to, h, row);
    memcpy(packed, from + h * job->D, (size_t)job->D * sizeof(real));
    memset(packed + job->D, 0, (size_t)(job->width - job->D) * sizeof(real));
  }
}

static void rows_pack(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const train_job *job = arg;
  for (int64_t row = begin; row < end; row++) {
    row_pack(job, job->keys, row, job->in->prefix_k, job->in->k);
    row_pack(job, job->values, row, job->in->prefix_v, job->in->v);
  }
}

/* --- Tiles --------------------------------------------------------------------------------------------------- */

/* A tile of keys as a query tile sees it. */
typedef struct key_tile {
  ie_attend_tile tile;
  int64_t at;  /* position of the first key; below P it is of the prefix */
  int64_t row; /* of the packed keys */
} key_tile;

/* The next tile of keys from position k->at + k->tile.S on that queries of q see; false: there is none. */
static bool key_tile_next(const train_job *job, const span *q, int64_t head, key_tile *k) {
  int64_t P = job->P, position = P + q->offset, last = position + q->count;
  int64_t at = k->at + k->tile.S, end;
  for (;; at = end) {
    if (at >= last) return false;
    end = ie_min_i64(at + KEYS, at < P ? P : last);
    if (end > position - job->window + 1) break;
  }
  k->at = at;
  k->row = at < P ? at : at + q->first - q->offset;
  k->tile.S = end - at;
  k->tile.ahead = position - at;
  k->tile.k = key_row(job, job->keys, head, k->row);
  k->tile.v = key_row(job, job->values, head, k->row);
  return true;
}

static key_tile key_tile_start(const train_job *job, const span *q, const real *columns) {
  return (key_tile){
      .tile = {.N = q->count, .D = job->D, .width = job->width, .window = job->window, .qt = columns}};
}

/* --- Forward --------------------------------------------------------------------------------------------------- */

/* Reals of one thread's scratch: packed queries, their transpose, sums, m and l. */
static size_t forward_reals(int64_t width) {
  return (size_t)(3 * QUERIES * width + 2 * QUERIES);
}

static void tile_write(const train_job *job, const span *q, int64_t head, const ie_attend_sums *sums) {
  for (int64_t n = 0; n < q->count; n++) {
    int64_t at = (q->first + n) * job->H + head;
    memset(job->y + at * job->D, 0, (size_t)job->D * sizeof(real));
    job->kernels->axpy(job->y + at * job->D, sums->acc + n * job->width, 1 / sums->l[n], job->D);
    job->lse[at] = sums->m[n] + real_log(sums->l[n]);
  }
}

static void tile_forward(const train_job *job, const span *q, int64_t head, real *scratch) {
  real *rows = scratch, *columns = rows + QUERIES * job->width;
  ie_attend_sums sums = {.acc = columns + QUERIES * job->width};
  sums.m = sums.acc + QUERIES * job->width;
  sums.l = sums.m + QUERIES;
  bool sink = job->options->sinks.data != NULL;
  for (int64_t n = 0; n < QUERIES; n++) {
    sums.m[n] = sink ? ie_vector_at(&job->options->sinks, head) : -FLT_MAX;
    sums.l[n] = sink ? 1 : 0;
  }
  memset(sums.acc, 0, (size_t)(QUERIES * job->width) * sizeof(real));
  job->kernels->attend_pack(rows, columns, ie_tensor_f32(job->in->q) + (q->first * job->H + head) * job->D,
                            job->H * job->D, q->count, job->D, (real)job->options->scale);
  key_tile k = key_tile_start(job, q, columns);
  while (key_tile_next(job, q, head / job->G, &k)) job->kernels->attend_tile(&k.tile, &sums);
  tile_write(job, q, head, &sums);
}

static void forward_units(void *arg, int thread, int64_t begin, int64_t end) {
  const train_job *job = arg;
  real *scratch = job->scratch + (size_t)thread * job->per_thread;
  for (int64_t unit = begin; unit < end; unit++) {
    int64_t head = unit / job->tile_count;
    for (int64_t g = 0; g < job->G; g++)
      tile_forward(job, &job->tiles[unit % job->tile_count], head * job->G + g, scratch);
  }
}

/* --- Backward -------------------------------------------------------------------------------------------------- */

/* Packed queries and gradients with their transposes, dq, lse and delta. */
static size_t backward_reals(int64_t width) {
  return (size_t)(5 * QUERIES * width + 2 * QUERIES);
}

/* The buffers of one unit: rows by position, the prefix in its own. Where no other unit adds to the same tokens, they
 * are the thread's and stay in its cache. */
typedef struct unit_buffers {
  real *dk, *dv, *dpk, *dpv;
} unit_buffers;

static unit_buffers unit_buffers_of(const train_job *job, int thread, int64_t sequence, int64_t head,
                                    int64_t part) {
  int64_t own = job->local ? thread * job->T : (part * job->HK + head) * job->T + job->spans[sequence].first;
  int64_t prefix = (((sequence - job->wave_first) * job->parts + part) * job->HK + head) * job->P;
  return (unit_buffers){.dk = job->dk + own * job->width,
                        .dv = job->dv + own * job->width,
                        .dpk = job->P ? job->dpk + prefix * job->width : NULL,
                        .dpv = job->P ? job->dpv + prefix * job->width : NULL};
}

static void buffers_clear(const train_job *job, const unit_buffers *b, int64_t tokens) {
  size_t own = (size_t)(tokens * job->width) * sizeof(real);
  size_t prefix = (size_t)(job->P * job->width) * sizeof(real);
  memset(b->dk, 0, own);
  memset(b->dv, 0, own);
  if (prefix) {
    memset(b->dpk, 0, prefix);
    memset(b->dpv, 0, prefix);
  }
}

/* One tile of queries of one head. Forward: y = P v with P = exp(scale q . k - lse). */
static void tile_backward(const train_job *job, const span *q, int64_t head, const unit_buffers *b,
                          real *scratch) {
  int64_t tile = QUERIES * job->width, stride = job->H * job->D;
  int64_t from = (q->first * job->H + head) * job->D;
  real *rows = scratch, *columns = rows + tile, *dy = columns + tile, *dyt = dy + tile, *dq = dyt + tile;
  real *lse = dq + tile, *delta = lse + QUERIES;
  const ie_kernels *kernels = job->kernels;
  kernels->attend_pack(rows, columns, ie_tensor_f32(job->in->q) + from, stride, q->count, job->D,
                       (real)job->options->scale);
  kernels->attend_pack(dy, dyt, job->dy + from, stride, q->count, job->D, /*factor=*/1);
  kernels->attend_delta(delta, job->dy + from, job->y_in + from, stride, q->count, job->D);
  memcpy(job->delta + head * job->T + q->first, delta, (size_t)q->count * sizeof(real));
  for (int64_t n = 0; n < QUERIES; n++)
    lse[n] = n < q->count ? job->lse_in[(q->first + n) * job->H + head] : 0;
  memset(dq, 0, (size_t)tile * sizeof(real));
  key_tile k = key_tile_start(job, q, columns);
  while (key_tile_next(job, q, head / job->G, &k)) {
    int64_t at = (k.at < job->P ? k.at : k.at - job->P) * job->width;
    ie_attend_tile_grads grads = {.q = rows,
                                  .dy = dy,
                                  .dyt = dyt,
                                  .lse = lse,
                                  .delta = delta,
                                  .dq = dq,
                                  .dk = (k.at < job->P ? b->dpk : b->dk) + at,
                                  .dv = (k.at < job->P ? b->dpv : b->dv) + at};
    kernels->attend_tile_backward(&k.tile, &grads);
  }
  for (int64_t n = 0; job->to->q && n < q->count; n++)
    kernels->axpy(job->to->q + from + n * stride, dq + n * job->width, (real)job->options->scale, job->D);
}

/* Adds a unit's gradients of `count` tokens from `first` on. */
static void unit_add(const train_job *job, const real *dk, const real *dv, int64_t head, const span *s) {
  for (int64_t i = 0; i < s->count; i++) {
    int64_t from = i * job->width, to = ((s->first + i) * job->HK + head) * job->D;
    if (job->to->k) job->kernels->axpy(job->to->k + to, dk + from, /*a=*/1, job->D);
    if (job->to->v) job->kernels->axpy(job->to->v + to, dv + from, /*a=*/1, job->D);
  }
}

static void backward_units(void *arg, int thread, int64_t begin, int64_t end) {
  const train_job *job = arg;
  real *scratch = job->scratch + (size_t)thread * job->per_thread;
  for (int64_t unit = begin; unit < end; unit++) {
    int64_t part = unit % job->parts, head = unit / job->parts % job->HK;
    int64_t sequence = job->wave_first + unit / job->parts / job->HK;
    const span *s = &job->spans[sequence];
    unit_buffers b = unit_buffers_of(job, thread, sequence, head, part);
    buffers_clear(job, &b, s->count);
    for (int64_t offset = part * QUERIES; offset < s->count; offset += job->parts * QUERIES) {
      span q = {.first = (int32_t)(s->first + offset),
                .count = (int32_t)ie_min_i64(QUERIES, s->count - offset),
                .offset = (int32_t)offset};
      for (int64_t g = 0; g < job->G; g++) tile_backward(job, &q, head * job->G + g, &b, scratch);
    }
    if (job->local) unit_add(job, b.dk, b.dv, head, s);
  }
}

/* Adds the shares of tokens' keys and values in their order. */
static void tokens_add(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const train_job *job = arg;
  const span tokens = {.first = (int32_t)begin, .count = (int32_t)(end - begin)};
  for (int64_t head = 0; head < job->HK; head++) {
    for (int64_t part = 0; part < job->parts; part++) {
      int64_t from = ((part * job->HK + head) * job->T + begin) * job->width;
      unit_add(job, job->dk + from, job->dv + from, head, &tokens);
    }
  }
}

typedef struct prefix_job {
  const train_job *job;
  int64_t sequences; /* of the wave */
} prefix_job;

/* Adds the shares of the prefix, those of one sequence after those of another. */
static void prefix_add(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const train_job *job = ((const prefix_job *)arg)->job;
  int64_t shares = ((const prefix_job *)arg)->sequences * job->parts;
  for (int64_t row = begin; row < end; row++) {
    int64_t p = row / job->HK, head = row % job->HK;
    for (int64_t share = 0; share < shares; share++) {
      int64_t from = ((share * job->HK + head) * job->P + p) * job->width;
      if (job->to->prefix_k)
        job->kernels->axpy(job->to->prefix_k + row * job->D, job->dpk + from, /*a=*/1, job->D);
      if (job->to->prefix_v)
        job->kernels->axpy(job->to->prefix_v + row * job->D, job->dpv + from, /*a=*/1, job->D);
    }
  }
}

/* Forward: the sink's weight exp(sink - lse) gives no value, so d sink = -sum over t of weight * delta. A sum a
 * sequence. */
static void sinks_add(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const train_job *job = arg;
  for (int64_t head = begin; head < end; head++) {
    real sink = ie_vector_at(&job->options->sinks, head);
    for (int64_t i = 0; i < job->span_count; i++) {
      const span *s = &job->spans[i];
      real sum = 0;
      for (int64_t t = s->first; t < s->first + s->count; t++)
        sum += real_exp(sink - job->lse_in[t * job->H + head]) * job->delta[head * job->T + t];
      job->to->sinks[head] -= sum;
    }
  }
}

/* --- Launchers ------------------------------------------------------------------------------------------------- */

/* Splits the batch where the sequence changes and after `most` tokens of one. Returns how many. */
static int64_t spans_split(const ie_batch *batch, int64_t most, span *out) {
  int64_t n = 0;
  for (int64_t t = 0; t < batch->tokens; t++) {
    bool fresh = t == 0 || batch->sequence[t] != batch->sequence[t - 1];
    if (fresh)
      out[n++] = (span){.first = (int32_t)t};
    else if (out[n - 1].count == most) {
      out[n] = (span){.first = (int32_t)t, .offset = (int32_t)(out[n - 1].offset + most)};
      n++;
    }
    out[n - 1].count++;
  }
  return n;
}

/* Products of one direction: `products` of D multiply-adds a query and key that it sees. */
static void work_count(ie_ctx *ctx, const train_job *job, uint64_t products) {
  uint64_t pairs = 0;
  for (int64_t i = 0; i < job->span_count; i++)
    for (int64_t j = 0; j < job->spans[i].count; j++)
      pairs += (uint64_t)ie_min_i64(job->P + j + 1, job->window);
  ctx->work.flop += 2 * products * pairs * (uint64_t)(job->H * job->D);
}

static bool reals_take(ie_ctx *ctx, int64_t n, real **out) {
  void *data = NULL;
  bool ok = ie_ctx_scratch(ctx, (size_t)n * sizeof(real), &data);
  *out = data;
  return ok;
}

/* What both directions need: shapes, packed keys and values, sequences, scratch of `per_thread` reals a thread. */
static bool job_begin(ie_ctx *ctx, train_job *job, const ie_batch *batch, size_t per_thread) {
  const ie_attention_inputs *in = job->in;
  job->kernels = &ctx->device->kernels;
  job->T = in->q->shape[0], job->H = in->q->shape[1], job->D = in->q->shape[2];
  job->HK = in->k->shape[1], job->G = job->H / job->HK;
  job->P = in->prefix_k ? in->prefix_k->shape[0] : 0;
  job->width = ie_div_up(job->D, IE_ATTEND_PAD) * IE_ATTEND_PAD;
  job->parts = ie_div_up(UNITS_WANTED, job->HK);
  job->window = job->options->window > 0 ? job->options->window : INT64_MAX / 4;
  job->per_thread = ie_size_align(per_thread, IE_ARENA_ALIGN);
  void *spans, *tiles;
  int64_t packed = job->HK * (job->P + job->T) * job->width;
  bool ok = ie_ctx_scratch(ctx, (size_t)job->T * sizeof(span), &spans) &&
            ie_ctx_scratch(ctx, (size_t)job->T * sizeof(span), &tiles) &&
            reals_take(ctx, packed, &job->keys) && reals_take(ctx, packed, &job->values) &&
            reals_take(ctx, (int64_t)job->per_thread * ie_team_size(ctx->device->team), &job->scratch);
  if (!ok || ctx->dry) return false;
  job->spans = spans, job->tiles = tiles;
  job->span_count = spans_split(batch, /*most=*/INT32_MAX, spans);
  job->tile_count = spans_split(batch, QUERIES, tiles);
  ie_team_for(ctx->device->team, job->P + job->T, /*chunk=*/16, rows_pack, job);
  return true;
}

static void cpu_attention_train(ie_ctx *ctx, ie_tensor *y, ie_tensor *lse, const ie_attention_inputs *in,
                                const ie_batch *batch, const ie_attention_options *options) {
  train_job job = {.in = in, .options = options, .y = ie_tensor_f32(y), .lse = ie_tensor_f32(lse)};
  ie_ctx_mark mark = ie_ctx_save(ctx);
  int64_t width = ie_div_up(in->q->shape[2], IE_ATTEND_PAD) * IE_ATTEND_PAD;
  if (job_begin(ctx, &job, batch, forward_reals(width))) {
    ie_team *team = ctx->device->team;
    ie_team_for(team, job.tile_count * job.HK, /*chunk=*/1, forward_units, &job);
    work_count(ctx, &job, /*products=*/2);
  }
  ie_ctx_reset(ctx, mark);
}

/* The buffers of the backward; false in a dry run or after a failure. */
static bool buffers_take(ie_ctx *ctx, train_job *job, bool begun) {
  int threads = ie_team_size(ctx->device->team);
  job->local = job->parts == 1 && threads <= job->HK;
  int64_t own = (job->local ? threads : job->parts * job->HK) * job->T * job->width;
  int64_t prefix = ie_min_i64(PREFIX_WAVE, job->T) * job->parts * job->HK * job->P * job->width;
  return reals_take(ctx, job->H * job->T, &job->delta) && reals_take(ctx, own, &job->dk) &&
         reals_take(ctx, own, &job->dv) && reals_take(ctx, prefix, &job->dpk) &&
         reals_take(ctx, prefix, &job->dpv) && begun;
}

static void sequences_backward(ie_ctx *ctx, train_job *job) {
  ie_team *team = ctx->device->team;
  int64_t wave = job->P > 0 ? PREFIX_WAVE : job->span_count;
  for (job->wave_first = 0; job->wave_first < job->span_count; job->wave_first += wave) {
    int64_t sequences = ie_min_i64(wave, job->span_count - job->wave_first);
    ie_team_for(team, sequences * job->HK * job->parts, /*chunk=*/1, backward_units, job);
    prefix_job prefix = {job, sequences};
    if (job->P > 0) ie_team_for(team, job->P * job->HK, /*chunk=*/16, prefix_add, &prefix);
  }
}

static void cpu_attention_backward(ie_ctx *ctx, const ie_attention_grads *to, const real *dy,
                                   const ie_tensor *y, const ie_tensor *lse, const ie_attention_inputs *in,
                                   const ie_batch *batch, const ie_attention_options *options) {
  train_job job = {.in = in,
                   .options = options,
                   .to = to,
                   .dy = dy,
                   .y_in = ie_tensor_f32(y),
                   .lse_in = ie_tensor_f32(lse)};
  ie_ctx_mark mark = ie_ctx_save(ctx);
  int64_t width = ie_div_up(in->q->shape[2], IE_ATTEND_PAD) * IE_ATTEND_PAD;
  bool begun = job_begin(ctx, &job, batch, backward_reals(width));
  if (buffers_take(ctx, &job, begun)) {
    ie_team *team = ctx->device->team;
    sequences_backward(ctx, &job);
    if (!job.local) ie_team_for(team, job.T, /*chunk=*/16, tokens_add, &job);
    if (to->sinks && options->sinks.data) ie_team_for(team, job.H, /*chunk=*/1, sinks_add, &job);
    work_count(ctx, &job, /*products=*/5);
  }
  ie_ctx_reset(ctx, mark);
}

void ie_cpu_fill_attention_train(ie_device_ops *ops) {
  ops->attention_train = cpu_attention_train;
  ops->attention_backward = cpu_attention_backward;
}
