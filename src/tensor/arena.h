/* The arena: one block of memory from which operations take their outputs, in stack order.
 *
 * forward() marks it and resets it around each block, so it holds one block's activations, not a model's. Its
 * size comes from a dry run: a measuring arena hands out no memory and only records the peak.
 * Owner: whoever opened it. Not thread safe. */
#ifndef CLOCHER_TENSOR_ARENA_H
#define CLOCHER_TENSOR_ARENA_H

#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { IE_ARENA_ALIGN = 64 };

typedef struct ie_arena {
  uint8_t *base; /* NULL while measuring */
  size_t capacity;
  size_t used, peak;
  bool measuring;
} ie_arena;

/* A measuring arena, which needs no memory and never fails. */
ie_arena ie_arena_measure(void);

/* An arena of `bytes`; pages are touched when they are used. */
ie_status ie_arena_open(size_t bytes, ie_arena *out, ie_error *error);
void ie_arena_close(ie_arena *arena);

/* Takes `bytes`, aligned to 64. False when they do not fit; *out = NULL (and true) while measuring. */
bool ie_arena_take(ie_arena *arena, size_t bytes, void **out);

typedef size_t ie_arena_mark;
static inline ie_arena_mark ie_arena_save(const ie_arena *arena) {
  return arena->used;
}
/* Gives back everything taken since the mark. */
static inline void ie_arena_reset(ie_arena *arena, ie_arena_mark mark) {
  arena->used = mark;
}

#endif
