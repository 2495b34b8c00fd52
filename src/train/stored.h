/* Training with the parameters as they will be stored: products read what the published types hold (bf16, MXFP4 ...),
 * gradients go to the f32 masters straight through (Bengio et al. 2013), so that what is written is what was trained. */
#ifndef CLOCHER_TRAIN_STORED_H
#define CLOCHER_TRAIN_STORED_H

#include "base/team.h"
#include "tensor/param.h"

typedef struct ie_stored ie_stored;

/* Keeps the masters aside; every value becomes what would be stored of it. Borrows list and team. */
ie_status ie_stored_new(const ie_param_list *params, ie_team *team, ie_stored **out, ie_error *error);
void ie_stored_free(ie_stored *stored);
/* The values are the masters: for a step of the optimiser, and to be written. */
void ie_stored_masters(ie_stored *stored);
/* The values, masters by now, are kept aside again and rounded. IE_NUMERIC names what cannot be stored. */
ie_status ie_stored_values(ie_stored *stored, ie_error *error);

#endif
