/* Muon (Jordan et al. 2024): momentum whose matrix is replaced by the nearest orthogonal one, roughly.
 *
 *   buf = buf + (1 - mu)(g - buf);  u = nesterov ? g + mu (buf - g) : buf
 *   p = p (1 - rate wd) - rate sqrt(max(1, R / K)) orthogonalised(u)
 * orthogonalised: X = u / ||u||_F (the shorter side as rows), then `steps` times with (a, b, c) = (3.4445, -4.7750,
 * 2.0315): A = X X^T, B = b A + (c A) A, X = a X + B X. As in the reference all of this is bfloat16: products have
 * sums in float, and every result is rounded to bfloat16. Of a stack (E, R, K) each matrix is one of its own.
 *
 * R is the output dimension, as values lie in memory (ie_param), not as transformers holds them. */
#ifndef CLOCHER_TRAIN_MUON_H
#define CLOCHER_TRAIN_MUON_H

#include "tensor/device.h"
#include "tensor/param.h"

#include <stdbool.h>

typedef struct ie_muon_options {
  double momentum, weight_decay;
  bool plain; /* no Nesterov */
  int steps;  /* of Newton and Schulz */
} ie_muon_options;

/* True for matrices and stacks of matrices between layers (train/param_class.h); the others are customarily left to
 * AdamW. */
bool ie_muon_takes(const ie_param *param);

/* One step of every matrix of `param`, at learning rate `rate`; buffer: (count) momentum. Scratch comes from ctx's arena
 * and is given back; a dry run measures it (pointers may be NULL), and its sizes must fit a size_t. */
void ie_muon_step(ie_ctx *ctx, const ie_muon_options *options, ie_param *param, real *buffer, double rate,
                  float grad_scale);

#endif
