/* CPU launchers of the KV cache and of attention.
 *
 * A unit of attention work is one KV head and up to ATTEND_TOK tokens of one sequence: the query heads that share
 * the KV head, times the tokens, form the N rows of one kernel call. In a ring the keys of a query may lie in two
 * runs ("epochs" of the ring): the older one is processed first. In an int8 layer the quantised groups are one run, and
 * each group that queries of the unit stand in is another, exact. */
#include "tensor/device.h"

#include "base/size.h"
#include "blocks/kv_int8.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum { ATTEND_TOK = 32, DIM_MAX = 1024 }; /* numbers of one head that an int8 layer may have */
_Static_assert((int)ATTEND_TOK <= (int)IE_KV_GROUP, "the tokens of a unit stand in at most two groups");

/* --- Appending ------------------------------------------------------------------------------------------- */

typedef struct append_job {
  const ie_kernels *kernels;
  ie_kv_layer *kv;
  const float *k, *v;
  const ie_batch *batch;
  atomic_bool beyond_f16; /* a number that f16 cannot hold */
} append_job;

static const float f16_max = 65504.0f;

static bool any_beyond(const float *x, int64_t n, float limit) {
  bool beyond = false;
  for (int64_t i = 0; i < n; i++) beyond |= fabsf(x[i]) > limit;
  return beyond;
}

static size_t kv_offset(const ie_kv_layer *kv, int64_t sequence, int64_t head, int64_t slot) {
  return (size_t)(((sequence * kv->heads + head) * kv->cap + slot) * kv->dim) * ie_dtype_bytes(kv->dtype);
}

static bool group_ends(int64_t position) {
  return position % IE_KV_GROUP == IE_KV_GROUP - 1;
}

static void append_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  append_job *job = arg;
  const ie_kv_layer *kv = job->kv;
  int64_t width = kv->heads * kv->dim;
  if (kv->dtype == IE_F16 && (any_beyond(job->k + begin * width, (end - begin) * width, f16_max) ||
                              any_beyond(job->v + begin * width, (end - begin) * width, f16_max)))
    atomic_store(&job->beyond_f16, true);
  for (int64_t t = begin; t < end; t++) {
    for (int64_t h = 0; h < kv->heads; h++) {
      size_t to = kv_offset(kv, job->batch->sequence[t], h, job->batch->position[t] % kv->cap);
      int64_t from = (t * kv->heads + h) * kv->dim;
      job->kernels->store((uint8_t *)kv->k + to, kv->dtype, job->k + from, kv->dim);
      job->kernels->store((uint8_t *)kv->v + to, kv->dtype, job->v + from, kv->dim);
    }
  }
}

enum { SLICE = 64 }; /* channels of a group that are quantised at once: they fit the stack */

/* The group of keys whose last slot is `slot`, from `recent` to int8. */
static void keys_quantise(const append_job *job, int64_t sequence, int64_t head, int64_t slot) {
  const ie_kv_layer *kv = job->kv, *recent = kv->recent;
  int64_t first = slot - (IE_KV_GROUP - 1), width = kv->dim;
  const uint8_t *from = (const uint8_t *)recent->k + kv_offset(recent, sequence, head, first % recent->cap);
  int8_t *to = (int8_t *)kv->k + kv_offset(kv, sequence, head, first);
  uint16_t *scale =
      kv->k_scale + ((sequence * kv->heads + head) * (kv->cap / IE_KV_GROUP) + first / IE_KV_GROUP) * width;
  size_t number = ie_dtype_bytes(recent->dtype);
  float x[IE_KV_GROUP * SLICE];
  for (int64_t d = 0; d < width; d += SLICE) {
    int64_t n = ie_min_i64(SLICE, width - d);
    for (int64_t p = 0; p < IE_KV_GROUP; p++)
      job->kernels->load(x + p * SLICE, from + (size_t)(p * width + d) * number, recent->dtype, n);
    ie_kv_int8_keys(to + d, width, scale + d, x, SLICE, n);
  }
}

static void values_quantise(const append_job *job, int64_t sequence, int64_t head, int64_t slot) {
  const ie_kv_layer *kv = job->kv, *recent = kv->recent;
  float x[DIM_MAX];
  for (int64_t p = slot - (IE_KV_GROUP - 1); p <= slot; p++) {
    size_t from = kv_offset(recent, sequence, head, p % recent->cap);
    job->kernels->load(x, (const uint8_t *)recent->v + from, recent->dtype, kv->dim);
    kv->v_scale[(sequence * kv->heads + head) * kv->cap + p] =
        ie_kv_int8_values((int8_t *)kv->v + kv_offset(kv, sequence, head, p), x, kv->dim);
  }
}

/* Units are heads of tokens; those of a token that completes its group have something to do. */
static void quantise_units(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const append_job *job = arg;
  for (int64_t unit = begin; unit < end; unit++) {
    int64_t t = unit / job->kv->heads, head = unit % job->kv->heads;
    if (!group_ends(job->batch->position[t])) continue;
    keys_quantise(job, job->batch->sequence[t], head, job->batch->position[t]);
    values_quantise(job, job->batch->sequence[t], head, job->batch->position[t]);
  }
}

/* From the numbers of `recent`, not from those that come in: a group is the same whatever the chunks were. */
static void groups_quantise(ie_ctx *ctx, append_job *job) {
  bool any = false;
  for (int64_t t = 0; t < job->batch->tokens; t++) any |= group_ends(job->batch->position[t]);
  if (any)
    ie_team_for(ctx->device->team, job->batch->tokens * job->kv->heads, /*chunk=*/8, quantise_units, job);
}

static void cpu_kv_append(ie_ctx *ctx, ie_kv_layer *kv, const ie_tensor *k, const ie_tensor *v,
                          const ie_batch *batch) {
  if (ctx->dry) return;
  if (kv->dtype == IE_I8) {
    if (kv->dim > DIM_MAX) {
      ie_ctx_fail(ctx, IE_UNSUPPORTED, "an int8 KV cache of heads of %lld numbers; %d is the most",
                  (long long)kv->dim, DIM_MAX);
      return;
    }
    cpu_kv_append(ctx, kv->recent, k, v, batch);
    append_job job = {.kernels = &ctx->device->kernels, .kv = kv, .batch = batch};
    if (ctx->status == IE_OK) groups_quantise(ctx, &job);
    return;
  }
  append_job job = {.kernels = &ctx->device->kernels,
                    .kv = kv,
                    .k = ie_tensor_f32(k),
                    .v = ie_tensor_f32(v),
                    .batch = batch};
  ie_team_for(ctx->device->team, batch->tokens, /*chunk=*/8, append_rows, &job);
  if (atomic_load(&job.beyond_f16))
    ie_ctx_fail(ctx, IE_NUMERIC,
                "keys or values beyond %g do not fit a KV cache of f16; bf16 and f32 hold them",
                (double)f16_max);
}

/* --- Attention ------------------------------------------------------------------------------------------- */

/* Consecutive tokens of one sequence. */
typedef struct attend_block {
  int32_t first, count;
} attend_block;

typedef struct attend_job {
  ie_ctx *ctx;
  const ie_kv_layer *kv;
  const ie_batch *batch;
  const ie_attention_options *options;
  const float *q;
  float *y;
  int64_t H, D, G; /* query heads, head dimension, query heads per KV head */
  const attend_block *blocks;
  int64_t block_count;
  uint8_t *scratch; /* per thread */
  size_t per_thread;
} attend_job;

typedef struct attend_scratch {
  float *q, *acc, *m, *l;
  int32_t *lo, *hi;
} attend_scratch;

/* Bytes of one thread's scratch. */
static size_t scratch_bytes(int64_t N, int64_t D) {
  return 2 * ie_size_align((size_t)(N * D) * sizeof(float), IE_ARENA_ALIGN) +
         4 * ie_size_align((size_t)N * sizeof(float), IE_ARENA_ALIGN);
}

static attend_scratch scratch_layout(int64_t N, int64_t D, uint8_t *base) {
  size_t rows = ie_size_align((size_t)(N * D) * sizeof(float), IE_ARENA_ALIGN);
  size_t one = ie_size_align((size_t)N * sizeof(float), IE_ARENA_ALIGN);
  return (attend_scratch){.q = (float *)base,
                          .acc = (float *)(base + rows),
                          .m = (float *)(base + 2 * rows),
                          .l = (float *)(base + 2 * rows + one),
                          .lo = (int32_t *)(base + 2 * rows + 2 * one),
                          .hi = (int32_t *)(base + 2 * rows + 3 * one)};
}

/* First position that the query at position p sees. */
static int64_t window_start(const ie_attention_options *options, int64_t p) {
  return options->window > 0 ? ie_max_i64(0, p - options->window + 1) : 0;
}

/* Copies the block's queries next to each other and starts their softmax with the sinks. */
static void block_begin(const attend_job *job, const attend_block *b, int64_t head, attend_scratch *s) {
  int64_t D = job->D, G = job->G;
  for (int64_t i = 0; i < b->count; i++)
    memcpy(s->q + i * G * D, job->q + ((b->first + i) * job->H + head * G) * D,
           (size_t)(G * D) * sizeof(float));
  for (int64_t n = 0; n < b->count * G; n++) {
    bool sink = job->options->sinks.data != NULL;
    s->m[n] = sink ? ie_vector_at(&job->options->sinks, head * G + n % G) : -INFINITY;
    s->l[n] = sink ? 1.0f : 0.0f;
  }
  memset(s->acc, 0, (size_t)(b->count * G * D) * sizeof(float));
}

/* The kernel for N query rows. The matrix units serve the classes that round at products; which one is taken depends on
 * N, hence on the chunk, so `deterministic` keeps to one. */
static void run_attend(const ie_ctx *ctx, const ie_attend_args *args) {
  const ie_kernels *kernels = &ctx->device->kernels;
  bool many = kernels->attend_many && args->N >= kernels->attend_many_rows && ctx->cls != IE_CLASS_F32 &&
              !ctx->deterministic;
  (many ? kernels->attend_many : kernels->attend)(args);
}

/* An int8 layer: the groups before each query's own, then its own. */
static void groups_attend(const attend_job *job, const attend_block *b, int64_t head, ie_attend_args args) {
  const ie_kv_layer *kv = job->kv, *recent = kv->recent;
  const int32_t *position = job->batch->position + b->first;
  int64_t sequence = job->batch->sequence[b->first], G = job->G, row = sequence * kv->heads + head;
  int32_t *lo = (int32_t *)(uintptr_t)args.lo, *hi = (int32_t *)(uintptr_t)args.hi;
  int64_t first = position[0] / IE_KV_GROUP, last = position[b->count - 1] / IE_KV_GROUP;
  for (int64_t n = 0; n < args.N; n++) {
    lo[n] = 0;
    hi[n] = position[n / G] / IE_KV_GROUP * IE_KV_GROUP;
  }
  args.S = last * IE_KV_GROUP;
  args.k = (const uint8_t *)kv->k + kv_offset(kv, sequence, head, 0);
  args.v = (const uint8_t *)kv->v + kv_offset(kv, sequence, head, 0);
  args.k_scale = kv->k_scale + row * (kv->cap / IE_KV_GROUP) * kv->dim;
  args.v_scale = kv->v_scale + row * kv->cap;
  args.integers = job->ctx->cls != IE_CLASS_F32 && !job->ctx->deterministic;
  if (args.S > 0) run_attend(job->ctx, &args);
  args.kv_dtype = recent->dtype;
  args.k_scale = args.v_scale = NULL;
  for (int64_t group = first; group <= last; group++) {
    size_t at = kv_offset(recent, sequence, head, group * IE_KV_GROUP % recent->cap);
    args.k = (const uint8_t *)recent->k + at;
    args.v = (const uint8_t *)recent->v + at;
    args.S = 0;
    for (int64_t n = 0; n < args.N; n++) {
      int32_t p = position[n / G];
      hi[n] = p / IE_KV_GROUP == group ? p % IE_KV_GROUP + 1 : 0;
      args.S = ie_max_i64(args.S, hi[n]);
    }
    run_attend(job->ctx, &args);
  }
}

/* The runs of keys: positions [epoch * cap, (epoch + 1) * cap) lie in slots [0, cap). */
static void block_keys(const attend_job *job, const attend_block *b, int64_t head, attend_scratch *s) {
  const ie_kv_layer *kv = job->kv;
  const int32_t *position = job->batch->position + b->first;
  int64_t sequence = job->batch->sequence[b->first], G = job->G, N = b->count * G;
  int64_t last = position[b->count - 1], first = window_start(job->options, position[0]);
  ie_attend_args args = {.q = s->q,
                         .q_stride = job->D,
                         .kv_stride = kv->dim,
                         .kv_dtype = kv->dtype,
                         .lo = s->lo,
                         .hi = s->hi,
                         .N = N,
                         .D = job->D,
                         .scale = job->options->scale,
                         .m = s->m,
                         .l = s->l,
                         .acc = s->acc};
  if (kv->dtype == IE_I8) {
    groups_attend(job, b, head, args);
    return;
  }
  args.k = (const uint8_t *)kv->k + kv_offset(kv, sequence, head, 0);
  args.v = (const uint8_t *)kv->v + kv_offset(kv, sequence, head, 0);
  for (int64_t epoch = first / kv->cap; epoch <= last / kv->cap; epoch++) {
    int64_t base = epoch * kv->cap;
    args.S = 0;
    for (int64_t n = 0; n < N; n++) {
      int64_t p = position[n / G];
      int64_t lo = ie_max_i64(window_start(job->options, p), base) - base;
      int64_t hi = ie_min_i64(p + 1, base + kv->cap) - base;
      s->lo[n] = (int32_t)ie_min_i64(lo, ie_max_i64(hi, 0));
      s->hi[n] = (int32_t)ie_max_i64(hi, 0);
      args.S = ie_max_i64(args.S, hi);
    }
    if (args.S > 0) run_attend(job->ctx, &args);
  }
}

static void attend_units(void *arg, int thread, int64_t begin, int64_t end) {
  const attend_job *job = arg;
  int64_t D = job->D, G = job->G;
  attend_scratch s = scratch_layout(ATTEND_TOK * G, D, job->scratch + (size_t)thread * job->per_thread);
  for (int64_t unit = begin; unit < end; unit++) {
    const attend_block *b = &job->blocks[unit / job->kv->heads];
    int64_t head = unit % job->kv->heads;
    block_begin(job, b, head, &s);
    block_keys(job, b, head, &s);
    for (int64_t n = 0; n < b->count * G; n++) {
      float *y = job->y + ((b->first + n / G) * job->H + head * G + n % G) * D;
      float scale = 1.0f / s.l[n];
      for (int64_t d = 0; d < D; d++) y[d] = s.acc[n * D + d] * scale;
    }
  }
}

/* Splits the batch where the sequence changes and after ATTEND_TOK tokens. */
static int64_t blocks_split(const ie_batch *batch, attend_block *blocks) {
  int64_t n = 0;
  for (int64_t t = 0; t < batch->tokens; t++) {
    bool fresh = t == 0 || batch->sequence[t] != batch->sequence[t - 1] || blocks[n - 1].count == ATTEND_TOK;
    if (fresh) blocks[n++] = (attend_block){.first = (int32_t)t, .count = 0};
    blocks[n - 1].count++;
  }
  return n;
}

/* Bytes of one position's keys and values, of all heads. */
static uint64_t position_bytes(const ie_kv_layer *kv) {
  return 2 * (uint64_t)(kv->heads * kv->dim) * ie_dtype_bytes(kv->dtype);
}

/* Bytes of keys, values and scales that a block reads; positions of its first and last token. */
static uint64_t block_bytes(const attend_job *job, int64_t first, int64_t last) {
  const ie_kv_layer *kv = job->kv;
  if (kv->dtype != IE_I8)
    return position_bytes(kv) * (uint64_t)(last + 1 - window_start(job->options, first));
  uint64_t groups = (uint64_t)(last / IE_KV_GROUP), exact = (uint64_t)(last % IE_KV_GROUP + 1);
  if (first / IE_KV_GROUP < last / IE_KV_GROUP) exact += IE_KV_GROUP; /* both of its groups */
  uint64_t scales = (uint64_t)(kv->heads * (kv->dim + IE_KV_GROUP)) * sizeof(uint16_t);
  return groups * (IE_KV_GROUP * position_bytes(kv) + scales) + exact * position_bytes(kv->recent);
}

static void work_count(ie_ctx *ctx, const attend_job *job) {
  for (int64_t i = 0; i < job->block_count; i++) {
    const attend_block *b = &job->blocks[i];
    const int32_t *p = job->batch->position + b->first;
    ctx->work.kv_bytes += block_bytes(job, p[0], p[b->count - 1]);
    for (int64_t j = 0; j < b->count; j++)
      ctx->work.flop += 4u * (uint64_t)((p[j] + 1 - window_start(job->options, p[j])) * job->H * job->D);
  }
}

static void cpu_attention(ie_ctx *ctx, ie_tensor *y, const ie_tensor *q, const ie_kv_layer *kv,
                          const ie_batch *batch, const ie_attention_options *options) {
  attend_job job = {.ctx = ctx,
                    .kv = kv,
                    .batch = batch,
                    .options = options,
                    .q = ie_tensor_f32(q),
                    .y = ie_tensor_f32(y),
                    .H = q->shape[1],
                    .D = q->shape[2],
                    .G = q->shape[1] / kv->heads};
  ie_ctx_mark mark = ie_ctx_save(ctx);
  void *blocks, *scratch;
  job.per_thread = scratch_bytes(ATTEND_TOK * job.G, job.D);
  if (ie_ctx_scratch(ctx, (size_t)q->shape[0] * sizeof(attend_block), &blocks) &&
      ie_ctx_scratch(ctx, job.per_thread * (size_t)ie_team_size(ctx->device->team), &scratch) && !ctx->dry) {
    job.block_count = blocks_split(batch, blocks);
    job.blocks = blocks;
    job.scratch = scratch;
    ie_team_for(ctx->device->team, job.block_count * kv->heads, /*chunk=*/1, attend_units, &job);
    work_count(ctx, &job);
  }
  ie_ctx_reset(ctx, mark);
}

void ie_cpu_fill_attention(ie_device_ops *ops) {
  ops->kv_append = cpu_kv_append;
  ops->attention = cpu_attention;
}
