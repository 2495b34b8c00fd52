/* The machine's ceilings: how fast this device's threads can read memory and multiply, when they do nothing else.
 * Every speed that is printed stands beside the ceiling that was measured in the same process.
 *
 * Thread safety: uses the device's threads; one call at a time, and no forward beside it. */
#ifndef CLOCHER_BENCH_H
#define CLOCHER_BENCH_H

#include "clocher/device.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* One way of reading: `streams` places per thread side by side, with or without a prefetch 1 KB ahead. */
typedef struct ie_read_pattern {
  int streams;
  bool prefetch;
  double gb_s; /* 1e9 bytes a second, all threads together; the best pass */
} ie_read_pattern;

enum { IE_READ_PATTERNS = 8 };

typedef struct ie_read_ceiling {
  ie_read_pattern pattern[IE_READ_PATTERNS]; /* (patterns) */
  int patterns;
  int best; /* index of the fastest */
  size_t buffer_bytes;
  size_t read_bytes; /* by all passes */
} ie_read_ceiling;

typedef struct ie_read_options {
  size_t buffer_bytes; /* memory that is read over and over; 0: 1 GiB. Must be larger than the caches */
  size_t total_bytes;  /* to read with each of the best patterns; 0: 4 GiB */
  const ie_read_pattern *only; /* measure this pattern alone; NULL: all of them */
} ie_read_options;

/* The read ceiling: the best of {1, 2, 4, 8 streams per thread} x {no prefetch, prefetch}. options may be NULL. */
ie_status ie_bench_read(ie_device *device, const ie_read_options *options, ie_read_ceiling *out,
                        ie_error *error);

typedef struct ie_matrix_ceiling {
  double tflop_s;   /* 1e12 operations a second (2 a multiply-add), all threads together; the best of 3 */
  const char *kind; /* "amx-bf16", "avx512-fma", "avx512-vnni", ... */
} ie_matrix_ceiling;

/* The fastest unit that the device's kernel set has for products of this class, operands in registers. */
ie_status ie_bench_matrix(ie_device *device, ie_precision precision, ie_matrix_ceiling *out, ie_error *error);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
