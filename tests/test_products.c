/* Every product kernel of every instruction set that this machine has, against sums in double and against scalar.
 *
 * Two kinds of numbers. Exact ones (small integers) make every order of summation give the same float, so that all
 * kernels must agree to the bit. Random ones are compared within the rounding error of a sum. Every buffer ends at a
 * page that must not be touched, and y has guard elements around each row. */
#include "base/rng.h"
#include "blocks/int4.h"
#include "blocks/int8.h"
#include "blocks/mxfp4.h"
#include "kernels/avx512/products_tiles.h"
#include "kernels/products_common.h"
#include "support/amx_emulated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

/* --- Buffers that end at a forbidden page ---------------------------------------------------------------------- */

typedef struct guarded {
  uint8_t *map, *data;
  size_t map_bytes;
} guarded;

static guarded guarded_new(size_t bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = ie_size_align(bytes, page);
  guarded g = {.map_bytes = whole + page};
  g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(g.map != MAP_FAILED);
  assert_int_equal(mprotect(g.map + whole, page, PROT_NONE), 0);
  g.data = g.map + whole - bytes;
  memset(g.map, 0xFF, whole); /* NaN, for what is read before it is written */
  return g;
}

static void guarded_free(guarded *g) {
  assert_int_equal(munmap(g->map, g->map_bytes), 0);
}

/* Scratch and packed activations are taken many times in the same size: kept until another one is asked for. */
static guarded pool[2];

static uint8_t *pool_get(int which, size_t bytes) {
  guarded *g = &pool[which];
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  if (g->map == NULL || (size_t)(g->map + g->map_bytes - page - g->data) != bytes) {
    if (g->map != NULL) guarded_free(g);
    *g = guarded_new(bytes);
  }
  return g->data;
}

/* --- Cases ----------------------------------------------------------------------------------------------------- */

typedef struct product_case {
  ie_class class;
  ie_wformat format;
  int64_t T, R, K;
  bool exact;
  bool gather; /* x_rows in reverse order */
  bool add;
  int bias; /* 0 none, 1 f32, 2 f16, 3 bf16 */
  uint64_t seed;
} product_case;

typedef struct setup {
  product_case c;
  guarded w[2], x, y, bias;
  ie_wview view;
  int64_t x_stride, y_stride;
  int32_t *x_rows;
  double *expected, *magnitude; /* (T, R): the sum, and the sum of absolute values */
} setup;

static const ie_dtype bias_dtypes[] = {IE_DTYPE_NONE, IE_F32, IE_F16, IE_BF16};

static float random_x(const product_case *c, uint64_t n) {
  uint64_t u = ie_rng_u64(c->seed, 1, n);
  if (!c->exact) return (ie_rng_f32(c->seed, 2, n) - 0.5f) * (u % 16 == 0 ? 20.0f : 1.0f);
  return (float)((int)(u % 15) - 7);
}

/* In exact cases of class INT8 the first number of each block is 127, so that the scale is 1. */
static void fill_x(setup *s) {
  const product_case *c = &s->c;
  float *x = (float *)(void *)s->x.data;
  for (int64_t t = 0; t < c->T; t++)
    for (int64_t k = 0; k < c->K; k++)
      x[t * s->x_stride + k] = c->exact && c->class == IE_CLASS_INT8 && k % 32 == 0
                                   ? 127.0f
                                   : random_x(c, (uint64_t)(t * c->K + k));
}

/* INT8 and INT4: any codes (-128 too), of exact cases small ones; scales 1, 2 or -1, or random ones. Codes beyond the
 * last column are those of zero. */
static void fill_integers(setup *s) {
  const product_case *c = &s->c;
  const int64_t group = c->format == IE_W_INT8 ? IE_INT8_COLS : IE_INT4_COLS;
  const int64_t padded = ie_div_up(c->K, group) * group, groups = c->R * padded / group;
  memset(s->w[0].data, 0, (size_t)c->R * s->view.row_bytes[0]);
  for (int64_t i = 0; i < c->R * padded; i++) {
    uint64_t u = ie_rng_u64(c->seed, 3, (uint64_t)i);
    bool inside = i % padded < c->K;
    if (c->format == IE_W_INT8)
      s->w[0].data[i] = !inside ? 0 : (uint8_t)(c->exact ? (uint64_t)((int)(u % 255) - 128) : u);
    else
      s->w[0].data[i / 2] |= (uint8_t)((inside ? u & 15 : 8) << (i % 2 * 4));
  }
  for (int64_t i = 0; i < groups; i++) {
    static const float exact[] = {1, 2, -1};
    float v = c->exact ? exact[i % 3] : (ie_rng_f32(c->seed, 5, (uint64_t)i) - 0.3f) * 0.02f;
    uint16_t h = ie_f32_to_f16(v);
    memcpy(s->w[1].data + 2 * i, &h, 2);
  }
}

static void fill_weights(setup *s) {
  const product_case *c = &s->c;
  if (c->format == IE_W_INT8 || c->format == IE_W_INT4) {
    fill_integers(s);
    return;
  }
  for (int64_t i = 0; i < c->R * c->K; i++) {
    uint64_t u = ie_rng_u64(c->seed, 3, (uint64_t)i);
    float v = c->exact ? (float)((int)(u % 9) - 4) : ie_rng_f32(c->seed, 4, (uint64_t)i) - 0.5f;
    uint16_t h = c->format == IE_W_F16 ? ie_f32_to_f16(v) : ie_f32_to_bf16(v);
    uint8_t *out = s->w[0].data;
    if (c->format == IE_W_F32)
      memcpy(out + 4 * i, &v, 4);
    else if (c->format == IE_W_MXFP4)
      out[i / 2] = (uint8_t)u;
    else
      memcpy(out + 2 * i, &h, 2);
  }
  if (c->format == IE_W_MXFP4)
    for (int64_t i = 0; i < c->R * c->K / 32; i++)
      s->w[1].data[i] =
          (uint8_t)(c->exact ? 127 + (uint64_t)i % 2 : 112 + ie_rng_u64(c->seed, 5, (uint64_t)i) % 16);
}

static void fill_bias(setup *s) {
  for (int64_t r = 0; r < s->c.R; r++) {
    float v = s->c.exact ? (float)(r % 17 - 8) : ie_rng_f32(s->c.seed, 6, (uint64_t)r);
    uint16_t h = s->c.bias == 2 ? ie_f32_to_f16(v) : ie_f32_to_bf16(v);
    if (s->c.bias == 1)
      memcpy(s->bias.data + 4 * r, &v, 4);
    else
      memcpy(s->bias.data + 2 * r, &h, 2);
  }
}

/* The weight at (row, col), by the definition of its format. */
static double weight_at(const ie_wview *w, int64_t row, int64_t col) {
  const uint8_t *p = w->part[0] + (size_t)row * w->row_bytes[0];
  if (w->format == IE_W_MXFP4) {
    uint8_t byte = p[col / 2], scale = w->part[1][(size_t)row * w->row_bytes[1] + (size_t)(col / 32)];
    return (double)ie_mxfp4_values[col % 2 ? byte >> 4 : byte & 15] * ldexp(1, scale - 127);
  }
  float v;
  uint16_t h;
  if (w->format == IE_W_INT8 || w->format == IE_W_INT4) {
    bool wide = w->format == IE_W_INT8;
    memcpy(&h, w->part[1] + (size_t)row * w->row_bytes[1] + 2 * (col / (wide ? 32 : 64)), 2);
    int code = wide ? (int8_t)p[col] : (col % 2 ? p[col / 2] >> 4 : p[col / 2] & 15) - 8;
    return (double)code * (double)ie_f16_to_f32(h);
  }
  memcpy(&v, p + (w->format == IE_W_F32 ? 4 * col : 0), 4 < w->row_bytes[0] ? 4 : w->row_bytes[0]);
  memcpy(&h, p + (w->format == IE_W_F32 ? 0 : 2 * col), 2);
  return w->format == IE_W_F32 ? (double)v
                               : (double)(w->format == IE_W_F16 ? ie_f16_to_f32(h) : ie_bf16_to_f32(h));
}

/* One row of x as its class lets it into a product. */
static void round_x(double *out, const float *x, int64_t K, ie_class class) {
  for (int64_t k = 0; k < K; k++) {
    float largest = 0;
    for (int64_t i = k / 32 * 32; i < K && i < k / 32 * 32 + 32; i++) largest = fmaxf(largest, fabsf(x[i]));
    float s = largest / 127;
    switch (class) {
    case IE_CLASS_BF16: out[k] = (double)ie_f32_round_bf16(x[k]); break;
    case IE_CLASS_F16: out[k] = (double)ie_f32_round_f16(x[k]); break;
    case IE_CLASS_INT8: out[k] = s == 0 ? 0 : (double)rintf(x[k] / s) * (double)s; break;
    default: out[k] = (double)x[k];
    }
  }
}

static const float *x_row(const setup *s, int64_t t) {
  return (const float *)(const void *)s->x.data + (s->x_rows ? s->x_rows[t] : t) * s->x_stride;
}

static void compute_expected(setup *s) {
  const product_case *c = &s->c;
  double *x = calloc((size_t)c->K + 1, sizeof *x), *w = calloc((size_t)(c->R * c->K) + 1, sizeof *w);
  assert_true(x != NULL && w != NULL);
  for (int64_t r = 0; r < c->R; r++)
    for (int64_t k = 0; k < c->K; k++) w[r * c->K + k] = weight_at(&s->view, r, k);
  for (int64_t t = 0; t < c->T; t++) {
    round_x(x, x_row(s, t), c->K, c->class);
    for (int64_t r = 0; r < c->R; r++) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < c->K; k++) {
        sum += x[k] * w[r * c->K + k];
        magnitude += fabs(x[k] * w[r * c->K + k]);
      }
      ie_product_args args = {.bias = c->bias ? s->bias.data : NULL, .bias_dtype = bias_dtypes[c->bias]};
      double before = c->add ? (double)(t + r) : 0;
      s->expected[t * c->R + r] = before + (sum + (double)ie_product_bias(&args, r));
      s->magnitude[t * c->R + r] = magnitude + before + 1;
    }
  }
  free(x);
  free(w);
}

static setup setup_new(product_case c) {
  setup s = {.c = c, .x_stride = c.K + 3, .y_stride = c.R + 2};
  s.view = (ie_wview){.format = c.format, .rows = c.R, .cols = c.K};
  for (int part = 0; part < 2; part++) {
    s.view.row_bytes[part] = ie_wformat_row_bytes(c.format, part, c.K);
    s.w[part] = guarded_new((size_t)c.R * s.view.row_bytes[part]);
    s.view.part[part] = s.view.row_bytes[part] ? s.w[part].data : NULL;
  }
  s.x = guarded_new(sizeof(float) * (size_t)((c.T - 1) * s.x_stride + c.K));
  s.y = guarded_new(sizeof(float) * (size_t)(c.T * s.y_stride));
  s.bias = guarded_new((size_t)c.R * (c.bias == 1 ? 4 : 2));
  s.expected = calloc((size_t)(c.T * c.R), sizeof(double));
  s.magnitude = calloc((size_t)(c.T * c.R), sizeof(double));
  s.x_rows = c.gather ? calloc((size_t)c.T, sizeof(int32_t)) : NULL;
  for (int64_t t = 0; c.gather && t < c.T; t++) s.x_rows[t] = (int32_t)(c.T - 1 - t);
  fill_x(&s);
  fill_weights(&s);
  fill_bias(&s);
  compute_expected(&s);
  return s;
}

static void setup_free(setup *s) {
  guarded *all[] = {&s->w[0], &s->w[1], &s->x, &s->y, &s->bias};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) guarded_free(all[i]);
  free(s->expected);
  free(s->magnitude);
  free(s->x_rows);
}

/* --- Running a product ------------------------------------------------------------------------------------------ */

/* Packs tokens t0 .. t0 + T - 1 in pieces of `pack_step` groups and runs rows in pieces of `row_step` multiples. */
static void run_product(setup *s, const ie_product *p, int64_t pack_step, int64_t row_step) {
  const product_case *c = &s->c;
  size_t packed_bytes = p->pack_bytes(c->T, c->K);
  size_t scratch_bytes = p->scratch_bytes ? p->scratch_bytes(c->T, c->K) : 0;
  assert_int_equal(packed_bytes % 64, 0);
  uint8_t *packed = pool_get(0, packed_bytes), *scratch = pool_get(1, ie_size_align(scratch_bytes, 64));
  int64_t step = pack_step * p->pack_tok;
  for (int64_t t0 = 0; t0 < c->T; t0 += step)
    p->pack(packed, (const float *)(const void *)s->x.data, s->x_stride, s->x_rows, c->T, t0,
            ie_min_i64(t0 + step, c->T), c->K);
  float *y = (float *)(void *)s->y.data;
  for (int64_t i = 0; i < c->T * s->y_stride; i++) y[i] = -12345.0f;
  for (int64_t t = 0; t < c->T; t++)
    for (int64_t r = 0; c->add && r < c->R; r++) y[t * s->y_stride + r + 1] = (float)(t + r);
  ie_product_args args = {.w = s->view, .packed = packed, .T = c->T, .y = y + 1, .y_stride = s->y_stride};
  args.bias = c->bias ? s->bias.data : NULL;
  args.bias_dtype = bias_dtypes[c->bias];
  args.add = c->add;
  step = row_step * p->row_multiple;
  for (int64_t r0 = 0; r0 < c->R; r0 += step) p->run(&args, r0, ie_min_i64(r0 + step, c->R), scratch);
}

static const char *const class_names[] = {"f32", "bf16", "f16", "int8"};

static void check_y(const setup *s, const char *kernel) {
  const product_case *c = &s->c;
  const float *y = (const float *)(const void *)s->y.data;
  for (int64_t t = 0; t < c->T; t++) {
    assert_true(y[t * s->y_stride] == -12345.0f);
    assert_true(y[t * s->y_stride + c->R + 1] == -12345.0f);
    for (int64_t r = 0; r < c->R; r++) {
      double found = (double)y[t * s->y_stride + 1 + r], expected = s->expected[t * c->R + r];
      double allowed = c->exact ? 0 : 6e-8 * (4 + sqrt((double)c->K)) * s->magnitude[t * c->R + r];
      if (!(fabs(found - expected) <= allowed))
        fail_msg(
            "%s %s x %s T=%d R=%d K=%d exact=%d bias=%d add=%d gather=%d: y[%d, %d] = %.9g, expected %.9g",
            kernel, class_names[c->class], ie_wformat_describe(c->format)->name, (int)c->T, (int)c->R,
            (int)c->K, c->exact, c->bias, c->add, c->gather, (int)t, (int)r, found, expected);
    }
  }
}

/* --- Tables ----------------------------------------------------------------------------------------------------- */

enum { TABLE_EMULATED = IE_ISA_COUNT, TABLE_COUNT };

/* The kernel table number i, or false when this machine cannot run it. */
static bool table_get(int i, ie_kernels *out, const char **name) {
  bool emulated = i == TABLE_EMULATED;
  if ((emulated ? (int)IE_ISA_AVX512 : i) > (int)ie_isa_best()) return false;
  ie_kernels_fill(out, emulated ? IE_ISA_AVX512 : (ie_isa)i);
  if (emulated) ie_kernels_fill_products__amx_emulated(out);
  *name = emulated ? "amx (emulated)" : ie_isa_name((ie_isa)i);
  return true;
}

static const ie_product *product_of(const ie_kernels *k, int many, ie_class class, ie_wformat format) {
  const ie_product *p = many ? &k->many[class][format] : &k->few[class][format];
  return p->run != NULL ? p : NULL;
}

static const int64_t sizes_tok[] = {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 47};
static const int64_t sizes_row[] = {1, 2, 3, 4, 5, 11, 12, 13, 16, 17, 31, 32, 33, 37};
static const int64_t sizes_col[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 251, 1030};
static const int64_t sizes_block[] = {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 19, 33};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static product_case pick_case(ie_class class, ie_wformat format, uint64_t n) {
  product_case c = {.class = class, .format = format, .seed = 1000 + n};
  c.T = sizes_tok[n % COUNT(sizes_tok)];
  c.R = sizes_row[(n / 3 + n) % COUNT(sizes_row)];
  c.K = format == IE_W_MXFP4 ? 32 * sizes_block[(n / 2) % COUNT(sizes_block)]
                             : sizes_col[(n / 2) % COUNT(sizes_col)];
  c.exact = ie_rng_u64(9, 0, n) % 2;
  c.gather = ie_rng_u64(9, 1, n) % 2;
  c.add = ie_rng_u64(9, 2, n) % 2;
  c.bias = (int)(ie_rng_u64(9, 3, n) % 4);
  return c;
}

/* Beyond the blocks of rows, columns and tokens that the kernels work through. */
static product_case pick_large(ie_class class, ie_wformat format, int n) {
  static const int64_t sizes[][3] = {{530, 13, 64}, {19, 300, 96}, {70, 110, 544}};
  return (product_case){.class = class,
                        .format = format,
                        .T = sizes[n][0],
                        .R = sizes[n][1],
                        .K = sizes[n][2],
                        .exact = n != 1,
                        .add = n == 2,
                        .bias = n + 1,
                        .seed = 77};
}

typedef void product_check(setup *s, const ie_product *p, const char *kernel);

/* Runs `check` on one case with every kernel of every table. */
static void for_each_kernel(product_case c, product_check *check) {
  setup s = setup_new(c);
  for (int i = 0; i < TABLE_COUNT; i++)
    for (int many = 0; many < 2; many++) {
      ie_kernels table;
      const char *name;
      if (!table_get(i, &table, &name)) continue;
      const ie_product *p = product_of(&table, many, c.class, c.format);
      char kernel[64];
      snprintf(kernel, sizeof kernel, "%s %s", name, many ? "many" : "few");
      if (p != NULL) check(&s, p, kernel);
    }
  setup_free(&s);
}

/* Runs `check` on `cases` cases of every product. */
static void for_each_product(int cases, product_check *check) {
  for (int class = 0; class < IE_CLASS_COUNT; class ++)
    for (int format = 0; format < IE_W_COUNT; format++)
      for (int n = 0; n < cases; n++)
        for_each_kernel(pick_case((ie_class) class, (ie_wformat)format, (uint64_t)n), check);
}

/* --- Tests ------------------------------------------------------------------------------------------------------ */

static void check_value(setup *s, const ie_product *p, const char *kernel) {
  run_product(s, p, 1000, 1000);
  check_y(s, kernel);
}

static void test_values(void **state) {
  (void)state;
  for_each_product(84, check_value);
}

static void test_values_of_large_products(void **state) {
  (void)state;
  for (int class = 0; class < IE_CLASS_COUNT; class ++)
    for (int format = 0; format < IE_W_COUNT; format++)
      for (int n = 0; n < 3; n++)
        for_each_kernel(pick_large((ie_class) class, (ie_wformat)format, n), check_value);
}

static float *copy_y(const setup *s) {
  size_t bytes = sizeof(float) * (size_t)(s->c.T * s->y_stride);
  float *copy = malloc(bytes);
  assert_non_null(copy);
  memcpy(copy, s->y.data, bytes);
  return copy;
}

static void check_splits(setup *s, const ie_product *p, const char *kernel) {
  run_product(s, p, 1000, 1000);
  float *whole = copy_y(s);
  for (int64_t step = 1; step <= 9; step += 4) {
    run_product(s, p, step, step);
    if (memcmp(whole, s->y.data, sizeof(float) * (size_t)(s->c.T * s->y_stride)) != 0)
      fail_msg("%s: rows in pieces of %d differ", kernel, (int)step);
  }
  free(whole);
}

static void test_any_split_gives_the_same_bits(void **state) {
  (void)state;
  for_each_product(14, check_splits);
}

/* Each token alone gives the bits that it gave among the others. */
static void check_alone(setup *s, const ie_product *p, const char *kernel) {
  run_product(s, p, 1000, 1000);
  float *together = copy_y(s);
  setup one = *s;
  one.c.T = 1;
  for (int64_t t = 0; t < s->c.T; t++) {
    int32_t row = s->x_rows ? s->x_rows[t] : (int32_t)t;
    one.x_rows = &row;
    float *y = (float *)(void *)one.y.data;
    run_product(&one, p, 1000, 1000);
    if (memcmp(y + 1, together + t * s->y_stride + 1, sizeof(float) * (size_t)s->c.R) != 0)
      fail_msg("%s: token %d of %d differs from itself alone", kernel, (int)t, (int)s->c.T);
  }
  free(together);
}

static void check_alone_plain(setup *s, const ie_product *p, const char *kernel) {
  bool add = s->c.add;
  s->c.add = false;
  check_alone(s, p, kernel);
  s->c.add = add;
}

static void test_tokens_do_not_depend_on_their_number(void **state) {
  (void)state;
  for_each_product(14, check_alone_plain);
}

/* Where a table says so, both kernels give the same bits: a deterministic model may take either. */
static void check_many_as_few(product_case c) {
  setup s = setup_new(c);
  for (int i = 0; i < TABLE_COUNT; i++) {
    ie_kernels table;
    const char *name;
    if (!table_get(i, &table, &name) || !table.many_as_few[c.class][c.format]) continue;
    run_product(&s, product_of(&table, 0, c.class, c.format), 1000, 1000);
    float *few = copy_y(&s);
    run_product(&s, product_of(&table, 1, c.class, c.format), 1000, 1000);
    if (memcmp(few, s.y.data, sizeof(float) * (size_t)(c.T * s.y_stride)) != 0)
      fail_msg("%s: %s x %s T=%d R=%d K=%d: the two kernels differ", name, class_names[c.class],
               ie_wformat_describe(c.format)->name, (int)c.T, (int)c.R, (int)c.K);
    free(few);
  }
  setup_free(&s);
}

static void test_many_as_few(void **state) {
  (void)state;
  for (int class = 0; class < IE_CLASS_COUNT; class ++)
    for (int format = 0; format < IE_W_COUNT; format++) {
      for (int n = 0; n < 42; n++)
        check_many_as_few(pick_case((ie_class) class, (ie_wformat)format, (uint64_t)n));
      for (int n = 0; n < 3; n++) {
        product_case c = pick_large((ie_class) class, (ie_wformat)format, n);
        c.exact = false;
        check_many_as_few(c);
      }
    }
  /* With integer sums nothing is in the way from AVX-512 on. On AVX2 the kernel for few tokens scales the sums of 8 columns,
   * the one for many those of 32: a deterministic model takes the first. */
  for (int i = 0; i < TABLE_COUNT; i++) {
    ie_kernels table;
    const char *name;
    if (table_get(i, &table, &name) && table.isa >= IE_ISA_AVX512 &&
        table.many[IE_CLASS_INT8][IE_W_MXFP4].run)
      assert_true(table.many_as_few[IE_CLASS_INT8][IE_W_MXFP4]);
  }
}

/* Activations that are not finite must not come out as numbers, in any class. */
static void check_nonfinite(setup *s, const ie_product *p, const char *kernel) {
  float *x = (float *)(void *)s->x.data;
  static const float bad[] = {NAN, INFINITY, -INFINITY};
  for (int i = 0; i < 3; i++) {
    int64_t t = s->c.T / 2, k = (int64_t)(ie_rng_u64(3, 0, s->c.seed) % (uint64_t)s->c.K);
    float *at = &x[(s->x_rows ? s->x_rows[t] : t) * s->x_stride + k], saved = *at;
    *at = bad[i];
    run_product(s, p, 1000, 1000);
    *at = saved;
    const float *y = (const float *)(const void *)s->y.data + t * s->y_stride + 1;
    int64_t finite = 0;
    for (int64_t r = 0; r < s->c.R; r++) finite += isfinite(y[r]) ? 1 : 0;
    if (finite > 0) fail_msg("%s %s: %f in x gave a number", kernel, class_names[s->c.class], (double)bad[i]);
  }
}

static void test_nonfinite_activations_stay(void **state) {
  (void)state;
  for_each_product(10, check_nonfinite);
}

/* A scale byte of 255 is NaN. */
/* Scale 255 makes its row NaN, and no other one. */
static void check_nan_scale(setup *s, const ie_product *p, const char *kernel) {
  if (s->c.format != IE_W_MXFP4) return;
  int64_t blocks = s->c.K / 32, rows = s->c.R, step = blocks > 5 ? blocks / 5 : 1;
  const float *y = (const float *)(const void *)s->y.data;
  for (int64_t at = rows * blocks - 1; at >= 0; at -= step) {
    uint8_t *scale = &s->w[1].data[at], saved = *scale;
    *scale = 255;
    run_product(s, p, 1000, 1000);
    *scale = saved;
    for (int64_t t = 0; t < s->c.T; t++)
      for (int64_t r = 0; r < rows; r++)
        if ((isnan(y[t * s->y_stride + 1 + r]) != 0) != (r == at / blocks))
          fail_msg("%s: scale 255 in row %lld of %lld, block %lld: row %lld is %g", kernel,
                   (long long)(at / blocks), (long long)rows, (long long)(at % blocks), (long long)r,
                   (double)y[t * s->y_stride + 1 + r]);
  }
}

static void test_scale_255_is_nan(void **state) {
  (void)state;
  for_each_product(12, check_nan_scale);
}

/* Exact numbers times 2^power under weights of one scale byte. */
static void check_power(const setup *s, const ie_product *p, const char *kernel, int scale, int power) {
  product_case c = s->c;
  c.exact = true;
  c.bias = 0;
  c.add = false;
  c.seed = 5;
  setup e = setup_new(c);
  if (c.format == IE_W_MXFP4) memset(e.w[1].data, scale, (size_t)(c.R * c.K / 32));
  float *x = (float *)(void *)e.x.data;
  for (int64_t t = 0; t < c.T; t++)
    for (int64_t k = 0; k < c.K; k++) x[t * e.x_stride + k] = ldexpf(x[t * e.x_stride + k], power);
  compute_expected(&e);
  run_product(&e, p, 1000, 1000);
  check_y(&e, kernel);
  setup_free(&e);
}

/* Scale bytes 0 (2^-127), 1, 2, 3 and 250, with activations that bring the sums to the middle. */
static void check_scale_ends(setup *s, const ie_product *p, const char *kernel) {
  if (s->c.format != IE_W_MXFP4 || s->c.class == IE_CLASS_F16) return;
  bool amx_flushes =
      strstr(kernel, "amx") != NULL && strstr(kernel, "many") != NULL && s->c.class == IE_CLASS_BF16;
  static const uint8_t ends[] = {0, 1, 2, 3, 250};
  for (size_t i = 0; i < COUNT(ends); i++) /* AMX takes denormal weights as zero (kernels/amx/products.c) */
    if (!(amx_flushes && ends[i] < 2)) check_power(s, p, kernel, ends[i], ends[i] < 9 ? 110 : -110);
}

/* Activations of all magnitudes, which the classes with a scale of their own must follow. */
static void check_powers(setup *s, const ie_product *p, const char *kernel) {
  if (s->c.class == IE_CLASS_F16) return;
  for (int power = -100; power <= 100; power += 25) check_power(s, p, kernel, 127, power);
}

static void test_powers_of_the_activations(void **state) {
  (void)state;
  for_each_product(4, check_powers);
}

/* The bf16 panel of the tiles holds every number of every block, denormal ones and NaN too. */
static void test_decoded_panels_are_exact(void **state) {
  (void)state;
#if defined(__x86_64__)
  if (ie_isa_best() < IE_ISA_AVX512) skip();
  enum { BLOCKS = 70 };
  for (int first = 0; first < 256; first++) {
    uint8_t blocks[BLOCKS * 16], scales[BLOCKS];
    uint16_t out[BLOCKS * 32];
    float expected[32];
    for (uint64_t i = 0; i < sizeof blocks; i++) blocks[i] = (uint8_t)ie_rng_u64(8, (uint64_t)first, i);
    for (int b = 0; b < BLOCKS; b++) scales[b] = (uint8_t)(first % 2 ? first : 2 + (first + b) % 251);
    ie_wview w = {IE_W_MXFP4, {blocks, scales}, {sizeof blocks, sizeof scales}, 1, BLOCKS * 32};
    ie_tiles_decode_mxfp4__avx512(out, &w, 0);
    for (int b = 0; b < BLOCKS; b++) {
      ie_mxfp4_decode_block(expected, blocks + 16 * b, scales[b]);
      for (int i = 0; i < 32; i++) assert_int_equal(out[32 * b + i], ie_f32_to_bf16(expected[i]));
    }
  }
#endif
}

static void test_ends_of_the_scale(void **state) {
  (void)state;
  for_each_product(8, check_scale_ends);
}

/* AMX has kernels of its own for every weight that is not f32, in classes BF16 and INT8. */
static void check_is_amx(const ie_kernels *table, ie_class class, ie_wformat format) {
  ie_kernels below;
  ie_kernels_fill(&below, IE_ISA_AVX512);
  bool own = (class == IE_CLASS_BF16 || class == IE_CLASS_INT8) && format != IE_W_F32;
  assert_true((table->many[class][format].run != below.many[class][format].run) == own);
  bool blocks = class == IE_CLASS_INT8 || format == IE_W_INT8 || format == IE_W_INT4;
  if (own) assert_int_equal(table->many[class][format].row_multiple, blocks ? 16 : 32);
}

/* Class INT8 on AMX gives the bits of AVX-512 where sums are integers, else the sum. K is beyond what one block of tokens, one panel of
 * rows and one run of columns hold. */
static void test_amx_blocks(void **state) {
  (void)state;
  ie_kernels avx512, amx;
  const char *name = NULL;
  if (!table_get(IE_ISA_AVX512, &avx512, &name) || !table_get(TABLE_EMULATED, &amx, &name)) skip();
  static const int64_t sizes[][3] = {
      {112, 50, 8192}, {17, 67, 1120}, {33, 16, 64}, {3, 5, 96}, {40, 31, 160}};
  for (int format = 0; format < IE_W_COUNT; format++)
    for (size_t i = 0; i < COUNT(sizes); i++) {
      product_case c = {IE_CLASS_BF16, (ie_wformat)format, sizes[i][0],  sizes[i][1],
                        sizes[i][2],   .bias = (int)i % 4, .add = i % 2, .seed = 300 + i};
      setup s = setup_new(c);
      run_product(&s, &amx.many[c.class][format], 1000, 1000);
      check_y(&s, name);
      setup_free(&s);
      c.class = IE_CLASS_INT8;
      s = setup_new(c);
      run_product(&s, &amx.many[c.class][format], 2, 3);
      check_y(&s, name);
      float *found = copy_y(&s);
      run_product(&s, &avx512.many[c.class][format], 1000, 1000);
      if (format == IE_W_MXFP4 || format == IE_W_INT8 || format == IE_W_INT4)
        assert_memory_equal(found, s.y.data, sizeof(float) * (size_t)(c.T * s.y_stride));
      free(found);
      setup_free(&s);
    }
}

static void test_every_table_is_complete(void **state) {
  (void)state;
  for (int i = 0; i < TABLE_COUNT; i++) {
    ie_kernels table;
    const char *name;
    if (!table_get(i, &table, &name)) {
      print_message("not on this machine: table %d\n", i);
      continue;
    }
    for (int class = 0; class < IE_CLASS_COUNT; class ++)
      for (int format = 0; format < IE_W_COUNT; format++) {
        assert_non_null(product_of(&table, 0, (ie_class) class, (ie_wformat)format));
        assert_true(table.many_min_tok[class][format] >= 1);
        if (i == TABLE_EMULATED) check_is_amx(&table, (ie_class) class, (ie_wformat)format);
      }
  }
}

static void test_isa_names(void **state) {
  (void)state;
  for (int i = 0; i < IE_ISA_COUNT; i++) assert_int_equal(ie_isa_from_name(ie_isa_name((ie_isa)i)), i);
  assert_int_equal(ie_isa_from_name("avx"), -1);
  assert_int_equal(ie_isa_from_name(""), -1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_isa_names),
      cmocka_unit_test(test_every_table_is_complete),
      cmocka_unit_test(test_values),
      cmocka_unit_test(test_amx_blocks),
      cmocka_unit_test(test_values_of_large_products),
      cmocka_unit_test(test_any_split_gives_the_same_bits),
      cmocka_unit_test(test_tokens_do_not_depend_on_their_number),
      cmocka_unit_test(test_many_as_few),
      cmocka_unit_test(test_nonfinite_activations_stay),
      cmocka_unit_test(test_scale_255_is_nan),
      cmocka_unit_test(test_ends_of_the_scale),
      cmocka_unit_test(test_powers_of_the_activations),
      cmocka_unit_test(test_decoded_panels_are_exact),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  for (int i = 0; i < 2; i++)
    if (pool[i].map != NULL) guarded_free(&pool[i]);
  return failed;
}
