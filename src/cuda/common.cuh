/* What several kernels share: sums over warps and blocks, loads by type, faults, the special functions of base/. */
#ifndef CLOCHER_CUDA_COMMON_CUH
#define CLOCHER_CUDA_COMMON_CUH

#include "cuda/ptx.cuh"

enum { WARP = 32 };
#define ALL_LANES 0xFFFFFFFFu

static __host__ __device__ __forceinline__ int64_t blocks_for(int64_t n, int64_t per_block) {
  return (n + per_block - 1) / per_block;
}

static __host__ __device__ __forceinline__ int64_t least_of(int64_t a, int64_t b) {
  return a < b ? a : b;
}

/* The CUDA grid's x is below 2^31. */
static inline bool grid_fits(int64_t blocks) {
  return blocks > 0 && blocks < 2147483648ll;
}

static inline dim3 grid_of(int64_t x, int64_t y = 1) {
  return dim3((unsigned int)x, (unsigned int)y, 1);
}

/* --- Sums and maxima, the same in every lane; fixed order ----------------------------------------------------------- */

static __device__ __forceinline__ float warp_sum(float x) {
  for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(ALL_LANES, x, bits);
  return x;
}
static __device__ __forceinline__ float warp_max(float x) {
  for (int bits = 16; bits > 0; bits /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, bits));
  return x;
}
/* Sum over the block; `shared` has room for one number a warp (32) and may be used again after the next barrier. */
static __device__ __forceinline__ float block_sum(float x, float *shared) {
  x = warp_sum(x);
  if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = x;
  __syncthreads();
  float sum = 0;
  for (unsigned int i = 0; i < blockDim.x / WARP; i++) sum += shared[i];
  return sum;
}

/* --- Numbers by type -------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ float load_as(const void *x, ie_dtype dtype, int64_t i) {
  if (dtype == IE_F32) return ((const float *)x)[i];
  uint16_t h = ((const uint16_t *)x)[i];
  return dtype == IE_F16 ? f16_to_f32(h) : bf16_to_f32(h);
}
static __device__ __forceinline__ float round_bf16(float x) {
  return bf16_to_f32(f32_to_bf16(x));
}

/* --- Faults ------------------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ bool is_finite(float x) {
  return fabsf(x) < INFINITY;
}
static __device__ __forceinline__ void fault_report(ie_cuda_check check, int64_t index, float x) {
  atomicMin(check.fault, (unsigned long long)check.where << 41 | (unsigned long long)index << 1 |
                             (unsigned long long)(x != x));
}
static __device__ __forceinline__ void finite_check(ie_cuda_check check, int64_t index, float x) {
  if (check.fault && !is_finite(x)) fault_report(check, index, x);
}

/* --- base/exp.h and base/special.h, operation by operation: the same bits ---------------------------------------------- */

static __device__ __forceinline__ float exact_exp(float x) {
  if (x < -104.0f) x = -104.0f;
  if (x > 89.0f) x = 89.0f;
  if (!(x == x)) return x;
  float n = __fsub_rn(__fadd_rn(__fmul_rn(x, 0x1.715476p+0f), 0x1.8p23f), 0x1.8p23f);
  float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0x1.63p-1f)), __fmul_rn(n, -0x1.bd0106p-13f));
  float p = __fadd_rn(__fmul_rn(0x1.6a2352p-10f, r), 0x1.123a6cp-7f);
  p = __fadd_rn(__fmul_rn(p, r), 0x1.5558f4p-5f);
  p = __fadd_rn(__fmul_rn(p, r), 0x1.555490p-3f);
  p = __fadd_rn(__fmul_rn(p, r), 0x1.fffffcp-2f);
  float y = __fadd_rn(__fadd_rn(__fmul_rn(p, __fmul_rn(r, r)), r), 1.0f);
  int whole = (int)n, half = whole / 2;
  y = __fmul_rn(y, __uint_as_float((uint32_t)(half + 127) << 23));
  return __fmul_rn(y, __uint_as_float((uint32_t)(whole - half + 127) << 23));
}

/* The probability beyond |x| of the normal distribution: ie_normal_tail. */
static __device__ __forceinline__ float normal_tail(float x) {
  const float c[] = {0x1.46e80ep+0f,  -0x1.7bf608p-4f, -0x1.540814p-3f, 0x1.4ffc00p-3f,   -0x1.bc0f1cp-5f,
                     -0x1.081346p-7f, 0x1.1afb7ep-7f,  0x1.586656p-10f, -0x1.431cecp-10f, -0x1.a4fdf8p-12f};
  float a = fabsf(x);
  if (a > 16.0f) a = 16.0f;
  float t = a * 0x1.6a09e6p-1f, u = (t - 2.0f) / (t + 2.0f), p = c[9];
#pragma unroll
  for (int i = 8; i >= 0; i--) p = p * u + c[i];
  return exact_exp(a * a * -0.5f) * p * 0.5f / (t + t + 1.0f);
}

/* ie_tanhf */
static __device__ __forceinline__ float tanh_of(float x) {
  float a = fabsf(x), s = x * x;
  float p = (((-0x1.9c0846p-8f * s + 0x1.5a1ec4p-6f) * s + -0x1.b95e0ep-5f) * s + 0x1.110f14p-3f) * s;
  p += -0x1.555554p-2f;
  float large = 1.0f - 2.0f / (exact_exp(a + a) + 1.0f);
  if (a < 0.6f) return p * s * x + x;
  return x < 0.0f ? 0.0f - large : large;
}

/* x sigmoid(slope x) */
static __device__ __forceinline__ float swish(float x, float slope) {
  return x / (1.0f + exact_exp(-slope * x));
}

#endif
