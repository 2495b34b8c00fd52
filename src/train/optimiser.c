#include "train/optimiser.h"

#include "base/buf.h"
#include "base/pages.h"
#include "base/size.h"
#include "train/adamw8bit.h"
#include "train/pieces.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATES_MAX = 4 };

static const ie_dtype real_dtype = sizeof(real) == 4 ? IE_F32 : IE_F64;

/* One parameter and its states. */
typedef struct entry {
  ie_param *param;
  ie_optimiser_kind kind; /* of this parameter */
  double rate_factor;
  ie_adamw_options adamw;
  ie_muon_options muon;
  int states;
  ie_state_tensor state[STATES_MAX]; /* names and data owned */
  /* of the step that runs */
  ie_adamw_args adamw_args;
} entry;

struct ie_optimiser {
  ie_device *device;
  entry *entries;   /* (count) */
  ie_param **param; /* (count) of the entries */
  int64_t count;
  ie_pieces pieces;
  ie_ctx ctx; /* its arena: scratch of Muon's largest matrix */
  ie_adamw8bit adamw8bit;
};

static const char *const names[IE_OPTIMISER_COUNT] = {"adamw", "muon", "adamw8bit"};

const char *ie_optimiser_name(ie_optimiser_kind kind) {
  return names[kind];
}

ie_optimiser_group ie_optimiser_group_default(ie_optimiser_kind kind) {
  const bool muon = kind == IE_OPTIMISER_MUON;
  return (ie_optimiser_group){.kind = kind,
                              .rate_factor = 1,
                              .adamw = {.beta1 = 0.9,
                                        .beta2 = muon ? 0.95 : 0.999,
                                        .eps = muon ? 1e-10 : 1e-8,
                                        .weight_decay = muon ? 0 : 0.01},
                              .muon = {.momentum = 0.95, .steps = 5},
                              .rest_factor = 0.015};
}

/* ---- what each kind holds ---- */

typedef struct state_shape {
  const char *name; /* "adamw.exp_avg" */
  ie_dtype dtype;
  bool blocks; /* one a block of 256, else the parameter's shape */
} state_shape;

static const state_shape *state_shapes(ie_optimiser_kind kind, int *count) {
  static const state_shape adamw[] = {{"adamw.exp_avg", IE_DTYPE_NONE, false},
                                      {"adamw.exp_avg_sq", IE_DTYPE_NONE, false}};
  static const state_shape muon[] = {{"muon.momentum", IE_DTYPE_NONE, false}};
  static const state_shape adamw8bit[] = {{"adamw8bit.exp_avg", IE_U8, false},
                                          {"adamw8bit.exp_avg_sq", IE_U8, false},
                                          {"adamw8bit.exp_avg_absmax", IE_F32, true},
                                          {"adamw8bit.exp_avg_sq_absmax", IE_F32, true}};
  switch (kind) {
  case IE_OPTIMISER_ADAMW: *count = 2; return adamw;
  case IE_OPTIMISER_MUON: *count = 1; return muon;
  default: *count = 4; return adamw8bit;
  }
}

static ie_optimiser_kind kind_of(const ie_optimiser_group *group, const ie_param *param) {
  if (group->kind == IE_OPTIMISER_MUON && !ie_muon_takes(param)) return IE_OPTIMISER_ADAMW;
  if (group->kind == IE_OPTIMISER_ADAMW8BIT && param->count < IE_ADAMW8BIT_LEAST) return IE_OPTIMISER_ADAMW;
  return group->kind;
}

static size_t shape_count(const state_shape *shape, const ie_param *param) {
  return (size_t)(shape->blocks ? ie_div_up(param->count, IE_ADAMW8BIT_BLOCK) : param->count);
}

static ie_dtype shape_dtype(const state_shape *shape) {
  return shape->dtype == IE_DTYPE_NONE ? real_dtype : shape->dtype;
}

/* ---- checks and sizes ---- */

static ie_status range_error(int group, const char *what, const char *expected, double found,
                             ie_error *error) {
  return ie_error_set(error, IE_INVALID_ARGUMENT, "optimiser group %d: %s: expected %s, found %g", group,
                      what, expected, found);
}

static ie_status group_check(const ie_optimiser_group *g, int i, ie_error *error) {
  if (!(g->rate_factor >= 0)) return range_error(i, "rate factor", "at least 0", g->rate_factor, error);
  if (!(g->adamw.beta1 >= 0 && g->adamw.beta1 < 1))
    return range_error(i, "beta1", "0 to below 1", g->adamw.beta1, error);
  if (!(g->adamw.beta2 >= 0 && g->adamw.beta2 < 1))
    return range_error(i, "beta2", "0 to below 1", g->adamw.beta2, error);
  if (!(g->adamw.eps >= 0)) return range_error(i, "eps", "at least 0", g->adamw.eps, error);
  if (!(g->adamw.weight_decay >= 0))
    return range_error(i, "weight decay", "at least 0", g->adamw.weight_decay, error);
  if (g->kind != IE_OPTIMISER_MUON) return IE_OK;
  if (!(g->muon.momentum >= 0 && g->muon.momentum < 1))
    return range_error(i, "momentum", "0 to below 1", g->muon.momentum, error);
  if (!(g->muon.weight_decay >= 0))
    return range_error(i, "weight decay", "at least 0", g->muon.weight_decay, error);
  if (g->muon.steps < 1) return range_error(i, "Newton-Schulz steps", "at least 1", g->muon.steps, error);
  if (!(g->rest_factor >= 0)) return range_error(i, "rest factor", "at least 0", g->rest_factor, error);
  return IE_OK;
}

/* Adds what one parameter's states take; false when it fits no size_t. */
static bool state_bytes_add(const ie_optimiser_group *group, const ie_param *param, size_t *state_bytes) {
  int states;
  const state_shape *shapes = state_shapes(kind_of(group, param), &states);
  for (int s = 0; s < states; s++) {
    size_t bytes;
    if (!ie_size_mul(shape_count(&shapes[s], param), ie_dtype_bytes(shape_dtype(&shapes[s])), &bytes) ||
        !ie_size_add(*state_bytes, bytes, state_bytes))
      return false;
  }
  return true;
}

ie_status ie_optimiser_bytes(ie_device *device, const ie_optimiser_group *groups, int count,
                             size_t *state_bytes, size_t *scratch_bytes, ie_error *error) {
  *state_bytes = *scratch_bytes = 0;
  ie_ctx *ctx = calloc(1, sizeof *ctx);
  if (!ctx) return ie_error_set(error, IE_OUT_OF_MEMORY, "optimiser: out of memory");
  ctx->device = device, ctx->dry = true, ctx->layer = -1;
  ctx->arena = ie_arena_measure();
  ie_status status = IE_OK;
  for (int i = 0; i < count && status == IE_OK; i++) {
    status = group_check(&groups[i], i, error);
    for (int64_t j = 0; j < groups[i].count && status == IE_OK; j++) {
      ie_param *param = groups[i].param[j];
      if (!state_bytes_add(&groups[i], param, state_bytes))
        status = ie_error_set(error, IE_LIMIT, "the states of %s are too large to be addressed", param->name);
      else if (kind_of(&groups[i], param) == IE_OPTIMISER_MUON)
        ie_muon_step(ctx, &groups[i].muon, param, NULL, 0, 1);
    }
  }
  *scratch_bytes = ctx->arena.peak;
  free(ctx);
  return status;
}

/* ---- making ---- */

static ie_status out_of_memory(const ie_param *param, ie_error *error) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the optimiser's states of %s", param->name);
}

static ie_status state_new(entry *e, const state_shape *shape, ie_error *error) {
  ie_state_tensor *state = &e->state[e->states++];
  const size_t count = shape_count(shape, e->param);
  *state = (ie_state_tensor){.dtype = shape_dtype(shape), .rank = shape->blocks ? 1 : e->param->rank};
  for (int d = 0; d < state->rank; d++) state->shape[d] = shape->blocks ? (int64_t)count : e->param->shape[d];
  size_t length = strlen(shape->name) + 1 + strlen(e->param->name) + 1;
  char *name = malloc(length);
  state->name = name;
  /* Zeros that the system gives: each thread touches its own part first, in the first step. */
  state->data = calloc(count ? count : 1, ie_dtype_bytes(state->dtype));
  if (!name || !state->data) return out_of_memory(e->param, error);
  ie_pages_huge(state->data, count * ie_dtype_bytes(state->dtype));
  snprintf(name, length, "%s.%s", shape->name, e->param->name);
  return IE_OK;
}

static ie_status entry_fill(entry *e, const ie_optimiser_group *group, ie_param *param, ie_error *error) {
  *e = (entry){.param = param,
               .kind = kind_of(group, param),
               .rate_factor = group->rate_factor,
               .adamw = group->adamw,
               .muon = group->muon};
  if (!param->grad || !param->value)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "optimiser: %s: expected a parameter with a gradient, found none", param->name);
  if (group->kind == IE_OPTIMISER_MUON && e->kind == IE_OPTIMISER_ADAMW) e->rate_factor *= group->rest_factor;
  int states;
  const state_shape *shapes = state_shapes(e->kind, &states);
  for (int s = 0; s < states; s++) {
    ie_status status = state_new(e, &shapes[s], error);
    if (status != IE_OK) return status;
  }
  return IE_OK;
}

static int param_compare(const void *a, const void *b) {
  uintptr_t x = (uintptr_t) * (ie_param *const *)a, y = (uintptr_t) * (ie_param *const *)b;
  return (x > y) - (x < y);
}

/* A parameter that is given twice would be stepped twice. Sorts `param`. */
static ie_status twice_check(ie_param **param, int64_t count, ie_error *error) {
  qsort(param, (size_t)count, sizeof(ie_param *), param_compare);
  for (int64_t i = 1; i < count; i++)
    if (param[i] == param[i - 1])
      return ie_error_set(error, IE_INVALID_ARGUMENT,
                          "optimiser: %s: expected it in one group, found it twice", param[i]->name);
  return IE_OK;
}

static ie_status entries_fill(ie_optimiser *o, const ie_optimiser_group *groups, int count, ie_error *error) {
  for (int i = 0; i < count; i++)
    for (int64_t j = 0; j < groups[i].count; j++) {
      entry *e = &o->entries[o->count++];
      ie_status status = entry_fill(e, &groups[i], groups[i].param[j], error);
      if (status != IE_OK) return status;
    }
  for (int64_t i = 0; i < o->count; i++) o->param[i] = o->entries[i].param;
  ie_status status = twice_check(o->param, o->count, error);
  for (int64_t i = 0; i < o->count; i++) o->param[i] = o->entries[i].param;
  return status;
}

ie_status ie_optimiser_new(ie_device *device, const ie_optimiser_group *groups, int count, ie_optimiser **out,
                           ie_error *error) {
  size_t state_bytes, scratch_bytes, total = 0;
  *out = NULL;
  ie_status status = ie_optimiser_bytes(device, groups, count, &state_bytes, &scratch_bytes, error);
  if (status != IE_OK) return status;
  for (int i = 0; i < count; i++) total += (size_t)groups[i].count;
  ie_optimiser *o = calloc(1, sizeof *o);
  if (!o) return ie_error_set(error, IE_OUT_OF_MEMORY, "optimiser: out of memory");
  o->device = device;
  o->adamw8bit.kernels = &device->kernels;
  o->entries = calloc(total + 1, sizeof *o->entries);
  o->param = calloc(total + 1, sizeof *o->param);
  o->ctx.device = device, o->ctx.layer = -1;
  if (!o->entries || !o->param) status = ie_error_set(error, IE_OUT_OF_MEMORY, "optimiser: out of memory");
  if (status == IE_OK && scratch_bytes > 0) status = ie_arena_open(scratch_bytes, &o->ctx.arena, error);
  ie_pages_huge(o->ctx.arena.base, o->ctx.arena.capacity);
  if (status == IE_OK) status = entries_fill(o, groups, count, error);
  if (status == IE_OK) status = ie_pieces_new(o->param, o->count, &o->pieces, error);
  if (status != IE_OK) {
    ie_optimiser_free(o);
    return status;
  }
  ie_dynamic_map_fill(&o->adamw8bit.first, /*with_sign=*/true);
  ie_dynamic_map_fill(&o->adamw8bit.second, /*with_sign=*/false);
  *out = o;
  return IE_OK;
}

void ie_optimiser_free(ie_optimiser *o) {
  if (!o) return;
  for (int64_t i = 0; i < o->count; i++)
    for (int s = 0; s < o->entries[i].states; s++) {
      free((void *)(uintptr_t)o->entries[i].state[s].name);
      free(o->entries[i].state[s].data);
    }
  ie_pieces_free(&o->pieces);
  free(o->entries);
  free(o->param);
  ie_arena_close(&o->ctx.arena);
  free(o);
}

/* ---- steps ---- */

static void *state_data(const entry *e, int s) {
  return e->state[s].data;
}

static void pieces_step(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const ie_optimiser *o = arg;
  for (int64_t i = begin; i < end; i++) {
    const ie_piece *piece = &o->pieces.piece[i];
    const entry *e = &o->entries[piece->index];
    const ie_param *p = e->param;
    if (e->kind == IE_OPTIMISER_ADAMW) {
      real *m = state_data(e, 0), *v = state_data(e, 1);
      o->device->kernels.adamw(p->value + piece->begin, p->grad + piece->begin, m + piece->begin,
                               v + piece->begin, piece->count, &e->adamw_args);
    } else if (e->kind == IE_OPTIMISER_ADAMW8BIT) {
      const ie_adamw8bit_state state = {state_data(e, 0), state_data(e, 1), state_data(e, 2),
                                        state_data(e, 3)};
      ie_adamw8bit_step(&o->adamw8bit, &e->adamw_args, p->value, p->grad, &state, piece->begin,
                        piece->begin + piece->count);
    }
  }
}

void ie_optimiser_step(ie_optimiser *o, const ie_step *step) {
  const float scale = step->grad_scale != 0 ? step->grad_scale : 1.0f;
  for (int64_t i = 0; i < o->count; i++) {
    entry *e = &o->entries[i];
    e->adamw_args = ie_adamw_step_args(&e->adamw, step->rate * e->rate_factor, step->number, scale);
  }
  ie_team_for(o->device->team, o->pieces.count, 1, pieces_step, o);
  for (int64_t i = 0; i < o->count; i++) {
    entry *e = &o->entries[i];
    if (e->kind == IE_OPTIMISER_MUON)
      ie_muon_step(&o->ctx, &e->muon, e->param, state_data(e, 0), step->rate * e->rate_factor, scale);
  }
}

/* ---- states ---- */

size_t ie_optimiser_state_count(const ie_optimiser *o) {
  size_t count = 0;
  for (int64_t i = 0; i < o->count; i++) count += (size_t)o->entries[i].states;
  return count;
}

ie_state_tensor ie_optimiser_state_at(const ie_optimiser *o, size_t i) {
  const entry *e = o->entries;
  while (i >= (size_t)e->states) i -= (size_t)e++->states;
  return e->state[i];
}
