/* Where the bytes of a model live under a memory limit.
 *
 * Without a limit, or with one that holds everything, weights are mapped and computed where they lie. Under a smaller
 * one a model with experts is split: attention, norms, router and head are copied into memory of the process's own,
 * once, past the page cache; the embedding stays on disk, and the rows of a forward's tokens are read before it;
 * experts stay on disk and are read into slots (engine/streaming.h) that fill what is left of the limit. Nothing then
 * touches the mapping, so that what a memory cgroup counts is what the plan says. */
#ifndef CLOCHER_ENGINE_PLACEMENT_H
#define CLOCHER_ENGINE_PLACEMENT_H

#include "engine/state.h"

enum { IE_PART_COUNT = 4 }; /* of an expert: two parts of gate and up, two of down */

typedef struct ie_placement {
  bool streamed;
  bool embed_streamed;      /* false where the embedding is also the head */
  size_t resident_bytes;    /* of weights, mapped or copied; slots and rows not included */
  size_t expert_disk_bytes; /* of experts that are read when they are needed */
  size_t embed_disk_bytes;  /* of an embedding of which only rows are read, and that nothing has replaced */
  size_t rows_bytes;        /* of memory for them: of a map, those that the sequences may look up */
  size_t slot_bytes;        /* of one expert */
  int64_t slots, transit;
  size_t part_at[IE_PART_COUNT]; /* where the parts of an expert begin in a slot */
  size_t kv_bytes, scratch_bytes, other_bytes;
  size_t peak_bytes, minimum_bytes;
  size_t limit_bytes; /* that was given, at most what the machine or its control group has (base/memory.h) */
  bool fits;          /* in that */
} ie_placement;

/* The split placement, whether it is needed or not. False for a model that cannot be split: one without experts, or with
 * experts that are not computed as they are stored. limit 0: the fewest slots. */
bool ie_placement_split(const ie_model *model, const ie_state_sizes *sizes, size_t limit_bytes,
                        ie_placement *out);

/* The one that a limit asks for; 0: none. */
void ie_placement_make(const ie_model *model, const ie_state_sizes *sizes, size_t limit_bytes,
                       ie_placement *out);

#endif
