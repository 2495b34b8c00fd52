/* Random weights of every format on the host and on the device. */
#ifndef CLOCHER_TESTS_CUDA_WEIGHTS_H
#define CLOCHER_TESTS_CUDA_WEIGHTS_H

#include "cuda/kernels.h"

typedef struct test_weight {
  ie_cuda_weight device;
  uint8_t *part[2]; /* the same bytes on the host */
  float *bias;      /* (E, R) as stored, in f32; NULL: none */
} test_weight;

/* (E, R, K) with any codes and numbers of about one; bias none. K a multiple of 32 for MXFP4. */
test_weight test_weight_new(uint64_t seed, ie_wformat format, int64_t E, int64_t R, int64_t K);
/* MXFP4: every block has this scale. */
void test_weight_scale(test_weight *w, uint8_t scale);
/* Adds a bias of `dtype`. */
void test_weight_bias(test_weight *w, uint64_t seed, ie_dtype dtype);
/* All numbers of a row (K). */
void test_weight_row(float *out, const test_weight *w, int64_t expert, int64_t row);
float test_weight_at(const test_weight *w, int64_t expert, int64_t row, int64_t col);
/* Rows of one expert as the CPU's kernels take them. */
ie_wview test_weight_view(const test_weight *w, int64_t expert);
void test_weight_free(test_weight *w);

#endif
