/* A model's weights on a device with memory of its own (tensor/device_memory.h): all that its kernels read is copied
 * there when the model is opened. On the CPU these do nothing. */
#ifndef CLOCHER_MODELS_HOLD_H
#define CLOCHER_MODELS_HOLD_H

#include "models/arch.h"

/* Tensors that are computed where they lie, matrices made at load, frequencies. IE_OUT_OF_MEMORY says what would fit. */
ie_status ie_model_hold(ie_model *model, ie_error *error);
/* The factors of model->low_rank (count). */
ie_status ie_model_hold_adapter(ie_model *model, size_t count, ie_error *error);
/* Gives back both. */
void ie_model_drop(ie_model *model);

#endif
