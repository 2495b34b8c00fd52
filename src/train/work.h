/* The model's own work: what utilisation is counted from, whatever was computed twice. */
#ifndef CLOCHER_TRAIN_WORK_H
#define CLOCHER_TRAIN_WORK_H

#include "models/arch.h"
#include "train/data.h"

/* Operations of one forward of these rows: 2 per multiply-add of the products with matrices (of experts: those that are
 * chosen) and of attention over the keys that each token sees, so that causal attention counts half. */
double ie_model_flop(const ie_model *model, const ie_data_batch *batch);

/* The same of rows * length tokens, each row one sequence. */
double ie_model_flop_rows(const ie_model *model, int64_t rows, int64_t length);

#endif
