/* Parameters made by hand, for tests of what trains. */
#ifndef CLOCHER_TESTS_SUPPORT_PARAMS_H
#define CLOCHER_TESTS_SUPPORT_PARAMS_H

#include "tensor/param.h"

/* A parameter of that shape with value and gradient of zeros; the test fails when memory is out. */
ie_param *param_make(const char *name, int rank, const int64_t *shape);
void param_free(ie_param *param);
/* Normal numbers times `scale`, a function of (stream, element). */
void param_fill(real *x, int64_t n, uint64_t stream, double scale);

#endif
