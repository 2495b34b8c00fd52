/* Gradients: the loss of token rows under a model, and its derivatives.
 *
 * The model was opened with ie_model_options.train (every parameter has an f32 master) or with an adapter that is
 * trained. The loss is the softmax cross-entropy of the next token in nats. Gradients accumulate until they are
 * zeroed. Activations are computed in blocks of memory that a dry run of forward and backward measures before.
 *
 * Arithmetic: class fp32, or bf16: both sides of each product are rounded to bf16 and summed in f32; all else,
 * attention included, is f32. The results do not depend on the number of threads.
 *
 * Ownership: borrows the model and is freed before it. One thread at a time. */
#ifndef CLOCHER_GRADIENTS_H
#define CLOCHER_GRADIENTS_H

#include "clocher/model.h"

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct ie_gradients ie_gradients;

typedef struct ie_gradients_options {
  bool
      recompute; /* keep the input of each layer only, and compute the layer again on the way back: less memory for a
                     third more work */
  size_t memory_bytes; /* limit of what activations and gradients take; 0: none */
} ie_gradients_options;

/* Tokens of one or several rows, one after the other. Rows are told apart by `sequence`: a token sees those of its own
 * sequence alone. All arrays (tokens), borrowed for the call. */
typedef struct ie_token_rows {
  int64_t tokens;
  const int32_t *ids;
  const int32_t *target;   /* the token that follows; negative: not counted */
  const int32_t *position; /* in its row, from 0, ascending by one */
  const int32_t *sequence; /* equal within a row, different in neighbours */
  const float *weight;     /* of each target's loss; NULL: ones */
} ie_token_rows;

/* IE_INVALID_ARGUMENT for a model that has nothing to train; IE_UNSUPPORTED for the classes int8 and fp16. */
ie_status ie_gradients_new(ie_model *model, const ie_gradients_options *options, ie_gradients **out,
                           ie_error *error);
void ie_gradients_free(ie_gradients *g);

/* *loss += scale * the weighted sum over the targets. scale is one over the number (or weight) of targets of the whole
 * step. add: also its gradients to what they hold. IE_LIMIT when the memory limit does not hold the rows; IE_NUMERIC
 * names the first number that is not finite. */
ie_status ie_gradients_add(ie_gradients *g, const ie_token_rows *rows, double scale, double *loss,
                           ie_error *error);
ie_status ie_gradients_loss(ie_gradients *g, const ie_token_rows *rows, double scale, double *loss,
                            ie_error *error);
void ie_gradients_zero(ie_gradients *g);

/* Bytes that a call for such rows needs: activations and their gradients; without computing anything. */
ie_status ie_gradients_measure(ie_gradients *g, const ie_token_rows *rows, size_t *bytes, ie_error *error);

/* Writes `loss` F32 (1) and `grad.NAME` of each parameter in the shape that transformers holds, to a safetensors file. */
ie_status ie_gradients_write(const ie_gradients *g, double loss, const char *path, ie_error *error);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
