/* CPU products: packing x once and running row blocks of one or many weights over the team. */
#ifndef CLOCHER_TENSOR_CPU_PRODUCT_H
#define CLOCHER_TENSOR_CPU_PRODUCT_H

#include "tensor/device.h"

/* One product of a dispatch: a weight (or one expert), its packed tokens, and where the result goes. */
typedef struct cpu_segment {
  const ie_product *product;
  ie_product_args args;
  int64_t block_rows;  /* rows of one unit of work */
  int64_t first_block; /* of this segment in the dispatch */
} cpu_segment;

/* Fills product, args and block size of segment i for `T` packed tokens; y is set by the caller. */
cpu_segment cpu_segment_make(const ie_weight *w, int64_t expert, const ie_product *product, int64_t T);

/* Packs T tokens of x with `product`; large inputs are shared out over the team. */
void cpu_pack(ie_team *team, const ie_product *product, void *packed, const float *x, int64_t x_stride,
              int64_t T, int64_t K);

/* Scratch that one thread needs for a product. */
size_t cpu_run_bytes(const ie_product *product, int64_t T, int64_t K);
/* Scratch for one call of cpu_segments_run, of all threads together, from the arena: per_thread is the most that one of
 * its products needs. */
bool cpu_run_scratch(ie_ctx *ctx, size_t per_thread, void **scratch);

/* Runs all blocks of n segments in one dispatch. */
void cpu_segments_run(ie_ctx *ctx, cpu_segment *segments, int64_t n, void *scratch, size_t per_thread);

#endif
