/* The floating type of forward and backward passes: float, and double in the build that checks gradients
 * (mk/double.mk), which compiles scalar kernels, launchers, operations and models a second time from the same source.
 * Numbers in files are of their own types and never `real`.
 *
 * real_exp, real_tanh and real_normal_tail are base/exp.h's and base/special.h's: the same bits on every machine. */
#ifndef CLOCHER_BASE_REAL_H
#define CLOCHER_BASE_REAL_H

#include "base/special.h"

#include <math.h>

#ifdef IE_REAL_DOUBLE
typedef double real;
#define real_exp  exp
#define real_log  log
#define real_sqrt sqrt
#define real_tanh tanh
#define real_pow  pow
#define real_fabs fabs
#define real_fmax fmax
#define real_fmin fmin
#define real_fma  fma
/* Q(|x|): the normal distribution beyond |x|. */
static inline real real_normal_tail(real x) {
  return 0.5 * erfc(fabs(x) * 0.70710678118654752440);
}
#else
typedef float real;
#define real_exp         ie_expf
#define real_log         logf
#define real_sqrt        sqrtf
#define real_tanh        ie_tanhf
#define real_pow         powf
#define real_fabs        fabsf
#define real_fmax        fmaxf
#define real_fmin        fminf
#define real_fma         fmaf
#define real_normal_tail ie_normal_tail
#endif

#endif
