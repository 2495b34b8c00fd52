/* The norm of all gradients, and clipping by it: torch.nn.utils.clip_grad_norm_.
 *
 * The sum of squares is taken in double over fixed pieces of each gradient, piece sums in the parameters' order, so
 * it depends on neither threads nor instruction set. Gradients of NULL count as absent. */
#ifndef CLOCHER_TRAIN_CLIP_H
#define CLOCHER_TRAIN_CLIP_H

#include "clocher/status.h"
#include "tensor/device.h"
#include "tensor/param.h"

/* *norm = the square root of the sum of all squares, also when it is not finite: then IE_NUMERIC, and the message
 * names the first parameter with a gradient that is no finite number and where it stands. */
ie_status ie_grad_norm(ie_device *device, ie_param *const *param, int64_t count, double *norm,
                       ie_error *error);

/* What gradients are to be multiplied by so that their norm is at most max_norm: max_norm / (norm + 1e-6) where that
 * is below 1, else 1; in float, by PyTorch's operations. To be passed on as ie_step.grad_scale, which saves a pass. */
float ie_clip_scale(double norm, double max_norm);

#endif
