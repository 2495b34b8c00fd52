#include "train/adamw.h"

#include <math.h>

ie_adamw_args ie_adamw_step_args(const ie_adamw_options *o, double rate, int64_t t, float grad_scale) {
  const float weight = (float)(1 - o->beta1);
  const bool towards = !(weight < 0.5f); /* PyTorch's lerp starts from the nearer end */
  return (ie_adamw_args){.grad_scale = grad_scale,
                         .decay = (float)(1 - rate * o->weight_decay),
                         .weight1 = towards ? weight - 1.0f : weight,
                         .towards = towards,
                         .beta2 = (float)o->beta2,
                         .weight2 = (float)(1 - o->beta2),
                         .root2 = (float)sqrt(1 - pow(o->beta2, (double)t)),
                         .eps = (float)o->eps,
                         .step_size = (float)(-rate / (1 - pow(o->beta1, (double)t)))};
}
