#include "support/params.h"

#include "base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

ie_param *param_make(const char *name, int rank, const int64_t *shape) {
  ie_param *p = calloc(1, sizeof *p);
  assert_non_null(p);
  p->name = strdup(name);
  p->rank = rank;
  p->count = 1;
  for (int d = 0; d < rank; d++) p->count *= p->shape[d] = shape[d];
  p->value = calloc((size_t)p->count, sizeof *p->value);
  p->grad = calloc((size_t)p->count, sizeof *p->grad);
  assert_true(p->name && p->value && p->grad);
  return p;
}

void param_free(ie_param *p) {
  if (!p) return;
  free(p->name);
  free(p->value);
  free(p->grad);
  free(p);
}

void param_fill(real *x, int64_t n, uint64_t stream, double scale) {
  for (int64_t i = 0; i < n; i++) {
    double u = ie_rng_f64(11, stream, 2 * (uint64_t)i) + 1e-12,
           v = ie_rng_f64(11, stream, 2 * (uint64_t)i + 1);
    x[i] = (real)(scale * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
  }
}
