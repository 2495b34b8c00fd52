/* Learning-rate schedules: the factor on the base rate as a function of the step, counted from 0 (the first step has
 * number 0). A warm-up over `warmup` steps rises linearly from 0, so its first step has rate 0, as in transformers.
 * After it, with s steps past the warm-up and S = total - warmup of them in all:
 *   constant  1
 *   linear    (S - s) / S
 *   cosine    (1 + cos(pi s / S)) / 2, half a period
 *   step      gamma^floor(s / every), PyTorch's StepLR
 * linear and cosine end at `final_factor` instead of 0: f + (1 - f) factor (transformers' cosine_with_min_lr); step
 * does not fall below it. Steps at and past `total` keep the last value.
 *
 * constant, linear and cosine are transformers' get_*_schedule_with_warmup to the last bit of a double.
 * Plain values: any thread. */
#ifndef CLOCHER_TRAIN_SCHEDULE_H
#define CLOCHER_TRAIN_SCHEDULE_H

#include "clocher/status.h"

#include <stdint.h>

typedef enum ie_schedule_kind {
  IE_SCHEDULE_CONSTANT,
  IE_SCHEDULE_LINEAR,
  IE_SCHEDULE_COSINE,
  IE_SCHEDULE_STEP,
  IE_SCHEDULE_COUNT
} ie_schedule_kind;

typedef struct ie_schedule {
  ie_schedule_kind kind;
  int64_t warmup;      /* steps; 0: none */
  int64_t total;       /* steps with the warm-up; read by linear and cosine */
  double final_factor; /* 0 to 1 */
  int64_t every;       /* of step: steps between two falls, at least 1 */
  double gamma;        /* of step: what the rate is multiplied by, above 0 and at most 1 */
} ie_schedule;

/* "constant", "linear", "cosine", "step". */
const char *ie_schedule_name(ie_schedule_kind kind);

/* IE_INVALID_ARGUMENT with the number that is out of its range. */
ie_status ie_schedule_check(const ie_schedule *schedule, ie_error *error);

/* The factor of a step >= 0, of a schedule that was checked. */
double ie_schedule_factor(const ie_schedule *schedule, int64_t step);

#endif
