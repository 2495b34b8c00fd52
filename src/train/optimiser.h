/* Optimisers: what turns gradients into new values, for groups of parameters with settings of their own.
 *
 *   AdamW         train/adamw.h      two states of the value's type an element
 *   8-bit AdamW   train/adamw8bit.h  two bytes an element and two floats a block of 256; small parameters as AdamW
 *   Muon          train/muon.h       one state an element; what is no matrix between layers (ie_muon_takes) as AdamW
 *
 * An optimiser owns its states and borrows device and parameters, which live longer. It allocates nothing after
 * ie_optimiser_new. Results do not depend on the number of threads, nor, but for Muon's products, on the instruction
 * set. It belongs to one thread at a time; the device's team does the work.
 *
 * States are named tensors (adamw.exp_avg.NAME, adamw.exp_avg_sq.NAME, muon.momentum.NAME, adamw8bit.exp_avg.NAME and
 * so on), so that a snapshot (train/snapshot.h)
 * saves and restores them to the bit. The number of the step is the caller's. */
#ifndef CLOCHER_TRAIN_OPTIMISER_H
#define CLOCHER_TRAIN_OPTIMISER_H

#include "clocher/status.h"
#include "tensor/device.h"
#include "tensor/param.h"
#include "train/adamw.h"
#include "train/muon.h"
#include "train/snapshot.h"

#include <stddef.h>
#include <stdint.h>

typedef enum ie_optimiser_kind {
  IE_OPTIMISER_ADAMW,
  IE_OPTIMISER_MUON,
  IE_OPTIMISER_ADAMW8BIT,
  IE_OPTIMISER_COUNT
} ie_optimiser_kind;

/* "adamw", "muon", "adamw8bit". */
const char *ie_optimiser_name(ie_optimiser_kind kind);

/* Parameters with the same settings; begin with ie_optimiser_group_default. */
typedef struct ie_optimiser_group {
  ie_param *const *param; /* (count) with value and grad */
  int64_t count;
  ie_optimiser_kind kind;
  double rate_factor;     /* the group's rate is this times the step's */
  ie_adamw_options adamw; /* also of what Muon leaves to AdamW */
  ie_muon_options muon;
  double rest_factor; /* of Muon: what is left to AdamW has the group's rate times this */
} ie_optimiser_group;

/* No parameters; rate factor 1. AdamW: betas 0.9 and 0.999, eps 1e-8, decay 0.01 (PyTorch's and bitsandbytes'
 * defaults). Muon: momentum 0.95 with Nesterov, 5 steps, no decay; the rest at 0.015 of its rate (as 3e-4 is of
 * 0.02) with betas 0.9 and 0.95, eps 1e-10 and no decay. */
ie_optimiser_group ie_optimiser_group_default(ie_optimiser_kind kind);

typedef struct ie_optimiser ie_optimiser;

/* Bytes of states, and of scratch that is held beside them, before anything is allocated. Values and gradients may
 * still be missing. The errors are those of ie_optimiser_new. */
ie_status ie_optimiser_bytes(ie_device *device, const ie_optimiser_group *groups, int count,
                             size_t *state_bytes, size_t *scratch_bytes, ie_error *error);

/* States of zeros. IE_INVALID_ARGUMENT for a setting out of its range, a parameter without gradient or given twice;
 * IE_OUT_OF_MEMORY. Copies the groups; the arrays of parameters need not outlive the call, the parameters must. */
ie_status ie_optimiser_new(ie_device *device, const ie_optimiser_group *groups, int count, ie_optimiser **out,
                           ie_error *error);
void ie_optimiser_free(ie_optimiser *optimiser);

typedef struct ie_step {
  double rate;      /* learning rate: base rate times the schedule's factor */
  int64_t number;   /* 1 for the first step: the t of the bias corrections */
  float grad_scale; /* gradients are multiplied by it (ie_clip_scale); 0 is 1 */
} ie_step;

/* Changes every value by its gradient, which stays as it is. A gradient that is not finite makes values that are
 * not: ask ie_grad_norm before. */
void ie_optimiser_step(ie_optimiser *optimiser, const ie_step *step);

/* States as tensors, in a fixed order: what a snapshot saves and fills again. Names and data are the optimiser's. */
size_t ie_optimiser_state_count(const ie_optimiser *optimiser);
ie_state_tensor ie_optimiser_state_at(const ie_optimiser *optimiser, size_t i);

#endif
