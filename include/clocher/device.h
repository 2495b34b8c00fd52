/* Devices: where arithmetic runs. A device owns its threads and its kernel table; models, states and samplers
 * borrow it, so it is freed last.
 *
 * Thread safety: a device runs one operation at a time; use one device per thread that calls into models. */
#ifndef CLOCHER_DEVICE_H
#define CLOCHER_DEVICE_H

#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* Arithmetic class: how activations enter a product. Weights are always exact, sums are f32 (or exact integers),
 * and the residual stream, norms, RoPE, softmax, router, sampling and logits are f32 in all of them. */
typedef enum ie_precision {
  IE_PRECISION_BF16, /* activations rounded to bf16 at the input of a product */
  IE_PRECISION_FP32, /* activations as they are */
  IE_PRECISION_FP16, /* rounded to f16 */
  IE_PRECISION_INT8  /* quantised to int8 per 32 values; integer sums against quantised weights */
} ie_precision;

/* "bf16", "fp32", "fp16", "int8". */
const char *ie_precision_name(ie_precision precision);
/* Returns false (and leaves *out) for an unknown name. */
bool ie_precision_from_name(const char *name, ie_precision *out);

typedef struct ie_device ie_device;

typedef struct ie_device_options {
  /* "auto" (NULL): the first CUDA device, or the CPU where there is none (ie_device_note says why); "cpu"; "cuda" and
   * "cuda:N", which answer IE_UNSUPPORTED when not built and IE_DEVICE when there is no such device or its driver is
   * too old; "ze", which is not built. */
  const char *kind;
  const char *isa; /* "scalar", "avx2", "avx512", "amx"; NULL: the best that the machine has. IE_DEVICE when
                           the machine lacks it. Of a CUDA device: what the host computes with, such as samplers */
  int threads;     /* 0: the cores this process may use */
  const char *affinity; /* "auto" (NULL), "none", "compact", "scatter" */
} ie_device_options;

/* options may be NULL. */
ie_status ie_device_open(const ie_device_options *options, ie_device **out, ie_error *error);
void ie_device_free(ie_device *device);

const char *ie_device_kind(const ie_device *device); /* "cpu", "cuda" */
const char *ie_device_name(const ie_device *device); /* "cpu", "cuda:0 NVIDIA H200" */
/* Why "auto" did not choose a CUDA device; NULL where there is nothing to say. */
const char *ie_device_note(const ie_device *device);
/* Whether this program has CUDA, whatever the machine has. */
bool ie_device_cuda_built(void);
const char *ie_device_isa(const ie_device *device); /* the kernel set in use: "avx512" */
int ie_device_threads(const ie_device *device);

/* Names of the kernel sets that this machine and this build can run, slowest first; ends with NULL. */
const char *const *ie_device_isa_list(void);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
