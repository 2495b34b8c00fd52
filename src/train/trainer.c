#include "clocher/train.h"

#include "base/clock.h"
#include "base/size.h"
#include "blocks/mxfp4.h"
#include "models/adapter.h"
#include "models/decoder.h"
#include "train/clip.h"
#include "train/data.h"
#include "train/export.h"
#include "train/gradients.h"
#include "train/options.h"
#include "train/schedule.h"
#include "train/snapshot.h"
#include "train/stored.h"
#include "train/work.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct ie_train {
  ie_model *model;
  ie_train_options options;
  ie_gradients *gradients;
  ie_optimiser *optimiser;
  ie_data *data;
  ie_stored *stored; /* the masters while the parameters hold what will be stored; NULL: not yet, or never */
  ie_schedule schedule;
  int64_t step, saved; /* steps done; step of the newest snapshot, -1: none */
  int64_t tokens;
  double elapsed_s;
};

ie_train_options ie_train_options_default(void) {
  return (ie_train_options){.steps = 1,
                            .rows = 1,
                            .rate = 3e-4,
                            .beta1 = 0.9,
                            .beta2 = 0.95,
                            .eps = 1e-8,
                            .weight_decay = 0.1,
                            .clip = 1.0,
                            .step_every = 1,
                            .step_gamma = 0.1,
                            .keep = 2};
}

/* --- Beginning ------------------------------------------------------------------------------------------------ */

static ie_status options_check(const ie_train_options *o, ie_error *error) {
  if (!o->data == !o->data_ids)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "training data: one of text and ids is needed");
  if (o->steps < 1 || o->rows < 1)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "training: %lld steps of %lld rows, expected 1 or more",
                        (long long)o->steps, (long long)o->rows);
  if (!(o->rate >= 0) || !(o->clip >= 0) || !isfinite(o->rate) || !isfinite(o->clip))
    return ie_error_set(error, IE_INVALID_ARGUMENT, "training: learning rate %g, clipping norm %g", o->rate,
                        o->clip);
  if (o->stored_steps < 0 || o->stored_steps > o->steps)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "training: %lld stored steps of %lld",
                        (long long)o->stored_steps, (long long)o->steps);
  return IE_OK;
}

ie_optimiser_group ie_train_group(const ie_model *model, const ie_train_options *o) {
  static const ie_optimiser_kind kinds[] = {[IE_TRAIN_ADAMW] = IE_OPTIMISER_ADAMW,
                                            [IE_TRAIN_MUON] = IE_OPTIMISER_MUON,
                                            [IE_TRAIN_ADAMW8BIT] = IE_OPTIMISER_ADAMW8BIT};
  ie_optimiser_group group = ie_optimiser_group_default(kinds[o->optimiser]);
  group.param = model->params.item;
  group.count = model->params.count;
  if (o->optimiser == IE_TRAIN_MUON) {
    group.muon.weight_decay = o->weight_decay;
    return group;
  }
  group.adamw = (ie_adamw_options){
      .beta1 = o->beta1, .beta2 = o->beta2, .eps = o->eps, .weight_decay = o->weight_decay};
  return group;
}

int64_t ie_train_row_length(const ie_model *model, const ie_train_options *o) {
  return o->length_tok > 0 ? o->length_tok : ie_min_i64(model->info.context_tok, 1024);
}

static ie_data_options data_options(const ie_model *model, const ie_train_options *o) {
  static const ie_data_layout layouts[] = {[IE_TRAIN_STREAM] = IE_DATA_STREAM,
                                           [IE_TRAIN_PACKED] = IE_DATA_PACKED,
                                           [IE_TRAIN_WHOLE] = IE_DATA_WHOLE};
  int64_t length = ie_train_row_length(model, o);
  return (ie_data_options){.path = o->data,
                           .data_ids = o->data_ids,
                           .tokenizer = o->tokenizer,
                           .format = o->format,
                           .cache_dir = o->cache_dir ? o->cache_dir : o->out,
                           .threads = ie_team_size(model->device->team),
                           .progress = o->progress,
                           .user = o->user,
                           .layout = layouts[o->layout],
                           .rows = o->rows,
                           .length = o->data_ids ? o->length_tok : length,
                           .piece_tok = o->layout == IE_TRAIN_PACKED ? length : 0,
                           .seed = o->seed};
}

static ie_status schedule_make(const ie_train_options *o, ie_schedule *out, ie_error *error) {
  static const ie_schedule_kind kinds[] = {[IE_TRAIN_CONSTANT] = IE_SCHEDULE_CONSTANT,
                                           [IE_TRAIN_LINEAR] = IE_SCHEDULE_LINEAR,
                                           [IE_TRAIN_COSINE] = IE_SCHEDULE_COSINE,
                                           [IE_TRAIN_STEP] = IE_SCHEDULE_STEP};
  *out = (ie_schedule){.kind = kinds[o->schedule],
                       .warmup = o->warmup,
                       .total = o->steps,
                       .final_factor = o->final_factor,
                       .every = o->step_every,
                       .gamma = o->step_gamma};
  return ie_schedule_check(out, error);
}

/* The data against the run and the model. */
static ie_status data_check(const ie_train *t, ie_error *error) {
  const ie_train_options *o = &t->options;
  ie_data_info info = ie_data_get_info(t->data);
  if (info.length > t->model->info.context_tok)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "rows of %lld tokens: the model's context is %lld",
                        (long long)info.length, (long long)t->model->info.context_tok);
  if (o->data_ids && info.steps < o->steps)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "%s: it holds %lld steps, %lld were asked for",
                        o->data_ids, (long long)info.steps, (long long)o->steps);
  bool whole = o->layout == IE_TRAIN_WHOLE; /* its rows may be padded: documents count there */
  int64_t found = whole ? info.documents : info.epoch_slots,
          step = whole ? info.rows : info.rows * info.length;
  if (!o->data_ids && found < step)
    return ie_error_set(
        error, IE_INVALID_ARGUMENT,
        "%s: one step takes %lld %s, all of the data are %lld: fewer or shorter rows, or more data", o->data,
        (long long)step, whole ? "documents or more" : "tokens", (long long)found);
  return IE_OK;
}

static ie_status train_resume(ie_train *t, ie_error *error);

ie_status ie_train_new(ie_model *model, const ie_train_options *options, ie_train **out, ie_error *error) {
  *out = NULL;
  ie_status status = options_check(options, error);
  if (status != IE_OK) return status;
  ie_train *t = calloc(1, sizeof *t);
  if (!t) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a training run");
  t->model = model;
  t->options = *options;
  t->saved = -1;
  const ie_data_options data = data_options(model, options);
  const ie_gradients_options gradients = {.recompute = options->recompute};
  const ie_optimiser_group group = ie_train_group(model, options);
  status = schedule_make(options, &t->schedule, error);
  if (status == IE_OK) status = ie_data_open(&data, &t->data, error);
  if (status == IE_OK) status = data_check(t, error);
  if (status == IE_OK) status = ie_gradients_new(model, &gradients, &t->gradients, error);
  if (status == IE_OK) status = ie_optimiser_new(model->device, &group, 1, &t->optimiser, error);
  if (status == IE_OK && options->resume) status = train_resume(t, error);
  if (status != IE_OK) {
    ie_train_free(t);
    return status;
  }
  *out = t;
  return IE_OK;
}

void ie_train_free(ie_train *t) {
  if (!t) return;
  ie_stored_free(t->stored);
  ie_optimiser_free(t->optimiser);
  ie_gradients_free(t->gradients);
  ie_data_free(t->data);
  free(t);
}

int64_t ie_train_position(const ie_train *t) {
  return t->step;
}

/* --- A step ----------------------------------------------------------------------------------------------------- */

/* Rows first .. first + count - 1 of a batch. */
static ie_token_rows batch_rows(const ie_data_batch *b, int64_t first, int64_t count) {
  int64_t at = first * b->length;
  return (ie_token_rows){.tokens = count * b->length,
                         .ids = b->ids + at,
                         .target = b->targets + at,
                         .position = b->position + at,
                         .sequence = b->sequence + at};
}

static ie_status batch_next(ie_train *t, ie_data_batch *b, ie_error *error) {
  ie_status status = ie_data_next(t->data, b, error);
  if (status == IE_OK && b->rows == 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "the data ends after %lld steps, %lld were asked for",
                        (long long)t->step, (long long)t->options.steps);
  if (status == IE_OK && b->global_targets == 0)
    return ie_error_set(error, IE_FORMAT, "step %lld: no token of the batch has a target",
                        (long long)t->step + 1);
  return status;
}

/* Loss and gradients of the global batch. */
static ie_status batch_add(ie_train *t, const ie_data_batch *b, double *loss, ie_error *error) {
  int64_t micro = t->options.micro_rows > 0 ? t->options.micro_rows : b->rows;
  double scale = 1.0 / (double)b->global_targets;
  ie_status status = IE_OK;
  *loss = 0;
  ie_gradients_zero(t->gradients);
  for (int64_t first = 0; first < b->rows && status == IE_OK; first += micro) {
    const ie_token_rows rows = batch_rows(b, first, ie_min_i64(micro, b->rows - first));
    double share = (double)rows.tokens / (double)(b->rows * b->length);
    ie_gradients_balance(t->gradients, t->options.balance * share);
    status = ie_gradients_add(t->gradients, &rows, scale, loss, error);
  }
  return status;
}

static ie_status step_apply(ie_train *t, double norm, ie_error *error) {
  const ie_train_options *o = &t->options;
  double factor = ie_schedule_factor(&t->schedule, t->step);
  const ie_step step = {.rate = o->rate * factor,
                        .number = t->step + 1,
                        .grad_scale = o->clip > 0 ? ie_clip_scale(norm, o->clip) : 1.0f};
  if (t->stored) ie_stored_masters(t->stored);
  ie_optimiser_step(t->optimiser, &step);
  if (t->stored) return ie_stored_values(t->stored, error);
  if (o->stored_steps > 0 && t->step + 1 >= o->steps - o->stored_steps)
    return ie_stored_new(&t->model->params, &t->stored, error);
  return IE_OK;
}

/* Which step it was, and what there is to go on from. */
static ie_status step_failed(const ie_train *t, ie_status status, ie_error *error) {
  if (status != IE_NUMERIC && status != IE_INVALID_ARGUMENT) return status;
  const ie_error what = *error;
  if (status == IE_NUMERIC && t->saved >= 0)
    return ie_error_set(error, status, "step %lld: %s; the newest snapshot is of step %lld",
                        (long long)t->step + 1, what.message, (long long)t->saved);
  return ie_error_set(error, status, "step %lld: %s", (long long)t->step + 1, what.message);
}

ie_status ie_train_step(ie_train *t, ie_train_metrics *out, ie_error *error) {
  *out = (ie_train_metrics){0};
  double start = ie_clock_s();
  ie_data_batch b = {0};
  ie_data_position position = ie_data_get_position(t->data);
  if (t->options.stored_steps == t->options.steps && !t->stored) {
    ie_status made = ie_stored_new(&t->model->params, &t->stored, error);
    if (made != IE_OK) return made;
  }
  ie_status status = batch_next(t, &b, error);
  if (status == IE_OK) status = batch_add(t, &b, &out->loss, error);
  if (status == IE_OK)
    status =
        ie_grad_norm(t->model->device, t->model->params.item, t->model->params.count, &out->grad_norm, error);
  if (status != IE_OK) {
    ie_error ignored = {0};
    if (b.rows > 0) ie_data_seek(t->data, position, &ignored); /* the step was not made */
    return step_failed(t, status, error);
  }
  out->rate = t->options.rate * ie_schedule_factor(&t->schedule, t->step);
  out->flop = ie_model_step_flop(t->model, &b);
  status = step_apply(t, out->grad_norm, error);
  if (status != IE_OK) return status;
  t->step++;
  t->tokens += b.global_targets;
  double took = ie_clock_s() - start;
  t->elapsed_s += took;
  out->step = t->step;
  out->tokens = t->tokens;
  out->step_s = took;
  out->tok_s = took > 0 ? (double)b.global_targets / took : 0;
  out->elapsed_s = t->elapsed_s;
  out->epoch = position.epoch;
  ie_route_report routes;
  ie_gradients_balance_take(t->gradients, &routes);
  out->balance = routes.loss;
  out->idle_experts = routes.idle_share;
  out->expert_min = routes.fewest;
  out->expert_max = routes.most;
  out->expert_mean = routes.mean;
  bool due = t->options.save_every > 0 && t->step % t->options.save_every == 0;
  return due ? ie_train_save(t, error) : IE_OK;
}

ie_status ie_train_evaluate(ie_train *t, ie_train_evaluation *out, bool (*cancelled)(void *arg), void *arg,
                            ie_error *error) {
  *out = (ie_train_evaluation){0};
  if (!t->options.valid) return ie_error_set(error, IE_INVALID_ARGUMENT, "there is no validation data");
  ie_data_options options = data_options(t->model, &t->options);
  options.path = t->options.valid;
  options.data_ids = NULL;
  options.once = true;
  options.piece_tok = 0;
  options.rows = t->options.micro_rows > 0 ? t->options.micro_rows : t->options.rows;
  if (options.length <= 0) options.length = ie_train_row_length(t->model, &t->options);
  ie_data *data;
  ie_status status = ie_data_open(&options, &data, error);
  if (status != IE_OK) return status;
  double sum = 0;
  ie_data_batch b;
  while ((status = ie_data_next(data, &b, error)) == IE_OK && b.rows > 0) {
    const ie_token_rows rows = batch_rows(&b, 0, b.rows);
    if (b.target_count > 0) status = ie_gradients_loss(t->gradients, &rows, /*scale=*/1.0, &sum, error);
    if (status != IE_OK) break;
    out->targets += b.target_count;
    if (cancelled && cancelled(arg)) {
      status = ie_error_set(error, IE_CANCELLED, "cancelled");
      break;
    }
  }
  out->bytes = ie_data_get_info(data).bytes;
  out->loss = out->targets ? sum / (double)out->targets : 0;
  out->bits_per_byte = out->bytes ? sum / 0.69314718055994530942 / (double)out->bytes : 0;
  ie_data_free(data);
  return status;
}

/* --- The folder -------------------------------------------------------------------------------------------------- */

/* What is trained, in its published layout. */
static ie_status model_write(void *user, const char *folder, ie_error *error) {
  ie_train *t = user;
  if (t->options.adapter) return ie_adapter_write(t->options.adapter, folder, error);
  const ie_export_options options = {.dir = folder, .source = t->options.source, .mxfp4 = IE_MXFP4_OCP};
  return ie_export_model(&t->model->params, &options, error);
}

/* Masters and the optimiser's states: what is published is rounded, so a run goes on from these. */
static ie_state_tensor *state_tensors(ie_train *t, size_t *count) {
  size_t states = ie_optimiser_state_count(t->optimiser), params = (size_t)t->model->params.count;
  ie_state_tensor *tensors = calloc(states + params, sizeof *tensors);
  if (!tensors) return NULL;
  for (size_t i = 0; i < states; i++) tensors[i] = ie_optimiser_state_at(t->optimiser, i);
  for (size_t i = 0; i < params; i++) {
    const ie_param *p = t->model->params.item[i];
    ie_state_tensor *tensor = &tensors[states + i];
    *tensor = (ie_state_tensor){.name = p->name, .dtype = IE_F32, .rank = p->rank, .data = p->value};
    for (int d = 0; d < p->rank; d++) tensor->shape[d] = p->shape[d];
  }
  *count = states + params;
  return tensors;
}

/* What a run must have in common with the one that it goes on from. */
static json_t *state_json(const ie_train *t) {
  const ie_train_options *o = &t->options;
  ie_data_position at = ie_data_get_position(t->data);
  return json_pack("{s:I,s:I,s:f,s:{s:I,s:I,s:I},s:{s:i,s:I,s:I,s:I,s:i,s:b,s:I}}", "step",
                   (json_int_t)t->step, "tokens", (json_int_t)t->tokens, "elapsed_s", t->elapsed_s, "data",
                   "epoch", (json_int_t)at.epoch, "document", (json_int_t)at.document, "offset",
                   (json_int_t)at.offset, "run", "optimiser", (int)o->optimiser, "rows", (json_int_t)o->rows,
                   "length", (json_int_t)ie_train_row_length(t->model, o), "seed", (json_int_t)o->seed,
                   "layout", (int)o->layout, "adapter", o->adapter != NULL, "number of tokens in the data",
                   (json_int_t)ie_data_get_info(t->data).tokens);
}

/* What is computed with takes its place again, whatever became of the writing. */
static ie_status stored_again(ie_train *t, ie_status written, ie_error *error) {
  ie_error second = {0};
  ie_status status = ie_stored_values(t->stored, written == IE_OK ? error : &second);
  return written == IE_OK ? status : written;
}

ie_status ie_train_save(ie_train *t, ie_error *error) {
  if (t->saved == t->step) return IE_OK;
  size_t count = 0;
  if (t->stored) ie_stored_masters(t->stored);
  ie_state_tensor *tensors = state_tensors(t, &count);
  json_t *state = state_json(t);
  ie_status status = ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a snapshot");
  if (tensors && state) {
    const ie_snapshot snapshot = {.dir = t->options.out,
                                  .step = t->step,
                                  .keep = t->options.keep,
                                  .write_model = model_write,
                                  .user = t,
                                  .tensors = tensors,
                                  .count = count,
                                  .state = state};
    status = ie_snapshot_save(&snapshot, error);
  }
  json_decref(state);
  free(tensors);
  if (t->stored) status = stored_again(t, status, error);
  if (status == IE_OK) t->saved = t->step;
  return status;
}

static int64_t json_at(const json_t *object, const char *key) {
  return (int64_t)json_integer_value(json_object_get(object, key));
}

/* The snapshot's run against this one: what differs, or NULL. A snapshot of an older program may lack a key. */
static const char *run_differs(const json_t *then, const json_t *now) {
  const json_t *before = json_object_get(then, "run");
  const char *key;
  json_t *value;
  json_object_foreach(json_object_get((json_t *)(uintptr_t)now, "run"), key, value) {
    const json_t *old = json_object_get(before, key);
    if (old && !json_equal(value, old)) return key;
  }
  return NULL;
}

static ie_status resume_from(ie_train *t, const char *path, ie_error *error) {
  size_t count = 0;
  ie_state_tensor *tensors = state_tensors(t, &count);
  json_t *then = NULL, *now = state_json(t);
  ie_status status = tensors && now ? ie_snapshot_load(path, tensors, count, &then, error)
                                    : ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory to resume");
  const char *other = status == IE_OK ? run_differs(then, now) : NULL;
  if (other)
    status = ie_error_set(error, IE_FORMAT, "%s: the run in it had another %s than this one", path, other);
  if (status == IE_OK) {
    t->step = t->saved = json_at(then, "step");
    t->tokens = json_at(then, "tokens");
    t->elapsed_s = json_number_value(json_object_get(then, "elapsed_s"));
    if (t->step > t->options.steps)
      status =
          ie_error_set(error, IE_INVALID_ARGUMENT, "%s: it stands after step %lld, the run is to have %lld",
                       path, (long long)t->step, (long long)t->options.steps);
  }
  if (status == IE_OK) {
    const json_t *data = json_object_get(then, "data");
    const ie_data_position at = {json_at(data, "epoch"), json_at(data, "document"), json_at(data, "offset")};
    status = ie_data_seek(t->data, at, error);
  }
  const ie_train_options *o = &t->options;
  if (status == IE_OK && o->stored_steps > 0 && t->step >= o->steps - o->stored_steps)
    status = ie_stored_new(&t->model->params, &t->stored, error);
  json_decref(then);
  json_decref(now);
  free(tensors);
  return status;
}

static ie_status train_resume(ie_train *t, ie_error *error) {
  char *path;
  ie_status status = ie_snapshot_newest(t->options.out, &path, error);
  if (status == IE_OK && path) status = resume_from(t, path, error);
  free(path);
  return status;
}

ie_status ie_train_finish(ie_train *t, ie_error *error) {
  if (t->stored) ie_stored_masters(t->stored);
  ie_status status = model_write(t, t->options.out, error);
  return t->stored ? stored_again(t, status, error) : status;
}
