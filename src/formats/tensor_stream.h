/* Writing tensors whose bytes are made while they are written, so that no second copy of a model is in memory. */
#ifndef CLOCHER_FORMATS_TENSOR_STREAM_H
#define CLOCHER_FORMATS_TENSOR_STREAM_H

#include "clocher/tensor.h"

#include <jansson.h>

typedef struct ie_tensor_sink ie_tensor_sink;

/* Appends bytes to the tensor that is being written. IE_IO, or IE_INTERNAL for more than its shape takes. */
ie_status ie_tensor_sink_write(ie_tensor_sink *sink, const void *bytes, size_t size, ie_error *error);

/* Called once a tensor, in the order of the file: hands all its bytes to the sink, in as many pieces as it likes.
 * tensor->data is what the caller put there, for the producer alone. A failure ends the writing with that status. */
typedef struct ie_tensor_source {
  ie_status (*produce)(void *user, const ie_tensor_out *tensor, ie_tensor_sink *sink, ie_error *error);
  void *user;
} ie_tensor_source;

/* The source of tensors whose data is in memory. */
extern const ie_tensor_source ie_tensor_memory;

/* ie_tensor_file_write (clocher/tensor.h) from a source; metadata as in ie_safetensors_header, or NULL. */
ie_status ie_tensor_file_stream(const char *path, const ie_tensor_out *tensors, size_t count,
                                const json_t *metadata, const ie_tensor_source *source, ie_error *error);

#endif
