/* General matrix products for training: C (M, N) = alpha A (M, K) B (K, N) + bias, or C += that.
 *
 * The three products of a linear layer y = x W^T + b with x (T, K) and W (R, K), all matrices row-major:
 *   y  = x W^T       A = x (T, K),              B = W transposed (K, R)
 *   dx = dy W        A = dy (T, R),             B = W (R, K)
 *   dW += dy^T x     A = dy transposed (R, T),  B = x (T, K), add
 * Where a matrix stands, its strides and whether it is transposed are options of the operand, so nothing is copied
 * but into panels. Rows of a matrix may be gathered (the tokens of one expert). B may be a weight in any encoding,
 * so that dx goes through frozen weights of 4 bits; its numbers are decoded exactly.
 *
 * How it is computed (Goto & van de Geijn 2008; the tiles are those of BLIS, Van Zee & van de Geijn 2015): K is cut
 * into blocks of ie_gemm_depth(K). A slab is a range of columns of B and of whole blocks of K, packed into panels of
 * nr columns that all threads share. A task is a rectangle of C of one slab: block by block of K it packs its rows of A
 * into panels of mr rows, which stay in the second cache, and runs tiles mr x nr, each over one block.
 *
 * Numbers: with bf16 set, both operands are rounded to bf16 (nearest even) as they are packed (arithmetic class bf16 of
 * training); sums are `real` in every case. Each element of C is the sum of its blocks in ascending order, each
 * the sum of its products in ascending order of k: it does not depend on slabs, tasks, threads, other rows or
 * columns. scalar/ is the definition; with FMA, AVX2 and AVX-512 agree with each other to the bit and with it to rounding. AMX, in class bf16, sums even and odd k
 * of each 32 apart (amx/tile.h) and takes numbers below 2^-126 as 0.
 * A product with an infinite or NaN operand gives NaN or infinity in its row or column only.
 *
 * Functions here are kernels: no allocation, no threads, no errors. tensor/cpu_gemm.h spreads a product over the team.
 * In the double build `real` is double, and scalar/ is the only instruction set. */
#ifndef CLOCHER_KERNELS_GEMM_H
#define CLOCHER_KERNELS_GEMM_H

#include "kernels/kern.h"

/* A matrix as a product reads it. Stored: (rows, cols), number (r, c) at data[row(r) * row_stride + c * col_stride],
 * with row(r) = gather ? gather[r] : r. What the product sees is that, or its transpose. */
typedef struct ie_gemm_matrix {
  const real *data;
  int64_t row_stride, col_stride; /* in numbers; col_stride 0 is taken as 1 */
  const int32_t *gather;          /* or NULL */
  const ie_wview *weight;         /* of B only, instead of all above: its rows and columns; or NULL */
  bool transposed;
} ie_gemm_matrix;

typedef struct ie_gemm {
  int64_t M, N, K; /* each may be 0; K = 0: the product is 0 */
  ie_gemm_matrix a, b;
  real *c; /* row i at c + i * c_stride; overlaps neither operand */
  int64_t c_stride;
  real alpha;       /* 0 is taken as 1 */
  const real *bias; /* (N), added to every row once; or NULL */
  bool add;         /* C += instead of C = */
  bool bf16;        /* operands are rounded */
} ie_gemm;

enum {
  IE_GEMM_GROUP = 64,      /* columns that are packed at a time; a multiple of every nr */
  IE_GEMM_DEPTH_MAX = 384, /* most of K in one block */
  IE_GEMM_ROWS_MAX = 224,  /* most rows of a task: a block of A in the second cache, 336 KiB */
};

/* Depth of the blocks that K is cut into: a multiple of 64, a function of K alone. The last one may be shorter. */
int64_t ie_gemm_depth(int64_t K);

/* Columns j0 .. j1 of C and depths k0 .. k1, and the panels of B for them. j0 is a multiple of IE_GEMM_GROUP, k0 of
 * ie_gemm_depth(K), and so are j1 and k1 unless they are N and K. Slabs of the same columns run in the order of k0. */
typedef struct ie_gemm_slab {
  const ie_gemm *gemm;
  int64_t j0, j1, k0, k1;
  real *packed; /* ie_gemm_slab_count numbers, 64-byte aligned; panel after panel */
} ie_gemm_slab;

int64_t ie_gemm_slab_count(int64_t columns, int64_t depth);

/* The tiles and panels of a product. */
const ie_gemm_kernel *ie_gemm_kernel_of(const ie_kernels *kernels, const ie_gemm *gemm);

/* Numbers of scratch that one call of the functions below needs (64-byte aligned), whatever the sizes. */
int64_t ie_gemm_scratch_count(void);

/* Packs columns j0 .. j1 of the slab; both are multiples of IE_GEMM_GROUP, or j1 is the slab's. */
void ie_gemm_slab_pack(const ie_kernels *kernels, const ie_gemm_slab *slab, int64_t j0, int64_t j1,
                       real *scratch);

/* Rows i0 .. i1 (any, at most IE_GEMM_ROWS_MAX of them). */
typedef struct ie_gemm_task {
  int64_t i0, i1, j0, j1; /* a rectangle of C; j0 is a multiple of IE_GEMM_GROUP, j1 too or the slab's */
} ie_gemm_task;

/* Computes a rectangle of a slab that is packed there. */
void ie_gemm_slab_run(const ie_kernels *kernels, const ie_gemm_slab *slab, ie_gemm_task task, real *scratch);

#endif
