/* The inside of a state: caches, the batch, the context of forwards. Public manual: clocher/generate.h. */
#ifndef CLOCHER_ENGINE_STATE_H
#define CLOCHER_ENGINE_STATE_H

#include "clocher/generate.h"
#include "engine/cache.h"
#include "tensor/device_memory.h"

struct ie_state {
  ie_model *model;
  int64_t context, sequences, chunk, wanted_max;
  ie_dtype kv_dtype;
  ie_kv_layer *layer;  /* (layers); k and v of all layers lie in one allocation */
  ie_kv_layer *recent; /* (layers) the exact newest positions of int8 layers */
  void *kv_memory;
  size_t kv_bytes;
  int32_t *ids;    /* (sequences, context) */
  int64_t *length; /* (sequences) */
  int64_t *high; /* (sequences) positions written since the sequence was empty: what rings have overwritten */
  int64_t *exact;        /* (sequences) the rings of int8 layers hold all positions from here on */
  ie_advance *step;      /* (sequences) of ie_state_step */
  int32_t *batch_memory; /* ids, position, sequence, wanted: (batch_max) each */
  int64_t batch_max;
  const float *logits; /* of the last forward: (wanted, V), in the arena or the runner's */
  int64_t logits_rows;
  uint64_t forwards, tokens;
  ie_runner *runner; /* of a device with memory of its own; else NULL */
  ie_draw_row *draw; /* (draw_count) what ie_state_draw_next asked for, or NULL */
  int64_t draw_count;
  ie_ctx ctx;
};

/* Sizes of a state before it exists: the same numbers serve ie_state_new and ie_model_plan. */
typedef struct ie_state_sizes {
  int64_t context, sequences, chunk, rollback, wanted_max, batch_max;
  ie_dtype kv_dtype;
  size_t kv_bytes, scratch_bytes;
  size_t runner_bytes; /* of a device with memory of its own, beside its keys, values and scratch */
  size_t table_bytes;  /* ids and other arrays; samplers and results of a generation in each sequence */
} ie_state_sizes;

ie_status ie_state_size(const ie_model *model, const ie_state_options *options, ie_state_sizes *out,
                        ie_error *error);

/* IE_INVALID_ARGUMENT names an id that is not below the vocabulary. */
ie_status ie_state_ids_check(const ie_state *state, const int32_t *ids, int64_t count, ie_error *error);

/* Runs a forward over an empty arena, wherever the device computes; state->logits becomes what it returns. */
ie_status ie_state_run(ie_state *state, const ie_forward *forward, ie_error *error);

/* Whether ids can be drawn where the logits are, which then stay there. */
bool ie_state_draws(const ie_state *state);
/* Forwards that want `count` rows draw their ids from now on (rows: borrowed) and give no logits; NULL: they give logits. */
void ie_state_draw_next(ie_state *state, ie_draw_row *rows, int64_t count);

/* Positions up to `end` of a sequence are about to be written: what rings held before is gone. */
void ie_state_written(ie_state *state, int64_t sequence, int64_t end);

/* First position of a sequence that a layer still holds. */
int64_t ie_state_first_held(const ie_state *state, int64_t layer_index, int64_t sequence);

#endif
