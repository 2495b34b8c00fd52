/* Devices with memory of their own: what they do beside launching operations.
 *
 * What stays on the host: a model's structs and the addresses in them. A weight or a vector goes on pointing at the
 * bytes of the checkpoint, or at what was made of them at load; `hold` copies such ranges to the device, and its
 * launchers look an address up there. So binding, placement and saving know nothing of a second copy.
 * What lies on the device: the arena and with it the data of every tensor of a forward, keys and values, and the arrays
 * of the batch that launchers get. Host code that wants one of these reads it by ie_memory_read.
 *
 * A device that computes in the host's memory (the CPU) has no such table; the functions below then use that memory.
 * Same threads as the device: one caller at a time. */
#ifndef CLOCHER_TENSOR_DEVICE_MEMORY_H
#define CLOCHER_TENSOR_DEVICE_MEMORY_H

#include "clocher/sample.h"
#include "tensor/device.h"

/* Bytes of the host that kernels read: of the checkpoint, or the model's own. Borrowed: they are not read any more when
 * `hold` has returned, but their addresses stand for the copy until they are dropped. */
typedef struct ie_host_range {
  const void *data;
  size_t bytes;
} ie_host_range;

/* What a forward computes: the rows that are wanted (wanted, V), or NULL. The batch is one for launchers. */
typedef ie_tensor *(*ie_forward_fn)(ie_ctx *ctx, const ie_batch *batch, void *arg);

/* How the id that follows a wanted row is drawn on the device: as a sampler with the default steps of params draws it. */
typedef struct ie_draw_row {
  const ie_sample_params *params;
  const int32_t *seen; /* (seen_count) the history, each below the vocabulary */
  size_t seen_count;
  uint64_t row, step; /* as in ie_sample_input */
  int32_t id;         /* set by the forward */
} ie_draw_row;

typedef struct ie_forward {
  ie_forward_fn run;
  void *arg;
  const ie_batch *batch; /* on the host */
  bool replay;           /* run does the same whenever the batch has the same shape, and nobody listens: its
                            launches may be recorded once and repeated */
  ie_draw_row *draw;     /* (wanted) each gets its id, and no logits come to the host; NULL: they come */
} ie_forward;

/* Where forwards of one arena run: fixed places for the batch and the logits, and launches that were recorded. */
typedef struct ie_runner ie_runner;

typedef struct ie_runner_options {
  int64_t batch_max, wanted_max; /* tokens and wanted rows of a forward */
  int64_t vocab;                 /* numbers of a wanted row */
  int64_t draw_max;              /* wanted rows of a forward that draws; 0: none does */
} ie_runner_options;

/* What a device can do at most, measured. */
typedef struct ie_ceilings {
  double read_gb_s; /* 1e9 bytes a second from its memory */
  size_t buffer_bytes;
  double matrix_tflop_s; /* 1e12 a second, 2 per multiply-add */
  char matrix_kind[32];  /* "mma-bf16", "wgmma-bf16" */
} ie_ceilings;

typedef struct ie_device_memory {
  /* Memory of the device, zeroed. IE_OUT_OF_MEMORY names `what`, the bytes wanted and the bytes free. */
  ie_status (*take)(ie_device *device, size_t bytes, const char *what, void **out, ie_error *error);
  void (*give)(ie_device *device, void *memory, size_t bytes);
  void (*room)(ie_device *device, size_t *free_bytes, size_t *total_bytes);
  /* Both wait until it is done. */
  ie_status (*read)(ie_device *device, void *host, const void *from, size_t bytes, ie_error *error);
  ie_status (*write)(ie_device *device, void *to, const void *host, size_t bytes, ie_error *error);
  /* Copies n ranges; `owner` names them for drop. */
  ie_status (*hold)(ie_device *device, const void *owner, const ie_host_range *range, size_t n,
                    ie_error *error);
  void (*drop)(ie_device *device, const void *owner);
  /* What a runner takes of the device's memory. */
  size_t (*runner_bytes)(const ie_runner_options *options);
  ie_status (*runner_new)(ie_device *device, const ie_runner_options *options, ie_runner **out,
                          ie_error *error);
  void (*runner_free)(ie_device *device, ie_runner *runner);
  /* One forward. *logits: on the host, (wanted, V), until the next one; NULL when none are wanted or ids are drawn. The
   * arena of ctx is empty before. A failure is in ctx and *error. */
  ie_status (*run)(ie_runner *runner, ie_ctx *ctx, const ie_forward *forward, const float **logits,
                   ie_error *error);
  int64_t draw_vocab_max; /* the largest vocabulary that forwards draw from */
  /* Each fills in its own half of *out. buffer_bytes 0: far more than any cache. */
  ie_status (*probe_read)(ie_device *device, size_t buffer_bytes, ie_ceilings *out, ie_error *error);
  ie_status (*probe_matrix)(ie_device *device, ie_ceilings *out, ie_error *error);
} ie_device_memory;

/* Memory in which the device computes; on the CPU pages of the host. Given back by ie_memory_give. */
ie_status ie_memory_take(ie_device *device, size_t bytes, const char *what, void **out, ie_error *error);
void ie_memory_give(ie_device *device, void *memory, size_t bytes);
/* From there to the host, and back. */
ie_status ie_memory_read(ie_device *device, void *host, const void *from, size_t bytes, ie_error *error);
ie_status ie_memory_write(ie_device *device, void *to, const void *host, size_t bytes, ie_error *error);

/* Opens a CUDA device: src/cuda, or without it src/tensor/cuda_absent.c, which refuses. */
ie_status ie_cuda_device_open(const ie_device_options *options, int index, ie_device **out, ie_error *error);
/* Devices that could be opened. None: *why says what is missing, in one line. */
int ie_cuda_device_count(char *why, size_t size);
bool ie_cuda_is_built(void);

#endif
