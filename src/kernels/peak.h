/* The machine's own limits: loops that only read memory, and loops that only multiply, from registers. They are
 * what `clocher bench` measures speeds against. One thread each; the caller runs them on all. */
#ifndef CLOCHER_KERNELS_PEAK_H
#define CLOCHER_KERNELS_PEAK_H

#include "kernels/kern.h"

/* Multiplies for `rounds` rounds and returns the operations done (2 a multiply-add). What it computed goes to
 * *sink, so that it is computed. */
typedef double (*ie_peak_fn)(int64_t rounds, float *sink);

typedef struct ie_peak_matrix {
  ie_peak_fn run;
  const char *kind; /* "amx-bf16" */
} ie_peak_matrix;

typedef struct ie_peak {
  /* The fastest unit for products of the class. */
  ie_peak_matrix matrix[IE_CLASS_COUNT];
} ie_peak;

/* Up to `isa`, which the machine has. */
void ie_peak_fill(ie_peak *out, ie_isa isa);
void ie_peak_fill__scalar(ie_peak *out);
void ie_peak_fill__avx2(ie_peak *out);
void ie_peak_fill__avx512(ie_peak *out);
void ie_peak_fill__amx(ie_peak *out);

enum { IE_PEAK_STREAMS_MAX = 8 };

/* Reads all of data (bytes; a multiple of 64 * streams) as `streams` (1, 2, 4, 8) equal parts side by side, with or
 * without a prefetch 1 KB ahead in each, and returns the exclusive or of its words. 16-byte loads: memory is far
 * slower than the load ports in every instruction set. */
uint64_t ie_peak_read(const void *data, size_t bytes, int streams, bool prefetch);

#endif
