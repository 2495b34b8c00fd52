/* What follows from a run's options; shared by the run and its plan. */
#ifndef CLOCHER_TRAIN_OPTIONS_H
#define CLOCHER_TRAIN_OPTIONS_H

#include "clocher/train.h"
#include "models/arch.h"

/* Tokens of a row. */
int64_t ie_train_row_length(const ie_model *model, const ie_train_options *options);
/* IE_INVALID_ARGUMENT: rows of so many tokens do not fit the model's context. */
ie_status ie_train_length_check(const ie_model *model, int64_t length, ie_error *error);
/* Rows of one forward of a process that has so many rows of a step. */
int64_t ie_train_forward_rows(const ie_train_options *options, int64_t own);

#endif
