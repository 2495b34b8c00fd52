#include "kernels/products_few.h"

#include "kernels/products_common.h"

/* Above this many tokens, the range of weights stays near while the tokens pass, four at a time, instead of four rows
 * while all tokens pass: packed tokens are larger than weights. Prefill of 512: see docs/SPEED.md. */
enum { STREAM_TOKENS = 16 };

/* Tokens t0 .. t1 - 1 of a range of rows. */
typedef struct few_work {
  const ie_few *few;
  const ie_product_args *args;
  int64_t t0, t1;
} few_work;

/* The tokens times `rows` rows (1 or IE_FEW_ROWS), row j being number r + j * step. */
static void run_rows(const few_work *work, int64_t r, int64_t step, int rows) {
  const ie_few *few = work->few;
  const ie_product_args *args = work->args;
  const ie_wview *w = &args->w;
  ie_dots dots = {.token_bytes = few->token_bytes(w->cols), .K = w->cols};
  float bias[IE_FEW_ROWS];
  for (int j = 0; j < rows; j++) {
    size_t row = (size_t)(r + j * step);
    dots.w[j] = w->part[0] + row * w->row_bytes[0];
    dots.scales[j] = w->part[1] != NULL ? w->part[1] + row * w->row_bytes[1] : NULL;
    bias[j] = ie_product_bias(args, (int64_t)row);
  }
  for (int64_t t = work->t0; t < work->t1;) {
    int shape = work->t1 - t >= 4 ? 2 : work->t1 - t >= 2 ? 1 : 0;
    int tokens = 1 << shape;
    float out[IE_FEW_ROWS * IE_FEW_TOKENS];
    dots.x = (const uint8_t *)args->packed + (size_t)t * dots.token_bytes;
    (rows == 1 ? few->one_row : few->four_rows)[shape](out, &dots);
    for (int j = 0; j < rows; j++)
      for (int i = 0; i < tokens; i++)
        ie_product_store(args, t + i, r + j * step, out[j * tokens + i], bias[j]);
    t += tokens;
  }
}

void ie_few_run(const ie_few *few, const ie_product_args *args, int64_t r0, int64_t r1) {
  int64_t step = (r1 - r0) / IE_FEW_ROWS;
  int64_t tokens = args->T > STREAM_TOKENS ? IE_FEW_TOKENS : args->T;
  for (int64_t t = 0; t < args->T; t += tokens) {
    few_work work = {few, args, t, ie_min_i64(t + tokens, args->T)};
    for (int64_t i = 0; i < step; i++) run_rows(&work, r0 + i, step, IE_FEW_ROWS);
    for (int64_t r = r0 + IE_FEW_ROWS * step; r < r1; r++) run_rows(&work, r, 1, 1);
  }
}
