/* The kernels of the CUDA device as plain C functions: the boundary between src/cuda/<name>.c (tensors, memory, graphs)
 * and src/cuda/<name>.cu (kernels). Nothing here knows ie_tensor or ie_ctx.
 *
 * Each function checks what the host can know, launches kernels on queue->stream and returns. It allocates nothing, waits
 * for nothing, and reads nothing from the device: all of them can be captured in a graph. What changes from token to
 * token (ids, positions, sequences, slots, experts, sampling steps) is read from device memory by the kernels.
 *
 * Pointers are device memory unless a comment says host. Matrices are row-major and dense. Sizes are int64_t; a launch
 * with nothing to do returns cudaSuccess. cudaErrorInvalidValue: sizes or pointers that the comment excludes, a caller's
 * fault; cudaErrorNotSupported: what no kernel is for (each function says what it takes); else what the launch said.
 *
 * Alignment: data of tensors and parts of weights should begin at multiples of 16 bytes and rows of weights be multiples
 * of 16 bytes; the fast kernels need that, and others, slower, are taken without. Scratch must be aligned to 256 bytes;
 * it is used by the kernels of this call only. Functions <op>_scratch give its size, which grows with the token count and
 * depends on nothing that the kernels read.
 *
 * Numbers: sums are f32. Class bf16: x is rounded to bf16 at the input of a product; class f16 to f16; class int8:
 * x = q s as kernels/kern.h says; weights are exact in all of them. Norms, RoPE, softmax, router, sampling: f32.
 * Attention: f32 products, but in class bf16, where a sequence has many tokens and the cache is bf16 or f16, its products are
 * those of the matrix units: q and the softmax's numerators are sums of two numbers of the cache's type.
 * Results are the same to the bit for equal arguments (the host's sizes among them): no float atomics.
 *
 * A token whose position is negative is padding (of a shape bucket): it is in no cache and its attention is zero.
 *
 * Programs without a GPU: tests/cuda/emulate has a cuda_runtime_api.h, cuda_runtime.h and cuda/ptx.cuh with which g++
 * makes host code of the very same files: -Itests/cuda/emulate before every other -I, *.cu as C++17 (-x c++), the *.cpp of
 * that folder, and -lstdc++. mk/cuda_emulate.mk: $(B)/emulated/libkernels.a has all of it, kernels and runtime calls. */
#ifndef CLOCHER_CUDA_KERNELS_H
#define CLOCHER_CUDA_KERNELS_H

#include "blocks/format.h"
#include "clocher/tensor.h"
#include "kernels/kern.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which products of class bf16 with many rows of x take wgmma, where the chip and the program have it: those that are
 * large enough to fill the chip, or all that it has a kernel for. */
typedef enum ie_cuda_wgmma { IE_CUDA_WGMMA_NEVER, IE_CUDA_WGMMA_LARGE, IE_CUDA_WGMMA_ALWAYS } ie_cuda_wgmma;

/* Where to launch, and what launches depend on. One a thread. */
typedef struct ie_cuda_queue {
  cudaStream_t stream;
  int sms;             /* multiprocessors */
  int major, minor;    /* compute capability */
  size_t shared_bytes; /* that a block may have after opting in */
  bool
      overlap; /* programmatic dependent launch: a kernel's start overlaps the end of the one before (9.0 on).
                          Right with any order of these functions, copies and memsets on one stream */
  ie_cuda_wgmma wgmma; /* may be changed between calls, to anything where ie_cuda_wgmma_loaded */
} ie_cuda_queue;

/* Fills everything but the stream from the properties of a device; overlap = false, wgmma for what is
 * large where there is any. */
cudaError_t ie_cuda_queue_prepare(int device, ie_cuda_queue *out);
/* Whether the chip is of compute capability 9.0 and the code that was loaded for it is that of sm_90a. */
bool ie_cuda_wgmma_loaded(const ie_cuda_queue *queue);

/* --- Operands ---------------------------------------------------------------------------------------------- */

/* ie_weight on the device. */
typedef struct ie_cuda_weight {
  ie_wformat format;
  int64_t experts, rows, cols;
  const uint8_t *part[2];
  size_t row_bytes[2], expert_bytes[2];
  const void *bias; /* (E, R) or NULL */
  ie_dtype bias_dtype;
  int64_t bias_stride; /* elements between the biases of two experts */
} ie_cuda_weight;

typedef struct ie_cuda_vector {
  const void *data; /* NULL: absent */
  ie_dtype dtype;   /* IE_F32, IE_F16, IE_BF16 */
} ie_cuda_vector;

/* --- Faults -------------------------------------------------------------------------------------------------- */

/* What went wrong first, in one number in device memory that kernels lower with atomicMin: where * 2^41 + index * 2 +
 * is_nan. `where` is the caller's number of the check (below 2^22), growing along a forward; index is that of the number
 * at fault. Read it once a forward. */
typedef unsigned long long ie_cuda_fault;
#define IE_CUDA_NO_FAULT           (~0ull)
#define IE_CUDA_FAULT_WHERE(fault) ((int)((fault) >> 41))
#define IE_CUDA_FAULT_INDEX(fault) ((int64_t)((fault) >> 1 & ((1ull << 40) - 1)))
#define IE_CUDA_FAULT_NAN(fault)   ((int)((fault)&1))

/* Where a kernel reports; fault NULL: nothing is checked. */
typedef struct ie_cuda_check {
  ie_cuda_fault *fault;
  int where;
} ie_cuda_check;

cudaError_t ie_cuda_fault_clear(const ie_cuda_queue *queue, ie_cuda_fault *fault);
/* find_nonfinite without waiting: the first number of x (n) that is NaN or infinite. */
cudaError_t ie_cuda_check_finite(const ie_cuda_queue *queue, const float *x, int64_t n, ie_cuda_check check);

/* --- Rows and elements ------------------------------------------------------------------------------------------ */

/* y (T, C) = rows ids[t] of w, exact; every format. */
typedef struct ie_cuda_embed_args {
  float *y;
  ie_cuda_weight w; /* experts 1 */
  const int32_t *ids;
  int64_t tokens;
} ie_cuda_embed_args;
cudaError_t ie_cuda_embed(const ie_cuda_queue *queue, const ie_cuda_embed_args *args);

/* y (rows, width) = rows index[0..rows) of x */
typedef struct ie_cuda_gather_args {
  float *y;
  const float *x;
  const int32_t *index;
  int64_t rows, width;
} ie_cuda_gather_args;
cudaError_t ie_cuda_gather_rows(const ie_cuda_queue *queue, const ie_cuda_gather_args *args);

/* y, x (rows, width), y may be x. Without bias: rms_norm (weight may be absent); ie_cuda_layer_norm needs weight and
 * bias of one dtype. check (if any) is of x: NaN or infinity, before the norm, which would hide nothing but is read
 * anyway; index = row * width + column. */
typedef struct ie_cuda_norm_args {
  float *y;
  const float *x;
  ie_cuda_vector weight, bias;
  int64_t rows, width;
  float eps;
  ie_cuda_check check;
} ie_cuda_norm_args;
cudaError_t ie_cuda_rms_norm(const ie_cuda_queue *queue, const ie_cuda_norm_args *args);
cudaError_t ie_cuda_layer_norm(const ie_cuda_queue *queue, const ie_cuda_norm_args *args);

/* In place over n numbers. */
cudaError_t ie_cuda_activate(const ie_cuda_queue *queue, float *x, int64_t n, ie_activation activation);
cudaError_t ie_cuda_soft_cap(const ie_cuda_queue *queue, float *x, int64_t n, float cap);
/* x = 0, x *= factor, y += x, y = x */
cudaError_t ie_cuda_zero(const ie_cuda_queue *queue, float *x, int64_t n);
cudaError_t ie_cuda_scale(const ie_cuda_queue *queue, float *x, int64_t n, float factor);
cudaError_t ie_cuda_add(const ie_cuda_queue *queue, float *y, const float *x, int64_t n);
cudaError_t ie_cuda_copy(const ie_cuda_queue *queue, float *y, const float *x, int64_t n);
/* y (n) = silu(gate) * up; y may be gate or up */
cudaError_t ie_cuda_swiglu(const ie_cuda_queue *queue, float *y, const float *gate, const float *up,
                           int64_t n);

/* y[i] (T, H, D) = the q, k and v of each head of x (T, H * 3 D) */
typedef struct ie_cuda_split_args {
  float *y[3];
  const float *x;
  int64_t tokens, heads, dim;
} ie_cuda_split_args;
cudaError_t ie_cuda_split_heads(const ie_cuda_queue *queue, const ie_cuda_split_args *args);

/* cos, sin (T, half) of position * inv_freq (half), the angle rounded to f32, times scale; bf16: rounded to that */
typedef struct ie_cuda_rope_table_args {
  float *cos, *sin;
  const int32_t *position;
  const float *inv_freq; /* device memory: upload it once */
  int64_t tokens, half;
  float scale;
  bool bf16;
} ie_cuda_rope_table_args;
cudaError_t ie_cuda_rope_table(const ie_cuda_queue *queue, const ie_cuda_rope_table_args *args);

/* n (1 to 2) tensors x[i] (T, heads[i], D) in place with cos, sin (T, half): q and k in one launch */
typedef struct ie_cuda_rope_args {
  float *x[2];
  int64_t heads[2];
  int n;
  const float *cos, *sin;
  int64_t tokens, dim, half;
} ie_cuda_rope_args;
cudaError_t ie_cuda_rope(const ie_cuda_queue *queue, const ie_cuda_rope_args *args);

/* --- Products --------------------------------------------------------------------------------------------------- */

enum { IE_CUDA_LINEAR_MAX = 4 };

/* y[i] (T, R_i) = x (T, K) w[i]^T + bias, or += that, for n weights of equal K that share x. Every format, every class.
 * y[i] must not overlap x. */
typedef struct ie_cuda_linear_args {
  float *y[IE_CUDA_LINEAR_MAX];
  ie_cuda_weight w[IE_CUDA_LINEAR_MAX]; /* experts 1 */
  int n;
  const float *x;
  int64_t tokens;
  ie_class cls; /* of weights that are `exact`: IE_CLASS_F32 */
  bool add;
  void *scratch; /* ie_cuda_linear_scratch(args) bytes; may be NULL where that is 0 */
} ie_cuda_linear_args;
size_t ie_cuda_linear_scratch(const ie_cuda_linear_args *args);
cudaError_t ie_cuda_linear(const ie_cuda_queue *queue, const ie_cuda_linear_args *args);

/* --- Mixture of experts ------------------------------------------------------------------------------------------ */

/* expert (T, k), weight (T, k) = softmax over the chosen of logits (T, E); ties go to the smaller index; E <= 1024,
 * k <= 64. check is of the logits; index = t * E + e. */
typedef struct ie_cuda_route_args {
  int32_t *expert;
  float *weight;
  const float *logits;
  int64_t tokens, experts, top_k;
  ie_cuda_check check;
} ie_cuda_route_args;
cudaError_t ie_cuda_route(const ie_cuda_queue *queue, const ie_cuda_route_args *args);

/* y (T, C) += sum over the k experts of each token of weight * expert(x), added in the order of k, with clamped SwiGLU
 * between the products (rows 2i gate, 2i + 1 up). Every format. check: gate and up before the clamp, index = (t * k + j)
 * * 2F + row. Few tokens: two launches. Many: the pairs are sorted by expert on the device. */
typedef struct ie_cuda_moe_args {
  float *y;
  const float *x;
  const int32_t *expert;        /* (T, k), each below E */
  const float *weight;          /* (T, k) */
  int64_t tokens, top_k;        /* k <= 64 */
  ie_cuda_weight gate_up, down; /* (E, 2F, C), (E, C, F) */
  float alpha, limit;
  ie_class cls;
  ie_cuda_check check;
  void *scratch; /* ie_cuda_moe_scratch(args) bytes */
} ie_cuda_moe_args;
size_t ie_cuda_moe_scratch(const ie_cuda_moe_args *args);
cudaError_t ie_cuda_moe(const ie_cuda_queue *queue, const ie_cuda_moe_args *args);

/* --- Keys, values, attention ------------------------------------------------------------------------------------- */

/* ie_kv_layer on the device: k, v (B, HK, cap, D); position p of a sequence is in slot p % cap. IE_I8: scales as there,
 * and `recent`, a host pointer to the ring of the exact ones; NULL for float caches. */
typedef struct ie_cuda_kv {
  void *k, *v;
  ie_dtype dtype; /* IE_F32, IE_F16, IE_BF16 or IE_I8 */
  int64_t sequences, heads, cap, dim;
  uint16_t *k_scale, *v_scale;
  const struct ie_cuda_kv *recent;
} ie_cuda_kv;

/* k, v (T, HK, D) to their slots. In an int8 layer the groups that these tokens complete are quantised. check: numbers
 * that a cache of f16 cannot hold; index = (t * HK + h) * D + d. D <= 1024.
 * rope NULL, or k is rotated on the way (k itself is left as it is): cos, sin (T, half). */
typedef struct ie_cuda_kv_append_args {
  ie_cuda_kv kv;
  const float *k, *v;
  const float *cos, *sin; /* NULL: k is rotated already */
  int64_t half;
  const int32_t *position, *sequence;
  int64_t tokens;
  ie_cuda_check check;
} ie_cuda_kv_append_args;
cudaError_t ie_cuda_kv_append(const ie_cuda_queue *queue, const ie_cuda_kv_append_args *args);

/* y, q (T, H, D); H a multiple of kv.heads; D <= 1024. Tokens of one sequence stand together in the order of their
 * positions. */
typedef struct ie_cuda_attention_args {
  float *y;
  const float *q;
  ie_cuda_kv kv;
  const int32_t *position, *sequence;
  int64_t tokens, heads;
  float scale;
  int64_t window;       /* query p sees p - window < s <= p; 0: all s <= p */
  ie_cuda_vector sinks; /* (H) or absent */
  ie_class cls;
  int64_t longest_run; /* at least the most tokens of one sequence in this batch: 1 in decode */
  int64_t
      key_bound; /* at least the most keys that a query sees (position + 1, at most the window), from the host's
                          knowledge or that of the shape bucket: how many parts the context is split into depends on it,
                          so a graph must be captured with the bound that holds for all its replays */
  void *scratch; /* ie_cuda_attention_scratch(args) bytes */
} ie_cuda_attention_args;
size_t ie_cuda_attention_scratch(const ie_cuda_attention_args *args);
cudaError_t ie_cuda_attention(const ie_cuda_queue *queue, const ie_cuda_attention_args *args);

/* --- Sampling ------------------------------------------------------------------------------------------------------ */

/* id[r] = first index of the largest of logits (rows, vocab). NaN, +infinity, or nothing above -infinity: a fault, index
 * r * vocab + i, and id[r] = 0. */
typedef struct ie_cuda_argmax_args {
  int32_t *id;
  const float *logits;
  int64_t rows, vocab;
  ie_cuda_check check;
  void *scratch; /* ie_cuda_argmax_scratch(args) bytes */
} ie_cuda_argmax_args;
size_t ie_cuda_argmax_scratch(const ie_cuda_argmax_args *args);
cudaError_t ie_cuda_argmax(const ie_cuda_queue *queue, const ie_cuda_argmax_args *args);

/* What engine/sampler.h draws with the default steps of ie_sample_params, to the bit of its rules: repetition penalty,
 * temperature, top-k, top-p, min-p (0: the step is left out), the draw from base/rng.h. In device memory, one a row. */
typedef struct ie_cuda_sample_params {
  double top_p, min_p;
  int64_t top_k;
  uint64_t seed, row, step; /* of the generator; ie_cuda_advance counts step on */
  float temperature, repetition_penalty;
  int32_t greedy;
  int32_t reserved;
} ie_cuda_sample_params;

enum { IE_CUDA_SAMPLE_VOCAB_MAX = (1 << 19) - 1 }; /* masses of more would not fit their sums */

/* id[r] from logits (rows, vocab), which are overwritten. seen (rows, vocab / 32 rounded up) has a bit for each id of the
 * history, or is NULL (repetition_penalty must be 0 then). Faults as argmax. */
typedef struct ie_cuda_sample_args {
  int32_t *id;
  float *logits;
  int64_t rows, vocab;
  int64_t first_row;                   /* of a forward's logits, for `check`: rows may come in parts */
  const ie_cuda_sample_params *params; /* (rows) */
  const uint32_t *seen;
  ie_cuda_check check;
  void *scratch; /* ie_cuda_sample_scratch(args) bytes */
} ie_cuda_sample_args;
size_t ie_cuda_sample_scratch(const ie_cuda_sample_args *args);
cudaError_t ie_cuda_sample(const ie_cuda_queue *queue, const ie_cuda_sample_args *args);

/* Between two steps of decode on the device: ids[t] = id[t], position[t] += 1 unless negative, and where given
 * params[t].step += 1 and the bit of id[t] set in seen. */
typedef struct ie_cuda_advance_args {
  int32_t *ids, *position;
  const int32_t *id;
  int64_t tokens, vocab;
  ie_cuda_sample_params *params; /* or NULL */
  uint32_t *seen;                /* or NULL */
} ie_cuda_advance_args;
cudaError_t ie_cuda_advance(const ie_cuda_queue *queue, const ie_cuda_advance_args *args);

/* --- Probes: what the chip can do, for gpu-check and the shares that benchmarks print -------------------------------- */

/* An empty kernel: the gap between launches, eager and in a graph. */
cudaError_t ie_cuda_probe_empty(const ie_cuda_queue *queue);
/* Reads `bytes` (a multiple of 16) once with 16-byte loads; writes to sink (1) never, or once. */
cudaError_t ie_cuda_probe_read(const ie_cuda_queue *queue, const void *data, size_t bytes, float *sink);
/* The tensor cores in bf16 with nothing else to do, `rounds` on every warp: wgmma of the largest shape (A in registers, B in
 * shared memory) unless queue->wgmma is IE_CUDA_WGMMA_NEVER, else mma.sync; *flop (host) = what one launch computes. */
cudaError_t ie_cuda_probe_matrix(const ie_cuda_queue *queue, int64_t rounds, float *sink, double *flop);
/* `rounds` barriers over one block a multiprocessor, a cooperative launch; counter (1) must be 0 before each launch.
 * cudaErrorNotSupported where blocks do not run at once (the emulator). */
cudaError_t ie_cuda_probe_barrier(const ie_cuda_queue *queue, uint32_t *counter, int64_t rounds);

#ifdef __cplusplus
}
#endif

#endif
