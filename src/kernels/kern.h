/* The kernel table: one struct of function pointers for everything that is worth an instruction set.
 *
 * scalar/ is the definition of every entry. ie_kernels_get() fills a table with the scalar entries and then lets
 * avx2/, avx512/ and amx/ overwrite those that they have, up to the level asked for. Kernels are plain
 * functions: no allocation, no threads, no errors; sizes were checked above. A kernel never reads or writes
 * beyond the extents stated here, and its result does not depend on the split into rows or token ranges.
 *
 * Letters: T tokens (rows of x and y), K columns of the weight = length of a dot product, R rows of the weight,
 * N query rows, S keys, D head dimension. Names: <activation>_<weight>_<op>__<isa>. */
#ifndef CLOCHER_KERNELS_KERN_H
#define CLOCHER_KERNELS_KERN_H

#include "base/real.h"
#include "blocks/format.h"
#include "clocher/tensor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Arithmetic class (docs/DESIGN.md, the numbers contract): how activations enter a product. Weights are always
 * exact and sums are f32 (or exact integers of one 32-column block, then f32). A kernel may hold rounded
 * activations as fixed point where no number is off by more than 2^-22 of the largest of its 32 columns. */
typedef enum ie_class {
  IE_CLASS_F32,  /* as they are */
  IE_CLASS_BF16, /* rounded to bf16 */
  IE_CLASS_F16,  /* rounded to f16 */
  IE_CLASS_INT8, /* absmax int8 per 32 columns: q = rint(x / s), s = max|x| / 127, ties to even; s = 0 gives q = 0.
                    Quantised weights: integer sums per block, then times s and the block's scale. Float
                    weights: the product takes q * s in f32. */
  IE_CLASS_COUNT
} ie_class;

typedef enum ie_isa { IE_ISA_SCALAR, IE_ISA_AVX2, IE_ISA_AVX512, IE_ISA_AMX, IE_ISA_COUNT } ie_isa;

/* --- Products: y[t, r] = sum_k x[t, k] w[r, k] ---------------------------------------------------------- */

/* A weight matrix (R, K), or one expert of a stack. Parts and row strides as blocks/format.h says. */
typedef struct ie_wview {
  ie_wformat format;
  const uint8_t *part[2];
  size_t row_bytes[2]; /* stride from row to row in each part */
  int64_t rows, cols;
} ie_wview;

typedef struct ie_product_args {
  ie_wview w;
  const void *packed; /* what ie_product.pack made of T rows of x */
  int64_t T;
  float *y;            /* y[t * y_stride + r] for t < T, r0 <= r < r1 */
  int64_t y_stride;    /* in elements */
  const void *bias;    /* (R) of bias_dtype, or NULL */
  ie_dtype bias_dtype; /* IE_F32, IE_F16 or IE_BF16 */
  bool add;            /* true: y += product + bias; false: y = product + bias */
} ie_product_args;

/* One way to multiply: x is packed once (by token ranges, so threads can share the work), then run for disjoint
 * ranges of weight rows. An entry with run == NULL does not exist. */
typedef struct ie_product {
  /* Bytes that pack writes for T tokens; a multiple of 64. The buffer is 64-byte aligned. */
  size_t (*pack_bytes)(int64_t T, int64_t K);
  /* Packs tokens t0 <= t < t1 of T. Token t is x + row * x_stride with row = x_rows ? x_rows[t] : t. Rounds or
   * quantises as the class says. t0 is a multiple of pack_tok; padding of the last group is written with it. */
  void (*pack)(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T, int64_t t0,
               int64_t t1, int64_t K);
  /* Bytes of scratch that one call of run needs for itself (64-byte aligned); NULL: none. */
  size_t (*scratch_bytes)(int64_t T, int64_t K);
  /* Rows r0 <= r < r1; r0 is a multiple of row_multiple. */
  void (*run)(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch);
  int64_t row_multiple; /* >= 1 */
  int64_t pack_tok;     /* >= 1 */
} ie_product;

/* --- General matrix products: tiles of C = A B from packed panels (gemm.h is the manual) ------------------- */

/* A part of an operand: numbers (i, k), i < n, k < K, where i counts rows of C for A and columns of C for B. Number
 * (i, k) is x[row(i) * i_stride + row(k) * k_stride], with row(i) = i_rows ? i_rows[i] : i and row(k) likewise. */
typedef struct ie_gemm_block {
  const real *x;
  int64_t i_stride, k_stride;
  const int32_t *i_rows, *k_rows; /* at most one of them is given */
  int64_t n, K;
  bool bf16; /* rounded to bf16 on the way */
} ie_gemm_block;

/* Rows i < m and columns j < n of a tile: s = sum over k of (i, k) of a times (j, k) of b, in a fixed order, from 0.
 * c[i * c_stride + j] = alpha * s + bias[j], or += of that. */
typedef struct ie_gemm_tile {
  const real *a, *b; /* panels as pack_a and pack_b write them, 64-byte aligned */
  int64_t K;         /* >= 0 */
  real *c;
  int64_t c_stride;
  int m, n; /* 1 <= m <= mr, 1 <= n <= nr */
  real alpha;
  const real *bias; /* (n) or NULL */
  bool add;
  const real
      *ahead; /* what is needed soon: K * ahead_step numbers may be prefetched from there on; or NULL */
  int64_t ahead_step;
} ie_gemm_tile;

typedef struct ie_gemm_kernel {
  int mr, nr; /* a whole tile of C; nr divides 64 */
  /* Panels of mr numbers i (A) or nr (B), panel_stride numbers of `out` apart; each takes at most mr or nr times K
   * rounded up to 64 of them. What fills up the last panel is not used by run. */
  void (*pack_a)(real *out, int64_t panel_stride, const ie_gemm_block *block);
  void (*pack_b)(real *out, int64_t panel_stride, const ie_gemm_block *block);
  void (*begin)(void); /* called by a thread before its first tile and after its last one, or NULL */
  void (*end)(void);
  void (*run)(const ie_gemm_tile *tile);
} ie_gemm_kernel;

/* --- Attention ------------------------------------------------------------------------------------------- */

/* Adds one contiguous run of keys to the running softmax of N query rows that share a KV head (online softmax,
 * Milakov & Gimelshein 2018). Before the first run: m = -inf, l = 0, acc = 0, or with a sink logit m = sink,
 * l = 1. At the end the output row is acc / l. */
typedef struct ie_attend_args {
  const float *q;    /* (N, D), row n at q + n * q_stride */
  int64_t q_stride;  /* in elements */
  const void *k, *v; /* (S, D) of kv_dtype, row s at s * kv_stride elements */
  int64_t kv_stride;
  ie_dtype kv_dtype; /* IE_F32, IE_F16, IE_BF16 or IE_I8 */
  /* Of IE_I8, bf16: key row s is k * k_scale[s / IE_KV_GROUP][d], value row s is v * v_scale[s] (blocks/kv_int8.h). */
  const uint16_t *k_scale; /* (S / IE_KV_GROUP rounded up, D), contiguous */
  const uint16_t *v_scale; /* (S) */
  /* Of IE_I8: products may be those of integers of 16 bits, with an error of 2^-16 of a row's largest number, and then a row
   * depends on how many rows are computed with it. */
  bool integers;
  const int32_t *lo; /* (N): query n sees keys lo[n] <= s < hi[n]; may be empty */
  const int32_t *hi; /* (N): 0 <= lo, hi <= S */
  int64_t N, S, D;
  float scale;  /* logit = scale * (q . k) */
  float *m, *l; /* (N) running maximum and sum */
  float *acc;   /* (N, D) running weighted sum of values, contiguous */
} ie_attend_args;

/* Attention under a tape: a tile of queries of one head against a tile of keys. Products and sums are f32 (`real`)
 * whatever the arithmetic class is: training rounds at its weights' products, not here. The algorithm is that of
 * FlashAttention-2 (Dao 2023, algorithms 1 and 2). Both sides come packed: rows are `width` numbers apart, D rounded up
 * to IE_ATTEND_PAD, the rest zero. Query n stands `ahead` positions after the tile's first key, plus n; it sees key s
 * where n + ahead - window < s <= n + ahead. */
enum { IE_ATTEND_QUERIES = 64, IE_ATTEND_KEYS = 64, IE_ATTEND_PAD = 16 };

typedef struct ie_attend_tile {
  int64_t N, S, D, width; /* N <= IE_ATTEND_QUERIES, S <= IE_ATTEND_KEYS */
  int64_t ahead, window;  /* window > 0; ahead may be negative */
  const real *qt;         /* (D, IE_ATTEND_QUERIES) as attend_pack made it of scale * q */
  const real *k, *v;      /* (S, width) */
} ie_attend_tile;

/* Running results of the queries: before the first tile m = -FLT_MAX, l = 0, acc = 0, or with a sink m = sink, l = 1.
 * At the end a row of y is acc / l, its lse m + log l. Rows from N on are scratch. */
typedef struct ie_attend_sums {
  real *m, *l; /* (IE_ATTEND_QUERIES) */
  real *acc;   /* (IE_ATTEND_QUERIES, width) */
} ie_attend_sums;

/* What the backward of a tile reads besides, and where it adds. Rows n >= N of q, dy, dyt, lse and delta are zero. */
typedef struct ie_attend_tile_grads {
  const real *q;   /* (IE_ATTEND_QUERIES, width) scale * q */
  const real *dy;  /* (IE_ATTEND_QUERIES, width) */
  const real *dyt; /* (D, IE_ATTEND_QUERIES) */
  const real *lse, *delta;
  real *dq;      /* (IE_ATTEND_QUERIES, width): the gradient of scale * q, divided by scale */
  real *dk, *dv; /* (S, width) */
} ie_attend_tile_grads;

/* Activations of a plain MLP (SwiGLU has kernels of its own). */
typedef enum ie_activation {
  IE_GELU,      /* 0.5 x (1 + erf(x / sqrt 2)), Hendrycks & Gimpel 2016 */
  IE_GELU_TANH, /* 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
  IE_RELU2      /* max(x, 0)^2, So et al. 2021 */
} ie_activation;

/* The numbers of one step of AdamW (train/adamw.h): with x = grad_scale * g,
 *   p = p * decay;  m = towards ? fma(weight1, x - m, x) : fma(weight1, x - m, m)
 *   v = fma(weight2 * x, x, v * beta2);  p = p + step_size * m / (sqrt(v) / root2 + eps)
 * each operation rounded, only those written fma fused. */
typedef struct ie_adamw_args {
  float grad_scale;
  float decay;
  float weight1;
  bool towards;
  float beta2, weight2;
  float root2, eps;
  float step_size;
} ie_adamw_args;
/* Row of a norm's backward: gradients are added. Under a tape a weight is read as it was in the forward. */
typedef struct ie_norm_backward_args {
  real *dx, *dweight, *dbias; /* (n) each; NULL: not wanted. dbias: of layer_norm */
  const real *dy, *x;         /* (n) */
  const void *weight;         /* (n) of dtype; NULL: ones (rms_norm only) */
  ie_dtype dtype;
  int64_t n;
  float eps;
} ie_norm_backward_args;

/* Numbers whose exponentials are added in f32 before the sum goes on in double. */
enum { IE_EXP_SUM_BLOCK = 1024 };

/* --- The table -------------------------------------------------------------------------------------------- */

typedef struct ie_kernels {
  ie_isa isa; /* the highest level that filled this table */

  /* few: best for one to a few tokens (weights stream past once, memory bound). many: for batches on the matrix
   * units or FMA tiles. Which one is taken: T < many_min_tok -> few; an entry without run falls back to few. */
  ie_product few[IE_CLASS_COUNT][IE_W_COUNT];
  ie_product many[IE_CLASS_COUNT][IE_W_COUNT];
  int64_t many_min_tok[IE_CLASS_COUNT][IE_W_COUNT];
  /* many computes each output by the operations of few in their order: equal to the bit. */
  bool many_as_few[IE_CLASS_COUNT][IE_W_COUNT];

  ie_gemm_kernel gemm, gemm_bf16; /* of numbers as they are, and of operands that are rounded to bf16 */
  /* out[i] = the number at (row, col + i) of w, i < n, exact. col is a multiple of 64. */
  void (*weight_cols)(float *out, const ie_wview *w, int64_t row, int64_t col, int64_t n);

  void (*attend)(const ie_attend_args *args);
  /* The same on matrix units, for calls of attend_many_rows query rows and more: as precise, but not equal to the
   * bit. Keys and values of f32 take attend. NULL: none. */
  void (*attend_many)(const ie_attend_args *args);
  int64_t attend_many_rows;
  /* rows (IE_ATTEND_QUERIES, width) = factor * x (N, D), row n of x at n * stride, zero elsewhere; columns (width,
   * IE_ATTEND_QUERIES) is its transpose. */
  void (*attend_pack)(real *rows, real *columns, const real *x, int64_t stride, int64_t N, int64_t D,
                      real factor);
  /* delta[n] = dy[n] . y[n] of N rows of D numbers, `stride` apart; zero from N to IE_ATTEND_QUERIES. */
  void (*attend_delta)(real *delta, const real *dy, const real *y, int64_t stride, int64_t N, int64_t D);
  /* One tile of keys forward: m, l and acc move on. */
  void (*attend_tile)(const ie_attend_tile *tile, const ie_attend_sums *sums);
  /* And backward: P = exp(q . k - lse), dS = P (dy . v - delta); dv += P^T dy, dk += dS^T q, dq += dS k. */
  void (*attend_tile_backward)(const ie_attend_tile *tile, const ie_attend_tile_grads *grads);

  /* y = x / sqrt(mean(x^2) + eps) * weight; weight (n) of weight_dtype or NULL (= 1). The mean is taken over f32
   * partial sums in a fixed order. y may be x. */
  void (*rms_norm)(real *y, const real *x, const void *weight, ie_dtype weight_dtype, int64_t n, float eps);
  /* y = (x - mean) / sqrt(variance + eps) * weight + bias; weight, bias (n) of dtype; the variance is that of the
   * population. Ba et al. 2016. y may be x. */
  void (*layer_norm)(real *y, const real *x, const void *weight, const void *bias, ie_dtype dtype, int64_t n,
                     float eps);
  /* In place. Off by at most 1.5e-7 of max(1, |y|) (tests/test_vector.c), which is the reference's own noise in f32;
   * in the tails, where y is 1e-6 and less, by 1.3e-5 of y. */
  void (*activate)(real *x, int64_t n, ie_activation activation);
  /* In place: x = cap * tanh(x / cap); tanh at most 1.5 ulp off. */
  void (*soft_cap)(real *x, int64_t n, float cap);
  /* Rotates pairs (i, i + n/2) of x (n even): half-split RoPE; cos, sin (n/2). In place. */
  void (*rope_half)(real *x, const real *cos, const real *sin, int64_t n);
  /* Clamped SwiGLU of gpt-oss over interleaved pairs: gu (2 * n), g = min(gu[2i], limit),
   * u = clamp(gu[2i+1], -limit, limit), y[i] = (u + 1) * g * sigmoid(alpha * g). limit = inf: no clamp. */
  void (*swiglu_clamped)(real *y, const real *gu, int64_t n, float alpha, float limit);
  /* y[i] = g * sigmoid(g) * up[i] with g = gate[i] (SwiGLU, Shazeer 2020). y may be gate or up. */
  void (*swiglu)(real *y, const real *gate, const real *up, int64_t n);
  /* Backward of swiglu_clamped, h = y: dh (n) is the gradient of h before `weight`. dgu (2 * n) = the gradient of gu,
   * times weight: 0 for what the clamp cuts off (not for what equals a limit), as torch.clamp. dh becomes weight * h.
   * Returns the sum of dh h over f32 partial sums in a fixed order: the gradient of weight. */
  real (*swiglu_clamped_backward)(real *dgu, real *dh, const real *gu, int64_t n, real weight, float alpha,
                                  float limit);
  /* Backward of swiglu: adds to dgate and dup; either may be NULL. */
  void (*swiglu_backward)(real *dgate, real *dup, const real *dy, const real *gate, const real *up,
                          int64_t n);
  /* y[i] += a * x[i]. */
  void (*axpy)(real *y, const real *x, real a, int64_t n);
  /* y[i] = R(R(a * x[i]) + R(z[i])) with R the rounding to bf16; z NULL: R(a * x[i]). y may be x or z. */
  void (*bf16_mix)(real *y, const real *x, real a, const real *z, int64_t n);
  /* One step of AdamW over parameters p (n), gradients g (n) and both moments m, v (n). */
  void (*adamw)(real *p, const real *g, real *m, real *v, int64_t n, const ie_adamw_args *args);
  /* f32 to kv_dtype (IE_F32, IE_F16, IE_BF16), round to nearest even; and back, exact. */
  void (*store)(void *y, ie_dtype dtype, const real *x, int64_t n);
  void (*load)(real *y, const void *x, ie_dtype dtype, int64_t n);
  /* The largest of n numbers, its first index in *at; NaN anywhere gives NaN and its index. */
  real (*max)(const real *x, int64_t n, int64_t *at);
  /* First index that is NaN or infinite, or -1. */
  int64_t (*find_nonfinite)(const real *x, int64_t n);

  /* Of training (scalar/backward.c has the formulas). Gradients are added, but where "in place" stands. */
  void (*rms_norm_backward)(const ie_norm_backward_args *args);
  void (*layer_norm_backward)(const ie_norm_backward_args *args);
  void (*activate_backward)(real *dx, const real *dy, const real *x, int64_t n, ie_activation activation);
  /* In place: dy *= 1 - (y / cap)^2, y as soft_cap left it. */
  void (*soft_cap_backward)(real *dy, const real *y, int64_t n, float cap);
  /* In place: the transpose of rope_half. */
  void (*rope_half_backward)(real *dx, const real *cos, const real *sin, int64_t n);
  /* Sum of e^(x - max). */
  double (*exp_sum)(const real *x, int64_t n, real max);
  /* In place: x = factor e^(x - max), times 1 - (x / cap)^2 with a cap > 0. */
  void (*softmax_backward)(real *x, int64_t n, real max, real factor, float cap);
} ie_kernels;

/* The highest level that this machine and this build can run. */
ie_isa ie_isa_best(void);
const char *ie_isa_name(ie_isa isa);
/* The level of that name ("scalar", "avx2", "avx512", "amx"), or -1. */
int ie_isa_from_name(const char *name);

/* Fills *out up to `isa`; the caller made sure that the machine has it (isa <= ie_isa_best()). */
void ie_kernels_fill(ie_kernels *out, ie_isa isa);

/* Each instruction set overwrites the entries that it has: products*.c, vector.c, backward.c, gemm.c of its folder. */
void ie_kernels_fill_products__scalar(ie_kernels *out);
void ie_kernels_fill_vector__scalar(ie_kernels *out);
void ie_kernels_fill_backward__scalar(ie_kernels *out);
void ie_kernels_fill_swiglu_backward__scalar(ie_kernels *out);
void ie_kernels_fill_gemm__scalar(ie_kernels *out);
void ie_kernels_fill_weight_cols__scalar(ie_kernels *out);
void ie_kernels_fill_products__avx2(ie_kernels *out);
void ie_kernels_fill_vector__avx2(ie_kernels *out);
void ie_kernels_fill_backward__avx2(ie_kernels *out);
void ie_kernels_fill_swiglu_backward__avx2(ie_kernels *out);
void ie_kernels_fill_gemm__avx2(ie_kernels *out);
void ie_kernels_fill_weight_cols__avx2(ie_kernels *out);
void ie_kernels_fill_products__avx512(ie_kernels *out);
void ie_kernels_fill_vector__avx512(ie_kernels *out);
void ie_kernels_fill_backward__avx512(ie_kernels *out);
void ie_kernels_fill_swiglu_backward__avx512(ie_kernels *out);
void ie_kernels_fill_gemm__avx512(ie_kernels *out);
void ie_kernels_fill_weight_cols__avx512(ie_kernels *out);
void ie_kernels_fill_products__amx(ie_kernels *out);
void ie_kernels_fill_gemm__amx(ie_kernels *out);
void ie_kernels_fill_attend__amx(ie_kernels *out);

#endif
