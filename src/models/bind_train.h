/* Binding for training: each entry of a model's tables becomes a parameter with a master of its own, decoded from the
 * checkpoint, or made from a seed where there is none; weights and vectors point at the masters. */
#ifndef CLOCHER_MODELS_BIND_TRAIN_H
#define CLOCHER_MODELS_BIND_TRAIN_H

#include "models/bind.h"

/* One entry; name is the published tensor's (of MXFP4 without the suffix), hf the parameter's. */
void ie_bind_trained(ie_binder *binder, const ie_bind_entry *entry, const char *name, const char *hf,
                     void *field);

/* A parameter of that shape without value; the names are copied. NULL when memory is out. */
ie_param *ie_param_list_add(ie_param_list *list, const char *name, const char *tensor, int rank,
                            const int64_t *shape);
void ie_param_list_free(ie_param_list *list);

#endif
