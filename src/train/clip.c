#include "train/clip.h"

#include "base/size.h"
#include "train/pieces.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct norm_run {
  const ie_pieces *pieces;
  double *sum; /* (pieces) */
} norm_run;

typedef real real4 __attribute__((vector_size(4 * sizeof(real))));
typedef double double4 __attribute__((vector_size(32)));

/* Eight chains, written as vectors of any machine: the same bits everywhere. */
static double squares_sum(const real *x, int64_t n) {
  double4 sum[2] = {{0}};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    real4 a, b;
    memcpy(&a, x + i, sizeof a);
    memcpy(&b, x + i + 4, sizeof b);
    double4 c = __builtin_convertvector(a, double4), d = __builtin_convertvector(b, double4);
    sum[0] += c * c;
    sum[1] += d * d;
  }
  double4 both = sum[0] + sum[1];
  double rest = 0;
  for (; i < n; i++) rest += (double)x[i] * (double)x[i];
  return ((both[0] + both[1]) + (both[2] + both[3])) + rest;
}

static void pieces_sum(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const norm_run *run = arg;
  for (int64_t i = begin; i < end; i++) {
    const ie_piece *piece = &run->pieces->piece[i];
    run->sum[i] = squares_sum(piece->param->grad + piece->begin, piece->count);
  }
}

static ie_status nonfinite_report(ie_device *device, ie_param *const *param, int64_t count, ie_error *error) {
  for (int64_t i = 0; i < count; i++) {
    const ie_param *p = param[i];
    if (!p->grad) continue;
    int64_t at = device->kernels.find_nonfinite(p->grad, p->count);
    if (at >= 0)
      return ie_error_set(error, IE_NUMERIC,
                          "gradient of %s: expected finite numbers, found %g at element %lld of %lld",
                          p->name, (double)p->grad[at], (long long)at, (long long)p->count);
  }
  return ie_error_set(error, IE_NUMERIC, "the norm of the gradients is too large for a double");
}

ie_status ie_grad_norm(ie_device *device, ie_param *const *param, int64_t count, double *norm,
                       ie_error *error) {
  ie_pieces pieces;
  *norm = 0;
  ie_status status = ie_pieces_new(param, count, &pieces, error);
  if (status != IE_OK) return status;
  double *sum = calloc((size_t)ie_max_i64(1, pieces.count), sizeof *sum);
  if (!sum) {
    ie_pieces_free(&pieces);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "the norm of the gradients: out of memory");
  }
  norm_run run = {&pieces, sum};
  ie_team_for(device->team, pieces.count, 1, pieces_sum, &run);
  double total = 0;
  for (int64_t i = 0; i < pieces.count; i++) total += sum[i];
  free(sum);
  ie_pieces_free(&pieces);
  *norm = sqrt(total);
  if (!isfinite(*norm)) return nonfinite_report(device, param, count, error);
  if (*norm > (double)FLT_MAX)
    return ie_error_set(error, IE_NUMERIC, "the norm of the gradients, %g, is more than a float holds",
                        *norm);
  return IE_OK;
}

/* PyTorch computes max_norm / tensor as the reciprocal times max_norm, in the tensor's float. */
float ie_clip_scale(double norm, double max_norm) {
  float scale = 1.0f / ((float)norm + 1e-6f) * (float)max_norm;
  return scale < 1.0f ? scale : 1.0f;
}
