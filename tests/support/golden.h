/* Golden models: checkpoint directories with the reference's answers beside them (tests/data/README.md). */
#ifndef CLOCHER_TESTS_SUPPORT_GOLDEN_H
#define CLOCHER_TESTS_SUPPORT_GOLDEN_H

#include "clocher/clocher.h"

#include <stdbool.h>

enum { GOLDEN_CASES_MAX = 8, GOLDEN_MODELS_MAX = 64 };

typedef struct golden_case {
  const int32_t *ids; /* (T) */
  int64_t T, V;
  const float *logits;   /* (T, V) of the reference in float32 */
  const int32_t *greedy; /* (new_tok) */
  const float *gap;      /* (new_tok) (best - second) / max |logit| at that step */
  int64_t new_tok;
} golden_case;

typedef struct golden_model {
  char dir[1024];
  const char *name; /* last part of dir */
  ie_tensor_file *file;
  golden_case cases[GOLDEN_CASES_MAX];
  int count;
  double noise;                        /* of float32 against float64 */
  double rounding_bf16, rounding_int8; /* median error of rounding the inputs of products alone */
} golden_model;

/* Opens every golden model below `root` of an architecture and layout that is built; returns how many were added. */
int golden_open_all(const char *root, golden_model *out, int max);
void golden_close(golden_model *model);

/* max |a - b| / max |b|; NaN anywhere gives infinity. */
double golden_error(const float *a, const float *b, int64_t n);

/* Logits of all positions of one sequence, (T, V), to be freed; fails the test when anything fails. */
float *golden_logits(ie_model *model, const int32_t *ids, int64_t T, int64_t chunk);

#endif
