/* The CUDA device from inside. Private to src/cuda.
 *
 * device.c   opening, memory of the device
 * hold.c     copies of the host's weights, and finding them by the host's address
 * runner.c   one forward: the batch in, launches or the replay of recorded ones, logits and faults out
 * runner_draw.c  instead of the logits the ids that are drawn from them
 * probe.c    ceilings of the chip
 * launch*.c  launchers: from tensors, weights and batches to the calls of kernels.h
 *
 * Everything goes to one stream in order. A failure of the runtime is sticky there: it becomes IE_DEVICE with what was
 * done, once, and every later call fails as well; nothing waits without a limit (cuda_wait). */
#ifndef CLOCHER_CUDA_CUDA_H
#define CLOCHER_CUDA_CUDA_H

#include "cuda/kernels.h"
#include "tensor/device_memory.h"

/* CUDA_CHECK_DRAW is the number of a check after all those of a forward: the logits that ids are drawn from. */
enum { CUDA_ALIGN = 256, CUDA_CHECKS_MAX = 4096, CUDA_CHECK_DRAW = CUDA_CHECKS_MAX };

/* One block of device memory with copies of host ranges. */
typedef struct cuda_held {
  const void *owner;
  uint8_t *base; /* device memory */
  size_t bytes;
  size_t count;
  struct {
    const uint8_t *host;
    size_t bytes, at; /* the copy begins at base + at */
  } * range;          /* (count) by ascending address of the host */
  struct cuda_held *next;
} cuda_held;

typedef enum cuda_check_kind { CUDA_CHECK_FINITE, CUDA_CHECK_GATE_UP, CUDA_CHECK_F16 } cuda_check_kind;

/* What a fault's `where` means. */
typedef struct cuda_check {
  cuda_check_kind kind;
  const char *what;
  int layer;
  int64_t width; /* numbers of a row: a token, or one of its `group` experts */
  int64_t group;
} cuda_check;

/* Attention that a forward ran, for the count of work: it depends on positions, which a replay does not see. */
typedef struct cuda_attended {
  int64_t window, q_numbers; /* H D */
  size_t position_bytes;     /* of keys and values, scales included */
} cuda_attended;

/* The launches of one forward, as they are made: what is told to the host besides. */
typedef struct cuda_trace {
  cuda_check *check; /* (CUDA_CHECKS_MAX) */
  int checks;
  cuda_attended *attended; /* (CUDA_CHECKS_MAX) */
  int attentions;
  ie_work work;  /* but for attention */
  float *logits; /* device memory: (wanted, V); NULL: none are wanted */
} cuda_trace;

/* Where ids are drawn. */
typedef struct cuda_draw {
  ie_runner_options options;
  uint8_t *memory; /* device: parameters, ids, histories, scratch */
  uint8_t *host;   /* pinned: the same without scratch */
} cuda_draw;

/* Work that the next launcher may take into its own launch. */
typedef struct cuda_pending {
  const float *checked; /* find_nonfinite was asked for it; NULL: none */
  int64_t checked_numbers;
  ie_cuda_check check;
  ie_cuda_rope_args rope; /* one tensor to rotate; n = 0: none */
} cuda_pending;

typedef struct cuda_device {
  ie_device base; /* the first member: an ie_device * is a cuda_device * */
  int index;
  ie_cuda_queue queue;
  cudaEvent_t done;
  cuda_held *held;
  ie_cuda_fault *fault; /* device memory */
  cuda_trace *trace;    /* of the forward that is being launched; NULL: none */
  cuda_pending pending;
  double wait_s;       /* how long an answer may take: a minute, but for tests */
  bool lost;           /* it has not answered for so long: what it holds is left to the end of the process */
  uint64_t generation; /* grows when copies come or go: what was recorded before is void */
} cuda_device;

/* What a runner did, for tests. */
typedef struct cuda_counts {
  uint64_t eager, recorded, replayed;
} cuda_counts;

static inline cuda_device *cuda_of(ie_device *device) {
  return (cuda_device *)device;
}
static inline cuda_device *cuda_of_ctx(ie_ctx *ctx) {
  return (cuda_device *)ctx->device;
}

/* IE_OK, IE_OUT_OF_MEMORY or IE_DEVICE with what was done and what the runtime said. */
ie_status cuda_status(const cuda_device *device, cudaError_t result, const char *what, ie_error *error);
/* Waits until everything launched so far is done, at most a minute without an answer: then the device is lost. */
ie_status cuda_wait(cuda_device *device, const char *what, ie_error *error);
/* The same for what stands before an event that was recorded. */
ie_status cuda_wait_for(cuda_device *device, cudaEvent_t event, const char *what, ie_error *error);

/* Makes it the calling thread's device (the runtime keeps one for each thread); an error when it is lost. */
ie_status cuda_enter(const cuda_device *device, ie_error *error);
/* The same to give back what it holds. False: it is lost, and all such calls would hang. */
bool cuda_choose(const cuda_device *device);

/* Whether launches from now on overlap the end of the kernel before (programmatic dependent launch, 9.0 on). Off until it
 * was measured. */
void cuda_overlap(cuda_device *device, bool overlap);
/* Which products take wgmma from now on; never where the chip or the program lacks it. */
void cuda_wgmma(cuda_device *device, ie_cuda_wgmma wanted);
/* Pinned memory of the host, to be freed by cudaFreeHost. IE_OUT_OF_MEMORY names `what` and the bytes. */
ie_status cuda_pinned(cuda_device *device, size_t bytes, const char *what, void **out, ie_error *error);

/* hold.c */
ie_status cuda_hold(ie_device *device, const void *owner, const ie_host_range *range, size_t n,
                    ie_error *error);
void cuda_drop(ie_device *device, const void *owner);
/* The copy of what lies at `host`; NULL for NULL, and for an address that nobody holds. */
const void *cuda_held_find(const cuda_device *device, const void *host);

/* runner.c */
ie_status cuda_runner_new(ie_device *device, const ie_runner_options *options, ie_runner **out,
                          ie_error *error);
void cuda_runner_free(ie_device *device, ie_runner *runner);
ie_status cuda_run(ie_runner *runner, ie_ctx *ctx, const ie_forward *forward, const float **logits,
                   ie_error *error);
cuda_counts cuda_runner_counts(const ie_runner *runner);
size_t cuda_runner_bytes(const ie_runner_options *options);

/* runner_draw.c */
size_t cuda_draw_bytes(const ie_runner_options *options);
/* *draw is to be closed in any case. */
ie_status cuda_draw_open(cuda_device *device, const ie_runner_options *options, cuda_draw *draw,
                         ie_error *error);
void cuda_draw_close(cuda_device *device, cuda_draw *draw);
/* Launches what draws an id from each of n rows of logits, which are overwritten; it waits for nothing. */
cudaError_t cuda_draw_launch(cuda_draw *draw, const ie_cuda_queue *queue, float *logits,
                             const ie_draw_row *row, int64_t n, ie_cuda_check check);
/* The ids, once that is done. */
void cuda_draw_read(const cuda_draw *draw, ie_draw_row *row, int64_t n);

/* probe.c */
ie_status cuda_probe_read(ie_device *device, size_t buffer_bytes, ie_ceilings *out, ie_error *error);
ie_status cuda_probe_matrix(ie_device *device, ie_ceilings *out, ie_error *error);

/* launch.c: fails the context when a launch was refused. */
bool cuda_launched(ie_ctx *ctx, const char *op, cudaError_t result);
/* A check's number in this forward, and where it reports; nothing is checked outside a forward. */
ie_cuda_check cuda_check_new(ie_ctx *ctx, cuda_check_kind kind, const char *what, int64_t width,
                             int64_t group);
/* Launches what is pending. */
void cuda_flush(ie_ctx *ctx);
/* Scratch of the arena, aligned as kernels want it; NULL in a dry run, with *good as ie_ctx_scratch's answer. */
void *cuda_scratch(ie_ctx *ctx, size_t bytes, bool *good);
ie_cuda_weight cuda_weight(ie_ctx *ctx, const ie_weight *w);
ie_cuda_vector cuda_vector(ie_ctx *ctx, const ie_vector *v);

void cuda_fill_elementwise(ie_device_ops *ops); /* launch.c */
void cuda_fill_products(ie_device_ops *ops);    /* launch_products.c */
void cuda_fill_attention(ie_device_ops *ops);   /* launch_attention.c */

/* Keys that a query of a forward may see, rounded up so that few different graphs do. */
int64_t cuda_reach_bucket(int64_t reach);

#endif
