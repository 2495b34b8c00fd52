/* AdamW (Loshchilov & Hutter 2019) by PyTorch's arithmetic (torch.optim.AdamW, one tensor at a time, CPU):
 *   p = p (1 - lr wd);  m = m + (g - m)(1 - b1);  v = v b2 + (1 - b2) g g
 *   p = p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
 * Factors are computed in double and rounded once; kernels.adamw computes the rest with the fused multiplications of
 * PyTorch's AVX2 and AVX-512 code, so m and v equal PyTorch's to the bit. p may be off by a rounding where PyTorch
 * takes its square root from MKL, which does not always round it correctly. */
#ifndef CLOCHER_TRAIN_ADAMW_H
#define CLOCHER_TRAIN_ADAMW_H

#include "kernels/kern.h"

typedef struct ie_adamw_options {
  double beta1, beta2, eps, weight_decay;
} ie_adamw_options;

/* The numbers of step t >= 1 at learning rate `rate`. */
ie_adamw_args ie_adamw_step_args(const ie_adamw_options *options, double rate, int64_t t, float grad_scale);

#endif
