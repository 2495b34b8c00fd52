/* The loops that measure a machine's ceilings, by instruction set. Not kernels: they compute nothing of use, but
 * are written with the same instructions. Same include and flag rules as kern.h. */
#ifndef CLOCHER_KERNELS_PROBE_H
#define CLOCHER_KERNELS_PROBE_H

#include "kernels/kern.h"

enum {
  IE_PROBE_STRIDE = 8 * 256, /* what read is given is a multiple of this */
  IE_PROBE_AHEAD = 1024,     /* bytes that a prefetch is ahead */
  IE_PROBE_MATRIX_MAX = 4
};

typedef struct ie_probe_matrix_loop {
  const char *kind; /* "avx512-f32" */
  bool integer;
  /* Runs that many rounds and returns the operations done, 2 per multiply-add. */
  double (*run)(int64_t rounds);
} ie_probe_matrix_loop;

typedef struct ie_probe_loops {
  /* Reads `bytes` from p (64-byte aligned) as 1, 2, 4 or 8 streams side by side. Returns a digest, so that no
   * compiler can leave a read out. */
  uint64_t (*read)(const uint8_t *p, size_t bytes, int streams, bool prefetch);
  ie_probe_matrix_loop matrix[IE_PROBE_MATRIX_MAX];
  int matrix_count;
} ie_probe_loops;

/* Fills *out up to `isa`, as ie_kernels_fill. */
void ie_probe_loops_fill(ie_probe_loops *out, ie_isa isa);

/* Each instruction set replaces read, and the matrix loops (avx2, avx512) or adds to them (amx). */
void ie_probe_loops_fill__scalar(ie_probe_loops *out);
void ie_probe_loops_fill__avx2(ie_probe_loops *out);
void ie_probe_loops_fill__avx512(ie_probe_loops *out);
void ie_probe_loops_fill__amx(ie_probe_loops *out);

#endif
