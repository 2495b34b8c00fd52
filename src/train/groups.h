/* The optimiser's groups of a run: its parameters by class (train/param_class.h), with the options' settings and rates. */
#ifndef CLOCHER_TRAIN_GROUPS_H
#define CLOCHER_TRAIN_GROUPS_H

#include "clocher/train.h"
#include "models/arch.h"
#include "train/optimiser.h"
#include "train/param_class.h"

typedef struct ie_train_groups {
  ie_optimiser_group group[IE_PARAM_CLASSES]; /* by class; may be empty */
  ie_param **param;                           /* of all groups; owned */
} ie_train_groups;

ie_optimiser_kind ie_train_kind(const ie_train_options *options);
/* IE_OUT_OF_MEMORY. Owner: ie_train_groups_free. */
ie_status ie_train_groups_make(const ie_model *model, const ie_train_options *options, ie_train_groups *out,
                               ie_error *error);
void ie_train_groups_free(ie_train_groups *groups);
void ie_train_groups_describe(const ie_train_groups *groups, double rate,
                              ie_train_group_plan out[IE_TRAIN_GROUPS]);

#endif
