/* Attention over a run of keys: the definition. */
#include "kernels/attend.h"

#include "base/exp.h"
#include "base/size.h"

#include <math.h>

static float load_one(const void *x, ie_dtype dtype, int64_t i) {
  if (dtype == IE_F32) return ((const float *)x)[i];
  uint16_t h = ((const uint16_t *)x)[i];
  return dtype == IE_F16 ? ie_f16_to_f32(h) : ie_bf16_to_f32(h);
}

static float load_key(const ie_attend_args *args, int64_t s, int64_t d) {
  int64_t at = s * args->kv_stride + d;
  if (args->kv_dtype != IE_I8) return load_one(args->k, args->kv_dtype, at);
  return (float)((const int8_t *)args->k)[at] * ie_bf16_to_f32(args->k_scale[s / IE_KV_GROUP * args->D + d]);
}

static float load_value(const ie_attend_args *args, int64_t s, int64_t d) {
  int64_t at = s * args->kv_stride + d;
  if (args->kv_dtype != IE_I8) return load_one(args->v, args->kv_dtype, at);
  return (float)((const int8_t *)args->v)[at] * ie_bf16_to_f32(args->v_scale[s]);
}

/* Keys begin <= s < end, at most one tile of them, for query row n. */
static void attend_row_tile(const ie_attend_args *args, int64_t n, int64_t begin, int64_t end) {
  float p[IE_ATTEND_TILE];
  const float *q = args->q + n * args->q_stride;
  float *acc = args->acc + n * args->D;
  float largest = args->m[n];
  for (int64_t s = begin; s < end; s++) {
    float dot = 0.0f;
    for (int64_t d = 0; d < args->D; d++) dot += q[d] * load_key(args, s, d);
    float logit = dot * args->scale;
    p[s - begin] = logit;
    if (logit > largest) largest = logit;
  }
  float keep = ie_expf(args->m[n] - largest), sum = 0.0f;
  for (int64_t s = begin; s < end; s++) {
    p[s - begin] = ie_expf(p[s - begin] - largest);
    sum += p[s - begin];
  }
  args->m[n] = largest;
  args->l[n] = args->l[n] * keep + sum;
  for (int64_t d = 0; d < args->D; d++) {
    float value = 0.0f;
    for (int64_t s = begin; s < end; s++) value += p[s - begin] * load_value(args, s, d);
    acc[d] = acc[d] * keep + value;
  }
}

void ie_attend__scalar(const ie_attend_args *args) {
  for (int64_t n = 0; n < args->N; n++) {
    int64_t lo = args->lo[n], hi = args->hi[n];
    for (int64_t tile = lo - lo % IE_ATTEND_TILE; tile < hi; tile += IE_ATTEND_TILE) {
      int64_t begin = ie_max_i64(lo, tile), end = ie_min_i64(hi, tile + IE_ATTEND_TILE);
      if (begin < end) attend_row_tile(args, n, begin, end);
    }
  }
}
