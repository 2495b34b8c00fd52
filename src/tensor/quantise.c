#include "tensor/quantise.h"

#include "base/size.h"
#include "blocks/int4.h"
#include "blocks/int8.h"

#include <stdatomic.h>
#include <string.h>

enum {
  STRIP_COLS = 512,       /* columns that are decoded to f32 at once: 2 KiB of stack */
  RANGE_BYTES = 512 << 10 /* of the source, for one unit of work: its pages are let go together */
};

size_t ie_quantised_bytes(ie_wformat format, int64_t rows, int64_t cols) {
  return ie_size_align((size_t)rows * ie_wformat_row_bytes(format, 0, cols), 64) +
         (size_t)rows * ie_wformat_row_bytes(format, 1, cols);
}

typedef struct quantise_job {
  const ie_kernels *kernels;
  ie_wview from;
  ie_dtype dtype; /* of from */
  ie_wformat format;
  uint8_t *codes, *scales;
  size_t code_bytes, scale_bytes; /* of a row */
  ie_rows_done_fn *done;
  _Atomic int64_t first_bad; /* row; INT64_MAX: none */
} quantise_job;

/* Whole blocks of `n` numbers; those beyond n (up to the end of the block) are zero already. */
static bool strip_encode(const quantise_job *job, uint8_t *codes, uint8_t *scales, const float *x,
                         int64_t n) {
  const ie_wformat_info *info = ie_wformat_describe(job->format);
  for (int64_t k = 0; k < n; k += info->block_cols) {
    uint16_t scale;
    bool fits = job->format == IE_W_INT8 ? ie_int8_encode_block((int8_t *)codes, &scale, x + k)
                                         : ie_int4_encode_block(codes, &scale, x + k);
    if (!fits) return false;
    memcpy(scales, &scale, sizeof scale);
    codes += info->block_bytes[0];
    scales += info->block_bytes[1];
  }
  return true;
}

static bool row_encode(const quantise_job *job, int64_t row) {
  const ie_wformat_info *info = ie_wformat_describe(job->format);
  const uint8_t *source = job->from.part[0] + (size_t)row * job->from.row_bytes[0];
  uint8_t *codes = job->codes + (size_t)row * job->code_bytes;
  uint8_t *scales = job->scales + (size_t)row * job->scale_bytes;
  for (int64_t k = 0; k < job->from.cols; k += STRIP_COLS) {
    float x[STRIP_COLS];
    int64_t n = ie_min_i64(STRIP_COLS, job->from.cols - k), block = k / info->block_cols;
    job->kernels->load(x, source + (size_t)k * ie_dtype_bytes(job->dtype), job->dtype, n);
    int64_t whole = (int64_t)ie_size_align((size_t)n, (size_t)info->block_cols);
    memset(x + n, 0, (size_t)(whole - n) * sizeof *x);
    if (!strip_encode(job, codes + block * info->block_bytes[0], scales + block * info->block_bytes[1], x, n))
      return false;
  }
  return true;
}

static void rows_encode(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  quantise_job *job = arg;
  for (int64_t r = begin; r < end; r++) {
    if (row_encode(job, r)) continue;
    int64_t known = atomic_load(&job->first_bad);
    while (r < known && !atomic_compare_exchange_weak(&job->first_bad, &known, r)) continue;
    return;
  }
  if (job->done)
    job->done(job->from.part[0] + (size_t)begin * job->from.row_bytes[0],
              (size_t)(end - begin) * job->from.row_bytes[0]);
}

ie_status ie_weight_quantise(ie_team *team, const ie_kernels *kernels, ie_weight *w, ie_wformat format,
                             void *memory, ie_rows_done_fn *done, ie_error *error) {
  static const ie_dtype dtypes[] = {[IE_W_F32] = IE_F32, [IE_W_F16] = IE_F16, [IE_W_BF16] = IE_BF16};
  quantise_job job = {.kernels = kernels,
                      .from = ie_weight_view(w, 0),
                      .dtype = dtypes[w->format],
                      .format = format,
                      .codes = memory,
                      .code_bytes = ie_wformat_row_bytes(format, 0, w->cols),
                      .scale_bytes = ie_wformat_row_bytes(format, 1, w->cols),
                      .done = done,
                      .first_bad = INT64_MAX};
  job.scales = job.codes + ie_size_align((size_t)w->rows * job.code_bytes, 64);
  int64_t chunk = ie_max_i64(1, RANGE_BYTES / ie_max_i64(1, (int64_t)job.from.row_bytes[0]));
  ie_team_for(team, w->rows, chunk, rows_encode, &job);
  int64_t bad = atomic_load(&job.first_bad);
  if (bad != INT64_MAX)
    return ie_error_set(error, IE_FORMAT,
                        "tensor %s: row %lld has a number that is NaN, infinite or too large for %s weights",
                        w->name, (long long)bad, ie_wformat_describe(format)->name);
  w->format = format;
  w->part[0] = job.codes;
  w->part[1] = job.scales;
  w->row_bytes[0] = job.code_bytes;
  w->row_bytes[1] = job.scale_bytes;
  for (int i = 0; i < 2; i++) w->expert_bytes[i] = w->row_bytes[i] * (size_t)w->rows;
  return IE_OK;
}
