/* The tape: reverse mode over the operations.
 *
 * While ctx->tape is set, operations run their training launchers, keep their inputs and record a closure each;
 * ie_tape_backward runs the closures in reverse order. Gradients are added: to ie_tensor.grad of tensors, to
 * ie_param.grad of parameters. What needs no gradient (no parameter and no marked input stands before it) records
 * nothing. With a tape no cache is written; attention reads the forward's own keys and values, and a prefix.
 *
 * Memory. All of it is the arena's, in stack order: a forward leaves its outputs there, the backward of a block takes
 * the gradients of the block's tensors above them, and everything above the block's beginning is given back when it is
 * done. A dry run (ctx->dry) of forward and backward therefore measures both. Gradients of the tensors between blocks
 * have two places that take turns.
 *
 * One tape belongs to one context at a time. Errors are the context's (ctx->status). */
#ifndef CLOCHER_OPS_TAPE_H
#define CLOCHER_OPS_TAPE_H

#include "tensor/device.h"

typedef struct ie_tape ie_tape;

typedef struct ie_tape_options {
  bool recompute; /* ie_tape_block keeps a block's input only and runs the block again in the backward */
  /* The gradient of a parameter is complete: distributed training begins to sum it. May be NULL. */
  void (*on_grad_ready)(void *arg, ie_param *param);
  void *arg;
} ie_tape_options;

/* NULL when memory is out. */
ie_tape *ie_tape_new(void);
void ie_tape_free(ie_tape *tape);

/* Begins a forward that records; what the tape held is forgotten. The caller has reset the context. */
void ie_tape_begin(ie_ctx *ctx, ie_tape *tape, const ie_tape_options *options);
/* Begins a forward with the training launchers that records nothing: an evaluation. */
void ie_tape_begin_forward(ie_ctx *ctx, ie_tape *tape);
/* Runs the closures. The gradients that something flows from have been set before (ie_op_cross_entropy, ie_tape_grad). */
void ie_tape_backward(ie_ctx *ctx);
/* The context computes for inference again. */
void ie_tape_end(ie_ctx *ctx);

/* --- For operations --------------------------------------------------------------------------------------- */

typedef void (*ie_backward_fn)(ie_ctx *ctx, const void *closure);

/* True when operations are recorded: those that work in place make a new tensor then. */
bool ie_tape_records(const ie_ctx *ctx);
/* True when x's gradient will be wanted. */
bool ie_tape_needs(const ie_tensor *x);
/* Records one operation with the output `out`: `bytes` of memory for the closure, to be filled in by the caller; NULL
 * when nothing is recorded, or after a failure. The closure is skipped in the backward while nothing has flowed into
 * out. Marks out as needing a gradient. */
void *ie_tape_record(ie_ctx *ctx, ie_backward_fn backward, ie_tensor *out, size_t bytes, bool needs);
/* Where to add x's gradient, as x's data; zeros at first. NULL where it is not wanted, and in a dry run. */
real *ie_tape_grad(ie_ctx *ctx, const ie_tensor *x);
/* A use of a parameter is recorded; and its backward has run. NULL is allowed. */
void ie_tape_param_used(ie_param *param);
void ie_tape_param_done(ie_ctx *ctx, ie_param *param);

/* --- For models ------------------------------------------------------------------------------------------- */

/* y (T, C) from x (T, C), which may change x in place when nothing is recorded, and then returns x. */
typedef ie_tensor *(*ie_block_fn)(ie_ctx *ctx, const void *arg, ie_tensor *x);

/* Runs a block of the model: its memory is given back when it is done, or, under a tape, when its backward is. x is the
 * only tensor through which it depends on what came before that needs a gradient. arg (bytes) is copied. */
ie_tensor *ie_tape_block(ie_ctx *ctx, ie_block_fn block, const void *arg, size_t bytes, ie_tensor *x);

#endif
