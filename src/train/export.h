/* Writes a model whose parameters were trained as a model directory in the published layout: the tensors that the
 * parameters came from, config.json, generation_config.json and the tokenizer's files.
 *
 * Masters are rounded to the published types, to nearest even; MXFP4 experts are encoded again (blocks/mxfp4.h). Nothing
 * is held but a buffer of a MiB: tensors are converted while they are written. What is published and no parameter
 * covers (frozen weights, buffers) is copied from the source. Files appear as formats/checkpoint_write.h says. */
#ifndef CLOCHER_TRAIN_EXPORT_H
#define CLOCHER_TRAIN_EXPORT_H

#include "blocks/mxfp4.h"
#include "tensor/param.h"

typedef struct ie_export_options {
  const char *dir; /* where to; made when missing */
  const char *
      source; /* the model directory that was trained, or that described a model made from nothing: it may have
                         * no weights. NULL: none */
  const char *config;   /* text of config.json; NULL: the source's */
  bool params_only;     /* leave out the source's tensors that no parameter covers */
  uint64_t shard_bytes; /* the largest file; 0: 5 GB */
  ie_mxfp4_rule mxfp4;
} ie_export_options;

/* IE_NUMERIC names the tensor and the element that is not finite, or not in its published type: nothing is replaced
 * then. IE_INVALID_ARGUMENT when the parameters of a tensor do not fill it, or two contradict each other.
 * IE_UNSUPPORTED for a source whose configuration is no config.json (nanochat's own files), unless config is given. */
ie_status ie_export_model(const ie_param_list *params, const ie_export_options *options, ie_error *error);

#endif
