/* Everything that is not plain CUDA C++: instructions that have no function, and launching. tests/cuda/emulate/cuda has
 * a file of the same name, with which g++ makes host code of the kernels; so each function here does one thing. */
#ifndef CLOCHER_CUDA_PTX_CUH
#define CLOCHER_CUDA_PTX_CUH

#include "cuda/kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

/* What compute capability 7.5 lacks is a trap there: no kernel that would meet it is launched. */

/* --- Numbers ------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ float f16_to_f32(uint16_t h) {
  return __half2float(__ushort_as_half(h));
}
static __device__ __forceinline__ uint16_t f32_to_f16(float x) {
  return __half_as_ushort(__float2half_rn(x));
}
static __device__ __forceinline__ float bf16_to_f32(uint16_t h) {
  return __uint_as_float((uint32_t)h << 16);
}
static __device__ __forceinline__ uint16_t f32_to_bf16(float x) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
static __device__ __forceinline__ uint32_t bf16x2_of(float low, float high) {
  return (uint32_t)f32_to_bf16(high) << 16 | f32_to_bf16(low);
}
static __device__ __forceinline__ uint32_t f16x2_of(float low, float high) {
  return (uint32_t)f32_to_f16(high) << 16 | f32_to_f16(low);
}
/* The chip's own: the last bits are wrong. a / b is 0 where b is beyond 2^126. */
static __device__ __forceinline__ float quick_exp(float x) {
  return __expf(x);
}
static __device__ __forceinline__ float quick_divide(float a, float b) {
  return __fdividef(a, b);
}
/* Both halves: a b. Subnormal operands count. */
static __device__ __forceinline__ uint32_t bf16x2_mul(uint32_t a, uint32_t b) {
  uint32_t d;
#if __CUDA_ARCH__ >= 900
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
#elif __CUDA_ARCH__ < 800
  d = a ^ b, __trap();
#else
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(0x80008000u));
#endif
  return d;
}

/* Both halves: a + b. */
static __device__ __forceinline__ uint32_t bf16x2_add(uint32_t a, uint32_t b) {
  uint32_t d;
#if __CUDA_ARCH__ >= 900
  asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
#elif __CUDA_ARCH__ < 800
  d = a ^ b, __trap();
#else
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(0x3F803F80u), "r"(b));
#endif
  return d;
}

/* --- Tensor cores: d (16, 8) += a (16, 16) b (16, 8), 16-bit numbers with f32 sums -------------------------------------------- */

/* Lane 4 g + t: a[0] = A[g][2t, 2t + 1], a[1] = A[g + 8][same], a[2] = A[g][2t + 8, 2t + 9], a[3] = A[g + 8][same];
 * b[0] = B[2t, 2t + 1][g], b[1] = B[2t + 8, 2t + 9][g]; d[0..1] = D[g][2t, 2t + 1], d[2..3] = D[g + 8][same]. */
#if __CUDA_ARCH__ >= 800
#define MMA_M16N8K16(type, d, a, b)                                                                          \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, "              \
               "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                               \
               : "+f"((d)[0]), "+f"((d)[1]), "+f"((d)[2]), "+f"((d)[3])                                      \
               : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "r"((b)[0]), "r"((b)[1]))
#else
#define MMA_M16N8K16(type, d, a, b) __trap()
#endif
static __device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
  MMA_M16N8K16("bf16", d, a, b);
}
static __device__ __forceinline__ void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
  MMA_M16N8K16("f16", d, a, b);
}

/* Four matrices of 8 x 8 halves from shared memory; lane 8 m + r names row r of matrix m (16 bytes, aligned). Lane
 * 4 g + t gets row g, halves 2t and 2t + 1 of each; transposed: rows 2t and 2t + 1 of column g. */
static __device__ __forceinline__ void matrix_load(uint32_t r[4], const void *row) {
  uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
static __device__ __forceinline__ void matrix_load_transposed(uint32_t r[4], const void *row) {
  uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

/* --- Memory ----------------------------------------------------------------------------------------------------- */

/* 16 or 8 bytes that no kernel writes and this one reads once: weights. */
static __device__ __forceinline__ uint4 load_once(const void *from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}
static __device__ __forceinline__ uint2 load_once8(const void *from) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
  return v;
}

/* 16 bytes from global to shared memory behind the thread's back; zeros where not valid (nothing is read then). */
static __device__ __forceinline__ void copy_async(void *to, const void *from, bool valid) {
#if __CUDA_ARCH__ >= 800
  uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
#else
  __trap();
#endif
}
static __device__ __forceinline__ void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  __trap();
#endif
}
/* Until at most GROUPS of the thread's groups are under way. */
template <int GROUPS> static __device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
#else
  __trap();
#endif
}

/* --- Launching ---------------------------------------------------------------------------------------------------- */

/* Every kernel calls both, launch_wait before it reads or writes what an earlier kernel may write or read (all but
 * weights), in all threads. Then the end of a kernel implies the end of all before it. */
static __device__ __forceinline__ void launch_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/* The next kernel's blocks may begin where there is room. */
static __device__ __forceinline__ void launch_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

struct launch_shape {
  dim3 blocks, threads;
  size_t shared; /* bytes */
};

/* Dynamic shared memory that every kernel may take: 48 KiB less its static one, of which no kernel has more than 16. */
enum { SHARED_FREE = 32 << 10 };

/* Lets a kernel have all that the chip gives a block, once: a graph that was recorded with much must not find less
 * allowed because a later launch wanted less. */
static inline cudaError_t shared_allow(const ie_cuda_queue *queue, const void *kernel, size_t wanted) {
  cudaFuncAttributes has;
  cudaError_t status = cudaFuncGetAttributes(&has, kernel);
  if (status != cudaSuccess || (size_t)has.maxDynamicSharedSizeBytes >= wanted) return status;
  if (has.sharedSizeBytes + wanted > queue->shared_bytes) return cudaErrorInvalidValue;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              (int)(queue->shared_bytes - has.sharedSizeBytes));
}

template <class... P, class... A>
static cudaError_t launch_with(const ie_cuda_queue *queue, const launch_shape &shape,
                               cudaLaunchAttributeID id, void (*kernel)(P...), A... args) {
  cudaError_t status =
      shape.shared > SHARED_FREE ? shared_allow(queue, (const void *)kernel, shape.shared) : cudaSuccess;
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute attribute = {};
  attribute.id = id;
  if (id == cudaLaunchAttributeCooperative)
    attribute.val.cooperative = 1;
  else
    attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.blocks;
  config.blockDim = shape.threads;
  config.dynamicSmemBytes = shape.shared;
  config.stream = queue->stream;
  config.attrs = &attribute;
  config.numAttrs = id == cudaLaunchAttributeCooperative || (queue->overlap && queue->major >= 9) ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, P(args)...);
}
template <class... P, class... A>
static cudaError_t launch(const ie_cuda_queue *queue, const launch_shape &shape, void (*kernel)(P...),
                          A... args) {
  return launch_with(queue, shape, cudaLaunchAttributeProgrammaticStreamSerialization, kernel, args...);
}
/* All blocks run at once. */
template <class... P, class... A>
static cudaError_t launch_together(const ie_cuda_queue *queue, const launch_shape &shape,
                                   void (*kernel)(P...), A... args) {
  return launch_with(queue, shape, cudaLaunchAttributeCooperative, kernel, args...);
}

#endif
