#include "clocher/train.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/size.h"
#include "blocks/mxfp4.h"
#include "models/adapter.h"
#include "models/decoder.h"
#include "train/clip.h"
#include "train/data.h"
#include "train/export.h"
#include "train/global.h"
#include "train/gradients.h"
#include "train/groups.h"
#include "train/options.h"
#include "train/schedule.h"
#include "train/snapshot.h"
#include "train/stored.h"
#include "train/work.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ie_train {
  ie_model *model;
  ie_train_options options;
  ie_gradients *gradients;
  ie_global *global;
  ie_optimiser *optimiser;
  ie_train_group_plan group[IE_TRAIN_GROUPS];
  ie_data *data, *valid; /* valid: NULL without options.valid */
  ie_stored *stored; /* the masters while the parameters hold what will be stored; NULL: not yet, or never */
  ie_schedule schedule;
  int64_t step, saved; /* steps done; step of the newest snapshot, -1: none */
  int64_t proven;      /* step of the newest snapshot from which a step was made, -1: none */
  int64_t guarded;     /* step of a snapshot that stays, 0: none */
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
  if (!(o->eps > 0) || !isfinite(o->eps))
    return ie_error_set(error, IE_INVALID_ARGUMENT, "training: eps %g, expected more than 0", o->eps);
  if (!(o->rate >= 0) || !(o->clip >= 0) || !isfinite(o->rate) || !isfinite(o->clip))
    return ie_error_set(error, IE_INVALID_ARGUMENT, "training: learning rate %g, clipping norm %g", o->rate,
                        o->clip);
  const double own[] = {o->embedding_rate, o->head_rate, o->scalar_rate};
  for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
    if (!(own[i] >= 0) || !isfinite(own[i]) || (own[i] > 0 && !(o->rate > 0)))
      return ie_error_set(
          error, IE_INVALID_ARGUMENT,
          "training: a group's own learning rate %g beside %g for the others, expected both above 0", own[i],
          o->rate);
  if (o->stored_steps < 0 || o->stored_steps > o->steps)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "training: %lld stored steps of %lld",
                        (long long)o->stored_steps, (long long)o->steps);
  return IE_OK;
}

int64_t ie_train_row_length(const ie_model *model, const ie_train_options *o) {
  return o->length_tok > 0 ? o->length_tok : ie_min_i64(model->info.context_tok, 1024);
}

int64_t ie_train_forward_rows(const ie_train_options *o, int64_t own) {
  if (o->micro_rows > 0) return ie_min_i64(o->micro_rows, own);
  return o->deterministic ? 1 : own; /* shares of a sum whose order is fixed are single rows */
}

static ie_data_options data_options(const ie_model *model, const ie_train_options *o) {
  static const ie_data_layout layouts[] = {[IE_TRAIN_STREAM] = IE_DATA_STREAM,
                                           [IE_TRAIN_PACKED] = IE_DATA_PACKED,
                                           [IE_TRAIN_WHOLE] = IE_DATA_WHOLE};
  int64_t length = ie_train_row_length(model, o);
  bool own = !o->deterministic; /* else a process picks its shares from the rows of all */
  return (ie_data_options){.rank = own ? ie_ranks_rank(o->ranks) : 0,
                           .ranks = own ? ie_ranks_size(o->ranks) : 1,
                           .path = o->data,
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

ie_status ie_train_length_check(const ie_model *model, int64_t length, ie_error *error) {
  if (length <= model->info.context_tok) return IE_OK;
  return ie_error_set(error, IE_INVALID_ARGUMENT, "rows of %lld tokens: the model's context is %lld",
                      (long long)length, (long long)model->info.context_tok);
}

/* The data against the run and the model. */
static ie_status data_check(const ie_train *t, ie_error *error) {
  const ie_train_options *o = &t->options;
  ie_data_info info = ie_data_get_info(t->data);
  ie_status status = ie_train_length_check(t->model, info.length, error);
  if (status != IE_OK) return status;
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

/* The first process tokenises; the others find its file. */
static ie_status data_open(ie_ranks *ranks, const ie_data_options *options, ie_data **out, ie_error *error) {
  bool first = ie_ranks_rank(ranks) == 0;
  *out = NULL;
  ie_status status = first ? ie_data_open(options, out, error) : IE_OK;
  status = ie_ranks_agree(ranks, status, error);
  if (status == IE_OK && !first) status = ie_data_open(options, out, error);
  status = ie_ranks_agree(ranks, status, error);
  if (status == IE_OK) return IE_OK;
  ie_data_free(*out);
  *out = NULL;
  return status;
}

/* What evaluations are made on: opened before the first step, so that a file that cannot be used ends no run later. */
static ie_status valid_open(ie_train *t, ie_error *error) {
  const ie_train_options *o = &t->options;
  ie_data_options options = data_options(t->model, o);
  options.path = o->valid;
  options.data_ids = NULL;
  options.once = true;
  options.text_packed = true; /* all of it is evaluated */
  options.piece_tok = 0;
  int64_t ranks = ie_max_i64(1, options.ranks);
  options.rows = ie_min_i64(o->rows, ranks * ie_train_forward_rows(o, ie_div_up(o->rows, ranks)));
  if (options.length <= 0) options.length = ie_train_row_length(t->model, o);
  return data_open(o->ranks, &options, &t->valid, error);
}

/* All processes have the same parameters, and have made as many steps. */
static ie_status params_check(const ie_train *t, ie_error *error) {
  if (ie_ranks_size(t->options.ranks) == 1) return IE_OK;
  uint8_t digest[IE_SHA256_BYTES];
  struct sha256_ctx hash;
  sha256_init(&hash);
  sha256_update(&hash, sizeof t->step, (const uint8_t *)&t->step);
  for (int64_t i = 0; i < t->model->params.count; i++) {
    const ie_param *p = t->model->params.item[i];
    sha256_update(&hash, (size_t)p->count * sizeof *p->value, (const uint8_t *)p->value);
  }
  sha256_digest(&hash, sizeof digest, digest);
  char what[64];
  snprintf(what, sizeof what, "parameters after step %lld", (long long)t->step);
  return ie_ranks_equal(t->options.ranks, digest, sizeof digest, what, error);
}

static ie_status train_resume(ie_train *t, ie_error *error);

static ie_status parts_make(ie_train *t, ie_error *error) {
  const ie_train_options *o = &t->options;
  const ie_gradients_options gradients = {.recompute = o->recompute};
  ie_train_groups groups;
  const ie_global_options global = {.ranks = o->ranks,
                                    .deterministic = o->deterministic,
                                    .rows = ie_data_get_info(t->data).rows,
                                    .micro_rows = o->micro_rows,
                                    .balance = o->balance};
  ie_device *device = t->model->device;
  ie_status status = ie_train_groups_make(t->model, o, &groups, error);
  if (status == IE_OK) status = ie_gradients_new(t->model, &gradients, &t->gradients, error);
  if (status == IE_OK) status = ie_global_new(t->gradients, device, &global, &t->global, error);
  if (status == IE_OK)
    status = ie_optimiser_new(device, groups.group, IE_PARAM_CLASSES, &t->optimiser, error);
  ie_train_groups_describe(&groups, o->rate, t->group);
  ie_train_groups_free(&groups);
  if (status == IE_OK && o->resume) status = train_resume(t, error);
  return status;
}

ie_status ie_train_new(ie_model *model, const ie_train_options *options, ie_train **out, ie_error *error) {
  *out = NULL;
  ie_status status = options_check(options, error);
  if (status != IE_OK) return status;
  ie_train *t = calloc(1, sizeof *t);
  if (!t) status = ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a training run");
  status = ie_ranks_agree(options->ranks, status, error);
  if (!t || status != IE_OK) {
    free(t);
    return status;
  }
  t->model = model;
  t->options = *options;
  t->saved = t->proven = -1;
  const ie_data_options data = data_options(model, options);
  status = ie_ranks_agree(options->ranks, schedule_make(options, &t->schedule, error), error);
  if (status == IE_OK) status = data_open(options->ranks, &data, &t->data, error);
  if (status == IE_OK) status = data_check(t, error); /* the same in all processes */
  if (status == IE_OK && options->valid) status = valid_open(t, error);
  if (status == IE_OK) status = ie_ranks_agree(options->ranks, parts_make(t, error), error);
  if (status == IE_OK) status = params_check(t, error);
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
  ie_global_free(t->global);
  ie_gradients_free(t->gradients);
  ie_data_free(t->valid);
  ie_data_free(t->data);
  free(t);
}

int64_t ie_train_position(const ie_train *t) {
  return t->step;
}

enum { CHECK_STEPS = 100 }; /* between two checks that the processes have the same parameters */

/* --- A step ----------------------------------------------------------------------------------------------------- */

/* The next batch that has a target. One without any (prompts that fill their rows) is passed over, by all processes
 * alike; after an epoch of them there will be no other. */
static ie_status batch_next(ie_train *t, ie_data_batch *b, ie_error *error) {
  int64_t last =
      ie_data_get_position(t->data).epoch + 1; /* the first epoch that is read from its beginning */
  do {
    if (ie_data_get_position(t->data).epoch > last)
      return ie_error_set(error, IE_FORMAT, "step %lld: no token of the data is a target within its row",
                          (long long)t->step + 1);
    ie_status status = ie_data_next(t->data, b, error);
    if (status != IE_OK) return status;
    if (b->rows == 0)
      return ie_error_set(error, IE_INVALID_ARGUMENT, "the data ends after %lld steps, %lld were asked for",
                          (long long)t->step, (long long)t->options.steps);
  } while (b->global_targets == 0);
  return IE_OK;
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
    return ie_stored_new(&t->model->params, t->model->device->team, &t->stored, error);
  return IE_OK;
}

/* Which step it was, and what there is to go on from. */
static ie_status step_failed(const ie_train *t, ie_status status, ie_error *error) {
  if (status != IE_NUMERIC && status != IE_INVALID_ARGUMENT) return status;
  const ie_error what = *error;
  if (status == IE_NUMERIC && t->saved == t->step && t->proven >= 0 && t->proven < t->saved)
    return ie_error_set(
        error, status,
        "step %lld: %s; the newest snapshot, of step %lld, leads here: without it --resume goes on "
        "from that of step %lld",
        (long long)t->step + 1, what.message, (long long)t->saved, (long long)t->proven);
  if (status == IE_NUMERIC && t->saved >= 0)
    return ie_error_set(error, status, "step %lld: %s; the newest snapshot is of step %lld",
                        (long long)t->step + 1, what.message, (long long)t->saved);
  return ie_error_set(error, status, "step %lld: %s", (long long)t->step + 1, what.message);
}

static ie_status snapshots_rotate(const ie_train *t, ie_error *error) {
  const ie_snapshot snapshot = {
      .dir = t->options.out, .step = t->saved, .keep = t->options.keep, .guarded = t->guarded};
  return t->saved >= 0 ? ie_snapshot_rotate(&snapshot, error) : IE_OK;
}

/* A step was made from the newest snapshot: older ones may go. */
static ie_status snapshot_prove(ie_train *t, ie_error *error) {
  ie_ranks *ranks = t->options.ranks;
  if (t->saved < 0 || t->proven == t->saved) return IE_OK;
  t->proven = t->saved;
  return ie_ranks_agree(ranks, ie_ranks_rank(ranks) == 0 ? snapshots_rotate(t, error) : IE_OK, error);
}

static ie_status norm_get(ie_train *t, double *norm, ie_error *error) {
  const ie_param_list *params = &t->model->params;
  ie_status status = ie_grad_norm(t->model->device, params->item, params->count, norm, error);
  return ie_ranks_agree(t->options.ranks, status, error);
}

ie_status ie_train_step(ie_train *t, ie_train_metrics *out, ie_error *error) {
  *out = (ie_train_metrics){0};
  double start = ie_clock_s();
  ie_data_batch b = {0};
  ie_data_position position = ie_data_get_position(t->data);
  if (t->options.stored_steps == t->options.steps && !t->stored) {
    ie_status made = ie_stored_new(&t->model->params, t->model->device->team, &t->stored, error);
    made = ie_ranks_agree(t->options.ranks, made, error);
    if (made != IE_OK) return made;
  }
  ie_status status = batch_next(t, &b, error);
  if (status == IE_OK) status = ie_global_compute(t->global, &b, &out->loss, error);
  if (status == IE_OK) status = norm_get(t, &out->grad_norm, error);
  if (status != IE_OK) {
    ie_error ignored = {0};
    if (b.rows > 0) ie_data_seek(t->data, position, &ignored); /* the step was not made */
    return step_failed(t, status, error);
  }
  out->rate = t->options.rate * ie_schedule_factor(&t->schedule, t->step);
  out->flop = ie_model_step_flop(t->model, &b);
  if (!t->options.deterministic) status = ie_ranks_sum_doubles(t->options.ranks, &out->flop, 1, error);
  if (status != IE_OK) return status;
  status = ie_ranks_agree(t->options.ranks, step_apply(t, out->grad_norm, error), error);
  if (status != IE_OK) return status;
  status = snapshot_prove(t, error);
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
  out->expert_tokens = routes.chosen;
  out->routers = routes.routers;
  out->experts = routes.experts;
  out->worst_layer = routes.worst_layer;
  out->worst_idle = routes.worst_idle;
  bool due = t->options.save_every > 0 && t->step % t->options.save_every == 0;
  if (due) return ie_train_save(t, error);
  return t->step % CHECK_STEPS == 0 ? params_check(t, error) : IE_OK;
}

typedef struct evaluation {
  double sum; /* of the losses */
  double targets;
  double bytes; /* whose text the targets are; 0 where they are not all of it */
} evaluation;

/* Of the rows of this process, from the first on. */
static ie_status rows_evaluate(ie_train *t, bool (*cancelled)(void *arg), void *arg, evaluation *e,
                               ie_error *error) {
  ie_data_batch b;
  ie_status status = ie_data_seek(t->valid, (ie_data_position){0}, error);
  while (status == IE_OK && (status = ie_data_next(t->valid, &b, error)) == IE_OK && b.rows > 0) {
    const ie_token_rows rows = ie_data_rows(&b, 0, b.rows);
    if (b.target_count > 0) status = ie_gradients_loss(t->gradients, &rows, /*scale=*/1.0, &e->sum, error);
    if (status != IE_OK) break;
    e->targets += (double)b.target_count;
    if (cancelled && cancelled(arg)) return ie_error_set(error, IE_CANCELLED, "cancelled");
  }
  return status;
}

ie_status ie_train_evaluate(ie_train *t, ie_train_evaluation *out, bool (*cancelled)(void *arg), void *arg,
                            ie_error *error) {
  *out = (ie_train_evaluation){0};
  if (!t->valid) return ie_error_set(error, IE_INVALID_ARGUMENT, "there is no validation data");
  ie_ranks *ranks = t->options.ranks;
  evaluation e = {0};
  ie_status status = IE_OK;
  /* Deterministic: one process adds everything up, in the order of the rows. */
  bool first = ie_ranks_rank(ranks) == 0;
  const ie_data_info info = ie_data_get_info(t->valid);
  if (first && !info.masked && info.cut_tokens == 0) e.bytes = (double)info.target_bytes;
  if (first || !t->options.deterministic) status = rows_evaluate(t, cancelled, arg, &e, error);
  status = ie_ranks_agree(ranks, status, error);
  double sums[] = {e.sum, e.targets, e.bytes};
  if (status == IE_OK) status = ie_ranks_sum_doubles(ranks, sums, 3, error);
  if (status != IE_OK) return status;
  out->targets = (int64_t)sums[1];
  out->bytes = (int64_t)sums[2];
  out->loss = out->targets ? sums[0] / sums[1] : 0;
  out->bits_per_byte = out->bytes ? sums[0] / 0.69314718055994530942 / sums[2] : 0;
  return IE_OK;
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

/* What a run must have in common with the one that it goes on from. A key is what the message calls it. */
static json_t *run_json(const ie_train *t) {
  static const char *const layouts[] = {
      [IE_TRAIN_STREAM] = "stream", [IE_TRAIN_PACKED] = "packed", [IE_TRAIN_WHOLE] = "whole"};
  const ie_train_options *o = &t->options;
  const ie_data_info data = ie_data_get_info(t->data);
  const ie_adapter_config *adapter = o->adapter ? &o->adapter->config : NULL;
  char config[2 * IE_SHA256_BYTES + 1], checksum[24];
  ie_sha256_hex(t->model->config_digest, config);
  snprintf(checksum, sizeof checksum, "%016llx", (unsigned long long)data.checksum);
  return json_pack("{s:s,s:I,s:I,s:I,s:s,s:b,s:I,s:f,s:I,s:s,s:s,s:s,s:f}", "optimiser",
                   ie_optimiser_name(ie_train_kind(o)), "rows", (json_int_t)o->rows, "length",
                   (json_int_t)ie_train_row_length(t->model, o), "seed", (json_int_t)o->seed, "layout",
                   layouts[o->layout], "adapter", adapter != NULL, "adapter's r",
                   (json_int_t)(adapter ? adapter->r : 0), "adapter's alpha", adapter ? adapter->alpha : 0.0,
                   "number of tokens in the data", (json_int_t)data.tokens, "content of the data", checksum,
                   "config.json", config, "precision", ie_precision_name(t->model->info.precision), "balance",
                   o->balance);
}

static json_t *state_json(const ie_train *t) {
  ie_data_position at = ie_data_get_position(t->data);
  json_t *run = run_json(t);
  return run ? json_pack("{s:I,s:I,s:I,s:f,s:{s:I,s:I,s:I},s:o}", "step", (json_int_t)t->step, "guarded",
                         (json_int_t)t->guarded, "tokens", (json_int_t)t->tokens, "elapsed_s", t->elapsed_s,
                         "data", "epoch", (json_int_t)at.epoch, "document", (json_int_t)at.document, "offset",
                         (json_int_t)at.offset, "run", run)
             : NULL;
}

/* What is computed with takes its place again, whatever became of the writing. */
static ie_status stored_again(ie_train *t, ie_status written, ie_error *error) {
  ie_error second = {0};
  ie_status status = ie_stored_values(t->stored, written == IE_OK ? error : &second);
  return written == IE_OK ? status : written;
}

static ie_status snapshot_write(ie_train *t, ie_error *error) {
  size_t count = 0;
  if (t->stored) ie_stored_masters(t->stored);
  ie_state_tensor *tensors = state_tensors(t, &count);
  json_t *state = state_json(t);
  ie_status status = ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a snapshot");
  if (tensors && state) {
    const ie_snapshot snapshot = {.dir = t->options.out,
                                  .step = t->step,
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
  return status;
}

ie_status ie_train_save(ie_train *t, ie_error *error) {
  if (t->saved == t->step) return IE_OK;
  ie_ranks *ranks = t->options.ranks;
  ie_status status = params_check(t, error);
  if (status != IE_OK) return status;
  if (ie_ranks_rank(ranks) == 0) status = snapshot_write(t, error);
  status = ie_ranks_agree(ranks, status, error);
  if (status == IE_OK) t->saved = t->step;
  return status;
}

ie_train_data ie_train_data_get(const ie_train *t) {
  const ie_data_info info = ie_data_get_info(t->data);
  return (ie_train_data){info.documents, info.tokens, info.cut_documents, info.cut_tokens,
                         t->options.layout == IE_TRAIN_PACKED ? 0 : info.silent_pieces};
}

const ie_train_group_plan *ie_train_group_plans(const ie_train *t) {
  return t->group;
}

int64_t ie_train_guard(ie_train *t) {
  if (t->saved <= 0) return -1;
  return t->guarded = t->saved;
}

static int64_t json_at(const json_t *object, const char *key) {
  return (int64_t)json_integer_value(json_object_get(object, key));
}

/* A key in words, with the flag of `clocher train` where that has another name. */
static const char *key_words(const char *key) {
  static const char *const words[][2] = {{"optimiser", "optimiser (--optimizer)"},
                                         {"rows", "rows of a step (--batch)"},
                                         {"length", "tokens of a row (--seq)"}};
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
    if (strcmp(key, words[i][0]) == 0) return words[i][1];
  return key;
}

static ie_status run_differs(const char *path, const char *key, const json_t *then, const json_t *now,
                             ie_error *error) {
  char *had = json_dumps(then, JSON_ENCODE_ANY), *has = json_dumps(now, JSON_ENCODE_ANY);
  ie_status status = ie_error_set(error, IE_INVALID_ARGUMENT, "%s: the run in it had %s %s, this one has %s",
                                  path, key_words(key), had ? had : "another", has ? has : "this");
  free(had);
  free(has);
  return status;
}

/* The snapshot's run against this one. A snapshot of an older program may lack a key. */
static ie_status run_compare(const ie_train *t, const json_t *then, const char *path, ie_error *error) {
  json_t *now = run_json(t), *value;
  if (!now) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory to resume");
  const json_t *before = json_object_get(then, "run");
  const char *key;
  ie_status status = IE_OK;
  json_object_foreach(now, key, value) {
    const json_t *old = json_object_get(before, key);
    if (status == IE_OK && old && !json_equal(value, old)) status = run_differs(path, key, old, value, error);
  }
  json_decref(now);
  int64_t step = json_at(then, "step");
  if (status == IE_OK && step > t->options.steps)
    status =
        ie_error_set(error, IE_INVALID_ARGUMENT, "%s: it stands after step %lld, the run is to have %lld",
                     path, (long long)step, (long long)t->options.steps);
  return status;
}

/* The snapshot's tensors and place; it is a state of this run. */
static ie_status state_take(ie_train *t, const char *path, ie_error *error) {
  size_t count = 0;
  json_t *then = NULL;
  ie_state_tensor *tensors = state_tensors(t, &count);
  ie_status status = tensors ? ie_snapshot_load(path, tensors, count, &then, error)
                             : ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory to resume");
  free(tensors);
  if (status != IE_OK) return status;
  t->step = t->saved = json_at(then, "step");
  t->tokens = json_at(then, "tokens");
  t->guarded = json_at(then, "guarded");
  t->elapsed_s = json_number_value(json_object_get(then, "elapsed_s"));
  const json_t *data = json_object_get(then, "data");
  const ie_data_position at = {json_at(data, "epoch"), json_at(data, "document"), json_at(data, "offset")};
  json_decref(then);
  return ie_data_seek(t->data, at, error);
}

static ie_status resume_from(ie_train *t, const char *path, ie_error *error) {
  json_t *then;
  ie_status status = ie_snapshot_state(path, &then, error);
  if (status == IE_OK) status = run_compare(t, then, path, error);
  json_decref(then);
  if (status == IE_OK) status = state_take(t, path, error);
  const ie_train_options *o = &t->options;
  if (status == IE_OK && o->stored_steps > 0 && t->step >= o->steps - o->stored_steps)
    status = ie_stored_new(&t->model->params, t->model->device->team, &t->stored, error);
  return status;
}

static ie_status train_resume(ie_train *t, ie_error *error) {
  char *path;
  ie_status status = ie_snapshot_newest(t->options.out, &path, error);
  if (status == IE_OK && path) status = resume_from(t, path, error);
  if (status == IE_FORMAT && error) {
    const ie_error what = *error;
    status = ie_error_set(error, status,
                          "%s; without that folder --resume goes on from an older snapshot, if there is one",
                          what.message);
  }
  free(path);
  return status;
}

ie_status ie_train_finish(ie_train *t, ie_error *error) {
  ie_ranks *ranks = t->options.ranks;
  ie_status status = params_check(t, error);
  if (status != IE_OK) return status;
  if (ie_ranks_rank(ranks) == 0) {
    if (t->stored) ie_stored_masters(t->stored);
    status = model_write(t, t->options.out, error);
    if (t->stored) status = stored_again(t, status, error);
    if (status == IE_OK) status = snapshots_rotate(t, error);
  }
  return ie_ranks_agree(ranks, status, error);
}
