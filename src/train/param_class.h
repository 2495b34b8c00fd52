/* What a parameter is to an optimiser. Kinds have rates of their own by custom: Muon takes matrices between layers, AdamW
 * the rest, of which embeddings are commonly stepped far, the output matrix and scalars little.
 *
 *   matrix     matrices and stacks of matrices between layers, those of adapters too
 *   embedding  of tokens and of positions; a matrix that is embedding and output at once
 *   head       the output matrix
 *   scalar     vectors (norms, biases, sinks) and the biases of experts, which lie as a matrix
 *
 * By rank and the end of the name. */
#ifndef CLOCHER_TRAIN_PARAM_CLASS_H
#define CLOCHER_TRAIN_PARAM_CLASS_H

#include "tensor/param.h"

typedef enum ie_param_class {
  IE_PARAM_MATRIX,
  IE_PARAM_EMBEDDING,
  IE_PARAM_HEAD,
  IE_PARAM_SCALAR,
  IE_PARAM_CLASSES
} ie_param_class;

ie_param_class ie_param_class_of(const ie_param *param);
/* "matrices", "embeddings", "head", "scalars". */
const char *ie_param_class_name(ie_param_class what);

#endif
