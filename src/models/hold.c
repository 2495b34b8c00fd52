/* A model's weights on a device with memory of its own. */
#include "models/hold.h"

#include "models/decoder.h"
#include "tensor/device_memory.h"
#include "tensor/quantise.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct range_list {
  ie_host_range *item;
  size_t count;
} range_list;

static void range_add(range_list *list, const void *data, size_t bytes) {
  if (data && bytes > 0) list->item[list->count++] = (ie_host_range){data, bytes};
}

static size_t owned_count(const ie_model *model) {
  size_t n = 0;
  for (const ie_owned *owned = model->owned; owned; owned = owned->next) n++;
  return n;
}

/* Bytes that dense matrices would take in `format` instead of what they take now. */
static size_t dense_saved(const ie_model *model, ie_wformat format) {
  size_t now = 0, then = 0;
  for (size_t i = 0; i < model->linears.count; i++) {
    const ie_weight *w = model->linears.item[i].weight;
    now += (size_t)w->rows * (w->row_bytes[0] + w->row_bytes[1]);
    then += ie_quantised_bytes(format, w->rows, w->cols);
  }
  return now > then ? now - then : 0;
}

/* Adds to the error of a device that is full what would fit. */
static void hint_add(const ie_model *model, size_t bytes, ie_error *error) {
  size_t room, total;
  if (!error) return;
  model->device->memory->room(model->device, &room, &total);
  if (bytes <= room) return; /* it is the host that lacks memory */
  bool published = model->info.dense_weights == IE_WEIGHTS_PUBLISHED;
  const char *flag = "--device cpu";
  if (published && bytes - dense_saved(model, IE_W_INT4) <= room) flag = "--weights int4";
  if (published && bytes - dense_saved(model, IE_W_INT8) <= room) flag = "--weights int8";
  size_t at = strlen(error->message);
  snprintf(error->message + at, sizeof error->message - at, "; %s would fit", flag);
}

ie_status ie_model_hold(ie_model *model, ie_error *error) {
  ie_device *device = model->device;
  if (!device->memory || model->plan_only) return IE_OK;
  size_t tensors = ie_checkpoint_count(model->checkpoint), bytes = 0;
  range_list list = {.item = calloc(tensors + owned_count(model) + 1, sizeof *list.item)};
  if (!list.item) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu tensors", tensors);
  for (size_t i = 0; i < tensors; i++) {
    const ie_tensor_info *t = ie_checkpoint_at(model->checkpoint, i);
    if (model->bound[i]) range_add(&list, t->data, t->bytes);
  }
  for (const ie_owned *owned = model->owned; owned; owned = owned->next)
    range_add(&list, owned->memory, owned->bytes);
  const ie_rope *rope = &((const ie_decoder *)model->net)->rope;
  range_add(&list, rope->inv_freq, (size_t)rope->half * sizeof *rope->inv_freq);
  for (size_t i = 0; i < list.count; i++) bytes += list.item[i].bytes;
  ie_error own = {0};
  ie_status status = device->memory->hold(device, model, list.item, list.count, &own);
  free(list.item);
  if (status == IE_OUT_OF_MEMORY) hint_add(model, bytes, &own);
  return status == IE_OK ? IE_OK : ie_error_set(error, status, "%s", own.message);
}

ie_status ie_model_hold_adapter(ie_model *model, size_t count, ie_error *error) {
  ie_device *device = model->device;
  if (!device->memory || model->plan_only) return IE_OK;
  range_list list = {.item = calloc(2 * count + 1, sizeof *list.item)};
  if (!list.item) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for an adapter");
  for (size_t i = 0; i < count; i++) {
    const ie_weight *w[2] = {&model->low_rank[i].a, &model->low_rank[i].b};
    for (int k = 0; k < 2; k++) range_add(&list, w[k]->part[0], (size_t)w[k]->rows * w[k]->row_bytes[0]);
  }
  ie_status status = device->memory->hold(device, model, list.item, list.count, error);
  free(list.item);
  return status;
}

void ie_model_drop(ie_model *model) {
  if (model->device && model->device->memory) model->device->memory->drop(model->device, model);
}
