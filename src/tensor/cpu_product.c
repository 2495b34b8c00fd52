#include "tensor/cpu_product.h"

#include "base/size.h"

/* A unit of work streams about this many bytes of weights: some 10 us, so that a dispatch is balanced and the
 * cost of taking a unit is not seen. */
enum { BLOCK_BYTES = 192 << 10, BLOCK_ROWS_MANY = 128, PACK_SERIAL = 1 << 15 };

cpu_segment cpu_segment_make(const ie_weight *w, int64_t expert, const ie_product *product, int64_t T) {
  cpu_segment s = {.product = product};
  s.args = (ie_product_args){
      .w = ie_weight_view(w, expert), .T = T, .bias = ie_weight_bias(w, expert), .bias_dtype = w->bias_dtype};
  int64_t row_bytes = (int64_t)(w->row_bytes[0] + w->row_bytes[1]);
  int64_t rows =
      product == w->many ? BLOCK_ROWS_MANY : BLOCK_BYTES / ie_max_i64(1, row_bytes * ie_max_i64(1, T / 4));
  int64_t unit =
      product->row_multiple > 16 ? product->row_multiple : 16 / product->row_multiple * product->row_multiple;
  if (unit < product->row_multiple) unit = product->row_multiple;
  s.block_rows = ie_max_i64(1, rows / unit) * unit;
  return s;
}

typedef struct pack_job {
  const ie_product *product;
  void *packed;
  const float *x;
  int64_t x_stride, T, K;
} pack_job;

static void pack_groups(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const pack_job *job = arg;
  int64_t t0 = begin * job->product->pack_tok;
  int64_t t1 = ie_min_i64(end * job->product->pack_tok, job->T);
  job->product->pack(job->packed, job->x, job->x_stride, /*x_rows=*/NULL, job->T, t0, t1, job->K);
}

void cpu_pack(ie_team *team, const ie_product *product, void *packed, const float *x, int64_t x_stride,
              int64_t T, int64_t K) {
  if (T * K <= PACK_SERIAL) {
    product->pack(packed, x, x_stride, /*x_rows=*/NULL, T, 0, T, K);
    return;
  }
  pack_job job = {product, packed, x, x_stride, T, K};
  ie_team_for(team, ie_div_up(T, product->pack_tok), /*chunk=*/1, pack_groups, &job);
}

size_t cpu_run_bytes(const ie_product *product, int64_t T, int64_t K) {
  return product->scratch_bytes ? ie_size_align(product->scratch_bytes(T, K), IE_ARENA_ALIGN) : 0;
}

bool cpu_run_scratch(ie_ctx *ctx, size_t per_thread, void **scratch) {
  return ie_ctx_scratch(ctx, per_thread * (size_t)ie_team_size(ctx->device->team), scratch);
}

typedef struct run_job {
  const cpu_segment *segments;
  int64_t n;
  uint8_t *scratch;
  size_t per_thread;
} run_job;

static void run_blocks(void *arg, int thread, int64_t begin, int64_t end) {
  const run_job *job = arg;
  int64_t i = 0;
  while (i + 1 < job->n && job->segments[i + 1].first_block <= begin) i++;
  for (int64_t block = begin; block < end; block++) {
    while (i + 1 < job->n && job->segments[i + 1].first_block <= block) i++;
    const cpu_segment *s = &job->segments[i];
    int64_t r0 = (block - s->first_block) * s->block_rows;
    int64_t r1 = ie_min_i64(r0 + s->block_rows, s->args.w.rows);
    s->product->run(&s->args, r0, r1, job->scratch + (size_t)thread * job->per_thread);
  }
}

void cpu_segments_run(ie_ctx *ctx, cpu_segment *segments, int64_t n, void *scratch, size_t per_thread) {
  int64_t blocks = 0;
  for (int64_t i = 0; i < n; i++) {
    const ie_product_args *a = &segments[i].args;
    segments[i].first_block = blocks;
    blocks += ie_div_up(a->w.rows, segments[i].block_rows);
    ctx->work.flop += 2u * (uint64_t)(a->T * a->w.rows * a->w.cols);
    for (int part = 0; part < 2; part++)
      if (a->w.part[part])
        ctx->work.weight_bytes += (uint64_t)a->w.rows * ie_wformat_row_bytes(a->w.format, part, a->w.cols);
  }
  run_job job = {segments, n, scratch, per_thread};
  ie_team_for(ctx->device->team, blocks, /*chunk=*/1, run_blocks, &job);
}
