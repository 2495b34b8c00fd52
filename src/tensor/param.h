/* Parameters: what training changes. One noun for the tape (gradients), the optimisers (value and gradient) and the
 * writers (the published tensor that it came from).
 *
 * A model that is opened for training owns its list; the master value is the only copy that is computed with. */
#ifndef CLOCHER_TENSOR_PARAM_H
#define CLOCHER_TENSOR_PARAM_H

#include "base/real.h"
#include "blocks/format.h"
#include "clocher/tensor.h"

#include <stdbool.h>
#include <stdint.h>

/* Where a parameter lies in the published layout. Several parameters may share one tensor (rows of a stacked q, k and
 * v): they have the same `tensor` and `total` and together fill it. */
typedef struct ie_param_store {
  char *tensor;                /* the published tensor; of MXFP4 without the suffixes. Owned by the list */
  ie_dtype dtype;              /* IE_F32, IE_F16 or IE_BF16; of MXFP4 IE_U8 */
  const char *blocks, *scales; /* suffixes of MXFP4's two tensors; NULL: it is stored as dtype */
  bool swapped;                /* the tensor has the last two dimensions the other way round */
  int64_t first, total; /* its rows are first .. first + shape[0] of total; total 0: it is the whole tensor */
} ie_param_store;

typedef struct ie_param {
  char *name; /* transformers' name (of nanochat's own files: theirs); gradients and states use it. Owned */
  int rank;   /* 1 to 3 */
  int64_t shape[3]; /* of value, outermost first: (n), (R, K) or (E, R, K) */
  int64_t count;
  bool swapped; /* transformers holds it (E, K, R): gradients are reported so */
  real *value;  /* (count) master */
  real *grad;   /* (count) accumulates; NULL: none was asked for */
  int pending;  /* of a tape: recorded uses whose backward has not run */
  ie_param_store store;
} ie_param;

typedef struct ie_param_list {
  ie_param **item; /* (count) owned, in the order in which they were bound */
  int64_t count, capacity;
} ie_param_list;

#endif
