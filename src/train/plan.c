/* What a run takes before it is begun, and the adapter that it may begin with. */
#include "clocher/train.h"

#include "base/size.h"
#include "clocher/tensor.h"
#include "models/adapter.h"
#include "models/decoder.h"
#include "train/data.h"
#include "train/global.h"
#include "train/gradients.h"
#include "train/groups.h"
#include "train/options.h"
#include "train/work.h"

#include <stdlib.h>
#include <string.h>

enum { OTHER_BYTES = 6 << 20 }; /* program, libraries, stacks: what the dry run does not see */

/* Bytes of activations for one forward of such rows. */
static ie_status activations(ie_model *model, bool recompute, int64_t rows, int64_t length, size_t *bytes,
                             ie_error *error) {
  int64_t T = rows * length;
  int32_t *memory = calloc((size_t)T * 2 + 1, sizeof *memory);
  if (!memory) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a plan");
  for (int64_t t = 0; t < T; t++) {
    memory[t] = (int32_t)(t % length);
    memory[T + t] = (int32_t)(t / length);
  }
  int32_t *ids = calloc((size_t)T + 1, sizeof *ids);
  ie_gradients *g = NULL;
  const ie_gradients_options options = {.recompute = recompute};
  ie_status status = ids ? ie_gradients_new(model, &options, &g, error)
                         : ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a plan");
  const ie_token_rows batch = {
      .tokens = T, .ids = ids, .target = ids, .position = memory, .sequence = memory + T};
  if (status == IE_OK) status = ie_gradients_measure(g, &batch, bytes, error);
  ie_gradients_free(g);
  free(ids);
  free(memory);
  return status;
}

/* Tokens of a row; a file of ids has its own. */
static ie_status length_find(const ie_model *model, const ie_train_options *o, int64_t *length,
                             ie_error *error) {
  *length = ie_train_row_length(model, o);
  if (o->data_ids) {
    ie_tensor_file *file;
    const ie_tensor_info *t;
    ie_status status = ie_data_ids_open(o->data_ids, o->rows, o->length_tok, &file, &t, error);
    if (status != IE_OK) return status;
    *length = t->shape[2];
    ie_tensor_file_free(file);
  }
  return ie_train_length_check(model, *length, error);
}

ie_status ie_train_plan_make(ie_model *model, const ie_train_options *o, ie_train_plan *out,
                             ie_error *error) {
  *out = (ie_train_plan){0};
  int64_t length;
  size_t places = 0;
  ie_status status = length_find(model, o, &length, error);
  if (status == IE_OK) status = ie_data_places(o->rows, length, &places, error);
  if (status != IE_OK) return status;
  int64_t own = ie_div_up(o->rows, ie_ranks_size(o->ranks)); /* rows of this process */
  int64_t micro = ie_train_forward_rows(o, own);
  ie_train_groups groups;
  size_t scratch;
  status = ie_train_groups_make(model, o, &groups, error);
  if (status == IE_OK)
    status = ie_optimiser_bytes(model->device, groups.group, IE_PARAM_CLASSES, &out->states, &scratch, error);
  if (status == IE_OK) ie_train_groups_describe(&groups, o->rate, out->group);
  ie_train_groups_free(&groups);
  if (status == IE_OK) status = activations(model, o->recompute, micro, length, &out->activations, error);
  if (status != IE_OK) return status;
  for (int64_t i = 0; i < model->params.count; i++) out->parameters += model->params.item[i]->count;
  out->values = (size_t)out->parameters * sizeof(real);
  out->gradients = out->values;
  if (o->deterministic)
    out->gradients *= 1 + (size_t)ie_global_levels(ie_global_shares(o->rows, o->micro_rows));
  out->states += scratch;
  if (o->stored_steps > 0) out->states += out->values;
  size_t copies = o->layout == IE_TRAIN_WHOLE ? 9 : 5; /* rows with padding are packed into others */
  out->data = places * copies * sizeof(int32_t);
  out->row_tokens = length;
  out->other = OTHER_BYTES;
  if (o->adapter) out->other += model->info.weights_bytes; /* the frozen model, where it is mapped */
  out->peak = out->values + out->gradients + out->states + out->activations + out->data + out->other;
  out->flop_per_step = ie_model_step_flop_rows(model, o->rows, length);
  return IE_OK;
}

ie_status ie_adapter_for_model(const ie_model *model, const ie_lora_options *options, ie_adapter **out,
                               ie_error *error) {
  *out = NULL;
  size_t count = model->linears.count;
  ie_adapter_weight *weights = calloc(count + 1, sizeof *weights);
  if (!weights) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for an adapter");
  for (size_t i = 0; i < count; i++) {
    const ie_linear *l = &model->linears.item[i];
    weights[i] = (ie_adapter_weight){l->name, l->weight->rows, l->weight->cols, l->output};
  }
  const ie_adapter_options o = {.r = options->r,
                                .alpha = options->alpha,
                                .targets = options->targets,
                                .target_count = options->target_count,
                                .base_model = options->base_model,
                                .seed = options->seed};
  ie_status status = ie_adapter_create(&o, weights, count, out, error);
  free(weights);
  return status;
}
