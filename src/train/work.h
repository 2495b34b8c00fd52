/* The model's own work: what utilisation is counted from, whatever was computed twice. */
#ifndef CLOCHER_TRAIN_WORK_H
#define CLOCHER_TRAIN_WORK_H

#include "models/arch.h"
#include "train/data.h"

/* Operations of one step over these rows: 2 per multiply-add of the products with matrices (of experts: those that are
 * chosen) and of attention over the keys that each token sees, so that causal attention counts half; the backward is as
 * much again for its inputs, and once more for the weights that are trained. */
double ie_model_step_flop(const ie_model *model, const ie_data_batch *batch);

/* The same of rows * length tokens, each row one sequence. */
double ie_model_step_flop_rows(const ie_model *model, int64_t rows, int64_t length);

#endif
