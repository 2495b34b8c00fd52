/* The cache and attention on the device: what is appended to the bit, attention against sums in double over what the
 * cache holds. */
#include "blocks/kv_int8.h"
#include "cuda/device.h"

#include "base/float.h"
#include "base/size.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct attend_case {
  ie_dtype dtype;
  ie_class cls;
  int64_t H, HK, D, cap, window;
  int64_t start[3], count[3]; /* of each sequence: positions begun at, tokens */
  bool sinks, padding;
  int64_t key_bound; /* 0: what is needed */
} attend_case;

enum { B = 3 };
static ie_kernels scalar;

/* The numbers that position p of a sequence has, of all heads; which: 0 key, 1 value. */
static void numbers_at(float *out, const attend_case *c, int64_t b, int64_t p, int which) {
  float *x = floats_random((uint64_t)(b * 100000 + p * 2 + which), c->HK * c->D, 2);
  memcpy(out, x, (size_t)(c->HK * c->D) * 4);
  free(x);
}

/* As the cache gives it back to the query at `reader`. */
static double stored(const attend_case *c, const float *all, int64_t p, int64_t d, int64_t reader,
                     bool value) {
  const int64_t W = c->D;
  float x = all[p * W + d], row[64 * 128];
  int8_t q[64 * 128];
  uint16_t scale[128];
  if (c->dtype == IE_F32) return (double)x;
  if (c->dtype == IE_F16) return (double)ie_f32_round_f16(x);
  if (c->dtype == IE_BF16 || p >= reader / 64 * 64) return (double)ie_f32_round_bf16(x);
  int64_t first = p / 64 * 64;
  for (int64_t i = 0; i < 64 * W; i++) row[i] = ie_f32_round_bf16(all[first * W + i]);
  if (value) {
    scale[0] = ie_kv_int8_values(q, row + (p - first) * W, W);
    return (double)q[d] * (double)ie_bf16_to_f32(scale[0]);
  }
  ie_kv_int8_keys(q, W, scale, row, W, W);
  return (double)q[(p - first) * W + d] * (double)ie_bf16_to_f32(scale[d]);
}

static ie_cuda_kv kv_new(const attend_case *c, ie_dtype dtype, int64_t cap) {
  ie_cuda_kv kv = {.dtype = dtype, .sequences = B, .heads = c->HK, .cap = cap, .dim = c->D};
  size_t n = (size_t)(B * c->HK * cap * c->D);
  kv.k = device_new(NULL, n * ie_dtype_bytes(dtype));
  kv.v = device_new(NULL, n * ie_dtype_bytes(dtype));
  if (dtype == IE_I8) {
    kv.k_scale = device_new(NULL, n / 64 * 2);
    kv.v_scale = device_new(NULL, (size_t)(B * c->HK * cap) * 2);
  }
  return kv;
}

/* Appends positions [p0, p1) of a sequence. */
static void append(const attend_case *c, const ie_cuda_kv *kv, int64_t b, int64_t p0, int64_t p1) {
  const int64_t T = p1 - p0, width = c->HK * c->D;
  if (T == 0) return;
  float *x[2];
  for (int i = 0; i < 2; i++) {
    x[i] = malloc((size_t)(T * width) * 4);
    assert_non_null(x[i]);
    for (int64_t t = 0; t < T; t++) numbers_at(x[i] + t * width, c, b, p0 + t, i);
  }
  int32_t *position = ints_new(T, (int32_t)p0, 1), *sequence = ints_new(T, (int32_t)b, 0);
  ie_cuda_kv_append_args args = {.kv = *kv,
                                 .k = device_new(x[0], (size_t)(T * width) * 4),
                                 .v = device_new(x[1], (size_t)(T * width) * 4),
                                 .position = device_new(position, (size_t)T * 4),
                                 .sequence = device_new(sequence, (size_t)T * 4),
                                 .tokens = T,
                                 .check = check_new(1)};
  device_ok(ie_cuda_kv_append(device_queue(), &args), "kv_append");
  assert_true(check_read(args.check) == IE_CUDA_NO_FAULT);
  free(x[0]), free(x[1]), free(position), free(sequence);
}

/* One query row in double. */
static void row_attend(const attend_case *c, float *y, const float *q, const float *const kv[2],
                       int64_t position, const float *sink) {
  double m = sink ? (double)*sink : -INFINITY, l = 0, out[128] = {0};
  int64_t lo = c->window > 0 && position - c->window + 1 > 0 ? position - c->window + 1 : 0;
  double *s = malloc((size_t)(position + 1) * sizeof *s);
  assert_non_null(s);
  for (int64_t p = lo; p <= position; p++) {
    s[p] = 0;
    for (int64_t d = 0; d < c->D; d++) s[p] += (double)q[d] * stored(c, kv[0], p, d, position, false);
    s[p] *= 0.3;
    m = fmax(m, s[p]);
  }
  if (sink) l = exp((double)*sink - m);
  for (int64_t p = lo; p <= position; p++) {
    double e = exp(s[p] - m);
    l += e;
    for (int64_t d = 0; d < c->D; d++) out[d] += e * stored(c, kv[1], p, d, position, true);
  }
  for (int64_t d = 0; d < c->D; d++) y[d] = (float)(out[d] / l);
  free(s);
}

typedef struct attend_batch {
  int64_t T, longest, bound;
  int32_t position[256], sequence[256];
} attend_batch;

static attend_batch batch_of(const attend_case *c) {
  attend_batch batch = {0};
  for (int b = 0; b < B; b++)
    for (int64_t i = 0; i < c->count[b]; i++) {
      int64_t p = c->start[b] + i;
      batch.position[batch.T] = (int32_t)p;
      batch.sequence[batch.T++] = b;
      if (i + 1 > batch.longest) batch.longest = i + 1;
      if (p + 1 > batch.bound) batch.bound = p + 1;
    }
  if (c->padding) batch.position[batch.T] = -1, batch.sequence[batch.T++] = B - 1;
  if (c->window > 0 && batch.bound > c->window) batch.bound = c->window;
  if (c->key_bound) batch.bound = c->key_bound;
  return batch;
}

static void expected_fill(const attend_case *c, const attend_batch *batch, float *y, const float *q,
                          const float *sinks) {
  for (int64_t t = 0; t < batch->T; t++)
    for (int64_t h = 0; h < c->H; h++) {
      float *row = y + (t * c->H + h) * c->D, *kv[2];
      int64_t p = batch->position[t], W = c->HK * c->D, hk = h / (c->H / c->HK);
      memset(row, 0, (size_t)c->D * 4);
      if (p < 0) continue;
      int64_t all = p / 64 * 64 + 64;
      float *x = malloc((size_t)W * 4);
      for (int i = 0; i < 2; i++) {
        kv[i] = malloc((size_t)(all * c->D) * 4);
        assert_true(x && kv[i]);
        for (int64_t s = 0; s < all; s++) {
          numbers_at(x, c, batch->sequence[t], s, i);
          memcpy(kv[i] + s * c->D, x + hk * c->D, (size_t)c->D * 4);
        }
      }
      row_attend(c, row, q + (t * c->H + h) * c->D, (const float *const *)kv, p, sinks ? &sinks[h] : NULL);
      free(kv[0]), free(kv[1]), free(x);
    }
}

static void case_run(const attend_case *c, double tolerance) {
  ie_cuda_kv recent, kv = kv_new(c, c->dtype, c->cap);
  attend_batch batch = batch_of(c);
  if (c->dtype == IE_I8) {
    recent = kv_new(c, IE_BF16, 192);
    kv.recent = &recent;
  }
  for (int b = 0; b < B; b++) /* in pieces, as chunks and steps come */
    for (int64_t p = 0; p < c->start[b] + c->count[b];) {
      int64_t n = p < c->start[b] ? ie_min_i64(37, c->start[b] - p) : c->count[b];
      append(c, &kv, b, p, p + n);
      p += n;
    }
  const int64_t n = batch.T * c->H * c->D;
  float *q = floats_random(9, n, 1), *sinks = floats_random(10, c->H, 2), *y = malloc((size_t)n * 4);
  assert_non_null(y);
  ie_cuda_attention_args args = {.y = device_new(NULL, (size_t)n * 4),
                                 .q = device_new(q, (size_t)n * 4),
                                 .kv = kv,
                                 .position = device_new(batch.position, (size_t)batch.T * 4),
                                 .sequence = device_new(batch.sequence, (size_t)batch.T * 4),
                                 .tokens = batch.T,
                                 .heads = c->H,
                                 .scale = 0.3f,
                                 .window = c->window,
                                 .cls = c->cls,
                                 .longest_run = batch.longest,
                                 .key_bound = batch.bound};
  if (c->sinks) args.sinks = (ie_cuda_vector){device_new(sinks, (size_t)c->H * 4), IE_F32};
  args.scratch = device_new(NULL, ie_cuda_attention_scratch(&args));
  device_ok(ie_cuda_attention(device_queue(), &args), "attention");
  expected_fill(c, &batch, y, q, c->sinks ? sinks : NULL);
  float *found = device_floats(args.y, n);
  char what[128];
  snprintf(what, sizeof what, "dtype %d class %d H %lld HK %lld D %lld window %lld T %lld", (int)c->dtype,
           (int)c->cls, (long long)c->H, (long long)c->HK, (long long)c->D, (long long)c->window,
           (long long)batch.T);
  floats_close(found, y, n, tolerance, what);
  free(q), free(sinks), free(y), free(found);
  device_free_all();
}

static void decode_over_every_cache(void **state) {
  (void)state;
  static const ie_dtype dtypes[] = {IE_F32, IE_F16, IE_BF16, IE_I8};
  for (int i = 0; i < 4; i++) {
    attend_case c = {
        .dtype = dtypes[i], .H = 8, .HK = 2, .D = 16, .cap = 512, .sinks = true, .padding = true};
    c.start[0] = 0, c.start[1] = 63, c.start[2] = 300;
    c.count[0] = c.count[1] = c.count[2] = 1;
    case_run(&c, 1e-5);
    c.sinks = false;
    c.key_bound = 4096; /* more parts than keys */
    c.H = 6;            /* three heads share one block of four */
    case_run(&c, 1e-5);
  }
}

static void every_dimension(void **state) {
  (void)state;
  static const int64_t dims[] = {1, 7, 32, 33, 64, 80, 128};
  for (int i = 0; i < 7; i++) {
    attend_case c = {.dtype = IE_BF16, .H = 2, .HK = 1, .D = dims[i], .cap = 128, .sinks = i % 2};
    c.start[0] = 5, c.start[1] = 90;
    c.count[0] = 3, c.count[1] = 1;
    case_run(&c, 1e-5);
  }
}

/* What q and the numerators in two parts may move: 16 bits of bf16, 22 of f16. */
static double rounded_to(ie_dtype dtype) {
  return dtype == IE_F16 ? 1e-5 : 1e-4;
}

static void windows_and_rings(void **state) {
  (void)state;
  for (int tiled = 0; tiled < 3; tiled++) {
    attend_case c = {.dtype = tiled == 2 ? IE_F16 : IE_BF16,
                     .cls = tiled ? IE_CLASS_BF16 : IE_CLASS_F32,
                     .H = 4,
                     .HK = 2,
                     .D = 16};
    c.cap = 64, c.window = 40, c.sinks = true;
    c.start[0] = 130, c.start[1] = 0, c.start[2] = 61;
    c.count[0] = 20, c.count[1] = 9, c.count[2] = 5;
    case_run(&c, tiled ? rounded_to(c.dtype) : 1e-5);
  }
}

static void prefill_on_the_tensor_cores(void **state) {
  (void)state;
  static const int64_t dims[] = {16, 32, 64, 128}, heads[] = {1, 8, 6, 2};
  for (int n = 0; n < 8; n++) {
    const int i = n % 4;
    attend_case c = {.dtype = n < 4 ? IE_BF16 : IE_F16,
                     .cls = IE_CLASS_BF16,
                     .H = heads[i],
                     .HK = i == 0 ? 1 : 2,
                     .D = dims[i]};
    c.cap = 192, c.sinks = i % 2, c.padding = i == 2;
    c.start[0] = 0, c.start[1] = 70, c.start[2] = 0;
    c.count[0] = 67, c.count[1] = 17, c.count[2] = i;
    case_run(&c, rounded_to(c.dtype));
  }
}

static void prefill_of_an_int8_cache(void **state) {
  (void)state;
  attend_case c = {.dtype = IE_I8, .cls = IE_CLASS_BF16, .H = 4, .HK = 2, .D = 16, .cap = 256, .sinks = true};
  c.start[0] = 60, c.start[1] = 100;
  c.count[0] = 70, c.count[1] = 2;
  case_run(&c, 1e-5);
}

static void keys_are_rotated_on_the_way(void **state) {
  (void)state;
  enum { T = 3, HK = 2, D = 10, HALF = 4 };
  attend_case c = {.HK = HK, .D = D};
  ie_cuda_kv kv = kv_new(&c, IE_F32, 64);
  float *k = floats_random(1, T * HK * D, 1), *cos = floats_random(2, T * HALF, 1),
        *sin = floats_random(3, T * HALF, 1);
  const int32_t position[T] = {3, 64, -1}, sequence[T] = {0, 2, 1};
  ie_cuda_kv_append_args args = {.kv = kv,
                                 .k = device_new(k, T * HK * D * 4),
                                 .v = device_new(k, T * HK * D * 4),
                                 .cos = device_new(cos, T * HALF * 4),
                                 .sin = device_new(sin, T * HALF * 4),
                                 .half = HALF,
                                 .position = device_new(position, sizeof position),
                                 .sequence = device_new(sequence, sizeof sequence),
                                 .tokens = T};
  device_ok(ie_cuda_kv_append(device_queue(), &args), "kv_append");
  float *cache = device_floats(kv.k, B * HK * 64 * D);
  for (int t = 0; t < 2; t++)
    for (int h = 0; h < HK; h++) {
      float *row = k + (t * HK + h) * D;
      scalar.rope_half(row, cos + t * HALF, sin + t * HALF, 2 * HALF);
      floats_close(cache + ((sequence[t] * HK + h) * 64 + position[t] % 64) * D, row, D, 1e-6,
                   "rotated keys");
    }
  for (int64_t i = 0; i < HK * 64 * D; i++) assert_true(isnan(cache[HK * 64 * D + i]));
  free(k), free(cos), free(sin), free(cache);
  device_free_all();
}

static void what_f16_cannot_hold_is_named(void **state) {
  (void)state;
  attend_case c = {.HK = 1, .D = 4};
  float k[8] = {0, 0, 0, 0, 0, 1e6f, 0, 0}, v[8] = {0};
  const int32_t position[2] = {0, 1}, sequence[2] = {0, 0};
  ie_cuda_kv_append_args args = {.kv = kv_new(&c, IE_F16, 64),
                                 .k = device_new(k, sizeof k),
                                 .v = device_new(v, sizeof v),
                                 .position = device_new(position, sizeof position),
                                 .sequence = device_new(sequence, sizeof sequence),
                                 .tokens = 2,
                                 .check = check_new(7)};
  device_ok(ie_cuda_kv_append(device_queue(), &args), "kv_append");
  ie_cuda_fault fault = check_read(args.check);
  assert_int_equal(IE_CUDA_FAULT_WHERE(fault), 7);
  assert_int_equal(IE_CUDA_FAULT_INDEX(fault), 5);
  device_free_all();
}

static int group(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(decode_over_every_cache),
                                     cmocka_unit_test(every_dimension),
                                     cmocka_unit_test(windows_and_rings),
                                     cmocka_unit_test(prefill_on_the_tensor_cores),
                                     cmocka_unit_test(prefill_of_an_int8_cache),
                                     cmocka_unit_test(keys_are_rotated_on_the_way),
                                     cmocka_unit_test(what_f16_cannot_hold_is_named)};
  return cmocka_run_group_tests_name("cuda_attention", tests, NULL, NULL);
}

int main(void) {
  ie_kernels_fill(&scalar, IE_ISA_SCALAR);
  return device_run(group);
}
