#include "ops/tape.h"

#include "base/size.h"
#include "ops/check.h"

#include <stdlib.h>
#include <string.h>

enum { CLOSURE_CHUNK_BYTES = 1 << 16, CLOSURE_CHUNKS = 1 << 12, CLOSURE_ALIGN = 16 };

typedef struct tape_node {
  ie_backward_fn backward;
  const void *closure;
  const ie_tensor *out;
} tape_node;

struct ie_tape {
  ie_tape_options options;
  bool recording;
  tape_node *node; /* (capacity) */
  int64_t nodes, capacity;
  uint8_t *chunk[CLOSURE_CHUNKS]; /* of closures, kept from step to step */
  int64_t closure_at;             /* bytes in use, whole chunks counted */
  ie_tensor_pool pool;
  real *turn[2]; /* gradients of the tensors between blocks */
  int64_t turn_count, blocks;
};

ie_tape *ie_tape_new(void) {
  return calloc(1, sizeof(ie_tape));
}

void ie_tape_free(ie_tape *tape) {
  if (!tape) return;
  for (int i = 0; i < CLOSURE_CHUNKS; i++) free(tape->chunk[i]);
  ie_tensor_pool_free(&tape->pool);
  free(tape->node);
  free(tape);
}

void ie_tape_begin(ie_ctx *ctx, ie_tape *tape, const ie_tape_options *options) {
  ie_tape_begin_forward(ctx, tape);
  tape->options = *options;
  tape->recording = true;
}

void ie_tape_begin_forward(ie_ctx *ctx, ie_tape *tape) {
  tape->options = (ie_tape_options){0};
  tape->recording = false;
  tape->nodes = tape->closure_at = tape->blocks = tape->turn_count = 0;
  ctx->tape = tape;
  ctx->pool = &tape->pool;
}

void ie_tape_end(ie_ctx *ctx) {
  ctx->tape = NULL;
  ctx->pool = NULL;
}

bool ie_tape_records(const ie_ctx *ctx) {
  return ctx->tape && ctx->tape->recording;
}

bool ie_tape_needs(const ie_tensor *x) {
  return x && x->needs_grad;
}

/* --- Recording -------------------------------------------------------------------------------------------- */

static void *closure_take(ie_ctx *ctx, size_t bytes) {
  ie_tape *tape = ctx->tape;
  int64_t size = (int64_t)((bytes + CLOSURE_ALIGN - 1) / CLOSURE_ALIGN * CLOSURE_ALIGN);
  int64_t at = tape->closure_at, left = CLOSURE_CHUNK_BYTES - at % CLOSURE_CHUNK_BYTES;
  if (size > left) at += left;
  int64_t chunk = at / CLOSURE_CHUNK_BYTES;
  if (size > CLOSURE_CHUNK_BYTES || chunk >= CLOSURE_CHUNKS)
    return ie_ctx_fail(ctx, IE_LIMIT, "the tape is full: %lld operations", (long long)tape->nodes);
  if (!tape->chunk[chunk] && !(tape->chunk[chunk] = aligned_alloc(CLOSURE_ALIGN, CLOSURE_CHUNK_BYTES)))
    return ie_ctx_fail(ctx, IE_OUT_OF_MEMORY, "out of memory for the tape");
  tape->closure_at = at + size;
  return tape->chunk[chunk] + at % CLOSURE_CHUNK_BYTES;
}

static bool nodes_reserve(ie_ctx *ctx) {
  ie_tape *tape = ctx->tape;
  if (tape->nodes < tape->capacity) return true;
  int64_t capacity = tape->capacity ? 2 * tape->capacity : 256;
  tape_node *node = realloc(tape->node, (size_t)capacity * sizeof *node);
  if (!node) return ie_ctx_fail(ctx, IE_OUT_OF_MEMORY, "out of memory for the tape") != NULL;
  tape->node = node;
  tape->capacity = capacity;
  return true;
}

void *ie_tape_record(ie_ctx *ctx, ie_backward_fn backward, ie_tensor *out, size_t bytes, bool needs) {
  if (!needs || !out || !ie_tape_records(ctx) || ctx->status != IE_OK || !nodes_reserve(ctx)) return NULL;
  void *closure = closure_take(ctx, bytes);
  if (!closure) return NULL;
  out->needs_grad = true;
  ctx->tape->node[ctx->tape->nodes++] = (tape_node){backward, closure, out};
  return closure;
}

real *ie_tape_grad(ie_ctx *ctx, const ie_tensor *x) {
  if (!x || !x->needs_grad || ctx->status != IE_OK) return NULL;
  ie_tensor *t =
      (ie_tensor *)x; /* operations promise not to change a tensor's numbers; its gradient is the tape's */
  if (t->has_grad) return t->grad;
  if (!OP_LAUNCHER(ctx, zero)) return NULL;
  size_t bytes = (size_t)ie_tensor_count(t) * sizeof(real);
  void *memory = t->grad;
  if (!t->has_place && !ie_ctx_scratch(ctx, bytes, &memory)) return NULL;
  t->grad = memory;
  t->has_grad = true;
  ctx->device->ops.zero(ctx, memory, ie_tensor_count(t));
  return t->grad;
}

void ie_tape_param_used(ie_param *param) {
  if (param) param->pending++;
}

void ie_tape_param_done(ie_ctx *ctx, ie_param *param) {
  if (!param) return;
  if (param->pending > 0) param->pending--;
  if (param->pending == 0 && !ctx->dry && ctx->tape->options.on_grad_ready)
    ctx->tape->options.on_grad_ready(ctx->tape->options.arg, param);
}

/* --- Backward --------------------------------------------------------------------------------------------- */

/* Closures from the last one down to `first`, which is then the number of nodes. */
static void nodes_run(ie_ctx *ctx, int64_t first) {
  ie_tape *tape = ctx->tape;
  while (tape->nodes > first && ctx->status == IE_OK) {
    tape_node node = tape->node[--tape->nodes];
    if (node.out->has_grad) node.backward(ctx, node.closure);
  }
  tape->nodes = first;
}

void ie_tape_backward(ie_ctx *ctx) {
  ctx->layer = -1;
  nodes_run(ctx, 0);
}

typedef struct block_begin {
  ie_ctx_mark mark;
} block_begin;

/* Runs after the last closure of its block: what the block left in memory is not needed any more. */
static void block_begin_backward(ie_ctx *ctx, const void *closure) {
  const block_begin *c = closure;
  ie_ctx_reset(ctx, c->mark);
}

typedef struct block_again {
  ie_block_fn block;
  const void *arg;
  ie_tensor *x, *y;
  int layer;
} block_again;

static void block_again_backward(ie_ctx *ctx, const void *closure) {
  const block_again *c = closure;
  ie_tape *tape = ctx->tape;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  int64_t first = tape->nodes, closures = tape->closure_at;
  ctx->layer = c->layer;
  tape->recording = true;
  ie_tensor *y = c->block(ctx, c->arg, c->x);
  if (y && y->needs_grad) {
    y->grad = c->y->grad;
    y->has_grad = true;
    nodes_run(ctx, first);
  }
  tape->nodes = first;
  tape->closure_at = closures;
  ie_ctx_reset(ctx, mark);
}

/* x gets the place for its gradient that the block after the next one had. */
static bool turn_assign(ie_ctx *ctx, ie_tensor *x) {
  ie_tape *tape = ctx->tape;
  int64_t count = ie_tensor_count(x);
  if (tape->blocks == 0) {
    tape->turn_count = count;
    for (int i = 0; i < 2; i++) {
      void *memory;
      if (!ie_ctx_scratch(ctx, (size_t)count * sizeof(real), &memory)) return false;
      tape->turn[i] = memory;
    }
  }
  if (!x->has_place && count == tape->turn_count) {
    x->grad = tape->turn[tape->blocks % 2];
    x->has_place = true;
  }
  tape->blocks++;
  return true;
}

ie_tensor *ie_tape_block(ie_ctx *ctx, ie_block_fn block, const void *arg, size_t bytes, ie_tensor *x) {
  if (!x) return NULL;
  ie_tape *tape = ctx->tape;
  if (!ie_tape_records(ctx)) {
    ie_ctx_mark mark = ie_ctx_save(ctx);
    x = block(ctx, arg, x);
    ie_ctx_reset(ctx, mark);
    return x;
  }
  if (!turn_assign(ctx, x)) return NULL;
  if (!tape->options.recompute) {
    block_begin *c = ie_tape_record(ctx, block_begin_backward, x, sizeof *c, x->needs_grad);
    if (c) c->mark = ie_ctx_save(ctx);
    return block(ctx, arg, x);
  }
  ie_tensor *y = ie_ctx_tensor(ctx, x->dtype, x->rank, x->shape);
  if (!y) return NULL;
  ctx->device->ops.copy(ctx, y, x);
  ie_ctx_mark mark = ie_ctx_save(ctx);
  tape->recording = false;
  ie_tensor *done = block(ctx, arg, y);
  tape->recording = true;
  ie_ctx_reset(ctx, mark);
  if (done != y) return ie_ctx_fail(ctx, IE_INTERNAL, "a block without a tape did not work in place");
  void *copy = closure_take(ctx, bytes);
  if (!copy) return NULL;
  memcpy(copy, arg, bytes);
  block_again *c = ie_tape_record(ctx, block_again_backward, y, sizeof *c, /*needs=*/true);
  if (!c) return NULL;
  *c = (block_again){block, copy, x, y, ctx->layer};
  return y;
}
