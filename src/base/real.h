/* The floating type of forward and backward passes: float, and double in the build that checks gradients
 * (mk/double.mk), which compiles scalar kernels, launchers, operations and models a second time from the same source.
 * Numbers in files are of their own types and never `real`. */
#ifndef CLOCHER_BASE_REAL_H
#define CLOCHER_BASE_REAL_H

#include <math.h>

#ifdef IE_REAL_DOUBLE
typedef double real;
#define real_exp  exp
#define real_log  log
#define real_sqrt sqrt
#define real_tanh tanh
#define real_erf  erf
#define real_pow  pow
#define real_fabs fabs
#define real_fmax fmax
#define real_fmin fmin
#else
typedef float real;
#define real_exp  expf
#define real_log  logf
#define real_sqrt sqrtf
#define real_tanh tanhf
#define real_erf  erff
#define real_pow  powf
#define real_fabs fabsf
#define real_fmax fmaxf
#define real_fmin fminf
#endif

#endif
