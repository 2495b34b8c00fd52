/* A model's linear layers by transformers' names, and adapters on them. */
#ifndef CLOCHER_MODELS_ATTACH_H
#define CLOCHER_MODELS_ATTACH_H

#include "models/adapter.h"
#include "models/arch.h"

void ie_linear_list_free(ie_linear_list *list);
/* False when memory is out. The name is copied. */
bool ie_linear_list_add(ie_linear_list *list, const char *name, ie_weight *weight, bool output);

#endif
