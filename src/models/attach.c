/* Adapters on a model's weights. */
#include "models/attach.h"

#include "base/buf.h"
#include "models/bind_train.h"
#include "models/hold.h"

#include <stdlib.h>
#include <string.h>

void ie_linear_list_free(ie_linear_list *list) {
  for (size_t i = 0; i < list->count; i++) free(list->item[i].name);
  free(list->item);
  *list = (ie_linear_list){0};
}

bool ie_linear_list_add(ie_linear_list *list, const char *name, ie_weight *weight, bool output) {
  if (list->count == list->capacity) {
    size_t capacity = list->capacity ? 2 * list->capacity : 64;
    ie_linear *item = realloc(list->item, capacity * sizeof *item);
    if (!item) return false;
    list->item = item;
    list->capacity = capacity;
  }
  char *copy = strdup(name);
  if (!copy) return false;
  list->item[list->count++] = (ie_linear){copy, weight, output};
  return true;
}

static const ie_linear *linear_find(const ie_model *model, const char *name) {
  for (size_t i = 0; i < model->linears.count; i++)
    if (!strcmp(model->linears.item[i].name, name)) return &model->linears.item[i];
  return NULL;
}

static bool linear_shape(void *user, const char *target, int64_t *rows, int64_t *cols) {
  const ie_linear *linear = linear_find(user, target);
  if (!linear) return false;
  *rows = linear->weight->rows;
  *cols = linear->weight->cols;
  return true;
}

/* One factor (rows, cols) as a weight; trained: a parameter under PEFT's name, whose master is the adapter's array. */
static ie_status factor_make(ie_model *model, const ie_lora *lora, char which, bool train, ie_weight *w,
                             ie_error *error) {
  const int64_t shape[2] = {which == 'A' ? lora->r : lora->rows, which == 'A' ? lora->cols : lora->r};
  float *value = which == 'A' ? lora->a : lora->b;
  *w = (ie_weight){.name = lora->target,
                   .format = IE_W_F32,
                   .experts = 1,
                   .rows = shape[0],
                   .cols = shape[1],
                   .part = {(const uint8_t *)value},
                   .row_bytes = {(size_t)shape[1] * sizeof *value},
                   .exact = true};
  ie_weight_choose(w, &model->device->kernels, IE_CLASS_F32);
  if (model->info.deterministic) w->many = NULL;
  if (!train) return IE_OK;
  ie_buf name = {0};
  int module = (int)strlen(lora->target) - (int)strlen(".weight");
  ie_param *p = NULL;
  if (ie_buf_printf(&name, "base_model.model.%.*s.lora_%c.weight", module, lora->target, which))
    p = ie_param_list_add(&model->params, name.data, name.data, /*rank=*/2, shape);
  ie_buf_free(&name);
  if (!p) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for a parameter", lora->target);
  p->value = (real *)(void *)value;
  p->store.dtype = IE_F32;
  w->param = p;
  return IE_OK;
}

ie_status ie_model_attach(ie_model *model, ie_adapter *adapter, bool train, ie_error *error) {
  size_t count = ie_adapter_count(adapter);
  if (train && model->device->memory)
    return ie_error_set(error, IE_UNSUPPORTED, "device %s: training is not built there; --device cpu has it",
                        model->device->kind);
  if (model->low_rank)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "%s: the model has an adapter already", model->info.dir);
  ie_status status = ie_adapter_check(adapter, linear_shape, model, error);
  if (status != IE_OK) return status;
  model->low_rank = calloc(count ? count : 1, sizeof *model->low_rank);
  if (!model->low_rank) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for an adapter");
  for (size_t i = 0; i < count; i++) {
    const ie_lora *lora = ie_adapter_at(adapter, i);
    ie_low_rank *low = &model->low_rank[i];
    low->scale = (float)lora->scale;
    status = factor_make(model, lora, 'A', train, &low->a, error);
    if (status == IE_OK) status = factor_make(model, lora, 'B', train, &low->b, error);
    if (status != IE_OK) return status;
    linear_find(model, lora->target)->weight->low_rank = low;
  }
  return ie_model_hold_adapter(model, count, error);
}
