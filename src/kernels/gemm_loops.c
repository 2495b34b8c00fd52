#include "kernels/gemm.h"

#include "base/size.h"

int64_t ie_gemm_depth(int64_t K) {
  int64_t blocks = ie_max_i64(1, ie_div_up(K, IE_GEMM_DEPTH_MAX));
  int64_t depth = ie_div_up(ie_div_up(K, blocks), IE_GEMM_GROUP) * IE_GEMM_GROUP;
  return ie_max_i64(depth, IE_GEMM_GROUP);
}

/* Depth of a panel in memory: matrix units work in steps of 32 numbers or so. */
static int64_t panel_depth(int64_t depth) {
  return ie_div_up(depth, IE_GEMM_GROUP) * IE_GEMM_GROUP;
}

int64_t ie_gemm_slab_count(int64_t columns, int64_t depth) {
  return ie_div_up(columns, IE_GEMM_GROUP) * IE_GEMM_GROUP * panel_depth(depth);
}

const ie_gemm_kernel *ie_gemm_kernel_of(const ie_kernels *kernels, const ie_gemm *gemm) {
  return gemm->bf16 ? &kernels->gemm_bf16 : &kernels->gemm;
}

/* Rows of A of a task, rounded up to whole panels of any mr <= 32; or a group of columns of a decoded weight. */
int64_t ie_gemm_scratch_count(void) {
  return (IE_GEMM_ROWS_MAX + 32) * IE_GEMM_DEPTH_MAX;
}

/* The part of an operand from number (i0, k0) on. Number (i, k) of it stands in stored row i, or in row k when the
 * outer index counts stored columns. */
static ie_gemm_block block_make(const ie_gemm_matrix *x, bool i_is_row, int64_t i0, int64_t k0) {
  int64_t col_stride = x->col_stride ? x->col_stride : 1;
  ie_gemm_block block = {.x = x->data};
  int64_t *row_stride = i_is_row ? &block.i_stride : &block.k_stride, row0 = i_is_row ? i0 : k0;
  *(i_is_row ? &block.k_stride : &block.i_stride) = col_stride;
  *row_stride = x->row_stride;
  if (x->gather != NULL)
    *(i_is_row ? &block.i_rows : &block.k_rows) = x->gather + row0;
  else
    block.x += row0 * x->row_stride;
  block.x += (i_is_row ? k0 : i0) * col_stride;
  return block;
}

/* n columns of C from j0 on and K depths from k0 on of a weight, decoded into scratch. */
static ie_gemm_block weight_decode(const ie_kernels *kernels, const ie_gemm_matrix *b, int64_t j0, int64_t n,
                                   int64_t k0, int64_t K, real *scratch) {
  int64_t row0 = b->transposed ? j0 : k0, rows = b->transposed ? n : K;
  int64_t col0 = b->transposed ? k0 : j0, cols = b->transposed ? K : n;
  for (int64_t r = 0; r < rows; r++) {
    real *out = scratch + r * cols;
#ifdef IE_REAL_DOUBLE
    float row[IE_GEMM_DEPTH_MAX];
    kernels->weight_cols(row, b->weight, row0 + r, col0, cols);
    for (int64_t c = 0; c < cols; c++) out[c] = row[c];
#else
    kernels->weight_cols(out, b->weight, row0 + r, col0, cols);
#endif
  }
  ie_gemm_matrix decoded = {.data = scratch, .row_stride = cols};
  return block_make(&decoded, b->transposed, 0, 0);
}

/* At most a group of columns, one block of depth. */
static void group_pack(const ie_kernels *kernels, const ie_gemm_slab *slab, int64_t j0, int64_t j1,
                       int64_t k0, int64_t k1, real *scratch) {
  const ie_gemm_matrix *b = &slab->gemm->b;
  const ie_gemm_kernel *kernel = ie_gemm_kernel_of(kernels, slab->gemm);
  int64_t depth = panel_depth(slab->k1 - slab->k0);
  ie_gemm_block group;
  if (b->weight != NULL)
    group = weight_decode(kernels, b, j0, j1 - j0, k0, k1 - k0, scratch);
  else
    group = block_make(b, b->transposed, j0, k0);
  group.n = j1 - j0;
  group.K = k1 - k0;
  group.bf16 = slab->gemm->bf16;
  kernel->pack_b(slab->packed + (j0 - slab->j0) * depth + (k0 - slab->k0) * kernel->nr, depth * kernel->nr,
                 &group);
}

void ie_gemm_slab_pack(const ie_kernels *kernels, const ie_gemm_slab *slab, int64_t j0, int64_t j1,
                       real *scratch) {
  int64_t step = ie_gemm_depth(slab->gemm->K);
  for (int64_t j = j0; j < j1; j += IE_GEMM_GROUP)
    for (int64_t k = slab->k0; k < slab->k1; k += step)
      group_pack(kernels, slab, j, ie_min_i64(j + IE_GEMM_GROUP, j1), k, ie_min_i64(k + step, slab->k1),
                 scratch);
}

/* Rows i0 .. i1 of A and one block of depth, panel after panel. */
static void rows_pack(const ie_gemm_kernel *kernel, const ie_gemm *gemm, const ie_gemm_task *task, int64_t k0,
                      int64_t k1, real *out) {
  ie_gemm_block block = block_make(&gemm->a, !gemm->a.transposed, task->i0, k0);
  block.n = task->i1 - task->i0;
  block.K = k1 - k0;
  block.bf16 = gemm->bf16;
  kernel->pack_a(out, kernel->mr * panel_depth(block.K), &block);
}

/* One block of depth: each panel of B stays in the first cache while the panels of A pass. */
static void block_run(const ie_gemm_kernel *kernel, const ie_gemm_slab *slab, const ie_gemm_task *task,
                      int64_t k0, int64_t k1, const real *rows) {
  const ie_gemm *gemm = slab->gemm;
  int64_t depth = panel_depth(slab->k1 - slab->k0), rows_depth = panel_depth(k1 - k0);
  ie_gemm_tile tile = {.K = k1 - k0, .c_stride = gemm->c_stride};
  tile.alpha = gemm->alpha == 0 ? 1 : gemm->alpha;
  tile.add = gemm->add || k0 > 0;
  tile.ahead_step = ie_div_up(kernel->nr, ie_div_up(task->i1 - task->i0, kernel->mr));
  for (int64_t j = task->j0; j < task->j1; j += kernel->nr) {
    tile.b = slab->packed + (j - slab->j0) * depth + (k0 - slab->k0) * kernel->nr;
    tile.n = (int)ie_min_i64(kernel->nr, task->j1 - j);
    tile.bias = gemm->bias != NULL && k0 == 0 ? gemm->bias + j : NULL;
    tile.ahead = tile.b + kernel->nr * depth; /* the next panel of B, a share of it a tile */
    if (j + kernel->nr >= task->j1) tile.ahead = tile.b;
    for (int64_t i = task->i0; i < task->i1; i += kernel->mr, tile.ahead += tile.K * tile.ahead_step) {
      tile.a = rows + (i - task->i0) * rows_depth;
      tile.m = (int)ie_min_i64(kernel->mr, task->i1 - i);
      tile.c = gemm->c + i * gemm->c_stride + j;
      kernel->run(&tile);
    }
  }
}

void ie_gemm_slab_run(const ie_kernels *kernels, const ie_gemm_slab *slab, ie_gemm_task task, real *scratch) {
  const ie_gemm_kernel *kernel = ie_gemm_kernel_of(kernels, slab->gemm);
  int64_t step = ie_gemm_depth(slab->gemm->K), k0 = slab->k0;
  if (kernel->begin != NULL) kernel->begin();
  do { /* once where K = 0: C is bias, or 0 */
    int64_t k1 = ie_min_i64(k0 + step, slab->k1);
    rows_pack(kernel, slab->gemm, &task, k0, k1, scratch);
    block_run(kernel, slab, &task, k0, k1, scratch);
    k0 = k1;
  } while (k0 < slab->k1);
  if (kernel->end != NULL) kernel->end();
}
