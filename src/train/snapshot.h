/* Snapshots of a training run: DIR/step-000100/ with the model (or adapter) as it was after that step, in its published
 * layout, and state.safetensors, from which the run goes on to the bit.
 *
 * A snapshot is written beside its place and renamed when all of it is on the disk: a folder of that name is whole, and
 * a kill at any moment leaves the earlier ones as they were. state.safetensors holds the optimiser's tensors and, as
 * the bytes of U8 tensor "state.json", an object of the run's own (step, place in the data, seeds, hashes).
 * One run at a time writes into DIR. */
#ifndef CLOCHER_TRAIN_SNAPSHOT_H
#define CLOCHER_TRAIN_SNAPSHOT_H

#include "clocher/tensor.h"

#include <jansson.h>

#define IE_SNAPSHOT_STATE "state.safetensors"

/* A tensor of the optimiser's state: read by save, written by load. */
typedef struct ie_state_tensor {
  const char *name;
  ie_dtype dtype;
  int rank;
  int64_t shape[IE_MAX_RANK];
  void *data;
} ie_state_tensor;

typedef struct ie_snapshot {
  const char *dir; /* of the run; made when missing */
  int64_t step;    /* 0 or more */
  int64_t keep;    /* of rotate: so many are kept, this one included; 0: all */
  int64_t guarded; /* of rotate: the step of one that stays beside them; 0: none */
  /* Writes the model into the folder; NULL: none. */
  ie_status (*write_model)(void *user, const char *folder, ie_error *error);
  void *user;
  const ie_state_tensor *tensors; /* (count) */
  size_t count;
  const json_t *state; /* an object */
} ie_snapshot;

/* One of the same step is replaced. */
ie_status ie_snapshot_save(const ie_snapshot *snapshot, ie_error *error);
/* Removes the oldest beyond `keep` (0: none), never that of `step` nor the guarded one. Apart from save, so that what was
 * there before stays until the new one has proved good. */
ie_status ie_snapshot_rotate(const ie_snapshot *snapshot, ie_error *error);

/* Steps of the whole snapshots in DIR, ascending; none when there is no such folder. Owner: ie_snapshot_list_free. */
typedef struct ie_snapshot_list {
  int64_t *steps; /* (count) */
  size_t count;
} ie_snapshot_list;
ie_status ie_snapshot_list_read(const char *dir, ie_snapshot_list *out, ie_error *error);
void ie_snapshot_list_free(ie_snapshot_list *list);

/* The folder of a step, in fresh memory; NULL when memory is out. */
char *ie_snapshot_path(const char *dir, int64_t step);
/* The folder of the newest one in fresh memory, or NULL (and IE_OK) when there is none. */
ie_status ie_snapshot_newest(const char *dir, char **path, ie_error *error);

/* The object alone (a new reference), so that it can be compared before anything is loaded. */
ie_status ie_snapshot_state(const char *path, json_t **state, ie_error *error);
/* Fills the tensors' data, and *state (a new reference). IE_FORMAT when the file holds others than those asked for, or
 * of another type or shape; then the data may be filled in part. */
ie_status ie_snapshot_load(const char *path, const ie_state_tensor *tensors, size_t count, json_t **state,
                           ie_error *error);

#endif
