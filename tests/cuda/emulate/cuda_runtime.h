/* The part of CUDA C++ that Clocher's kernels use, for g++: threads of a block are fibers of one host thread, which take
 * turns at barriers and warp operations (emulate.cpp). Warp operations want all 32 lanes and mask 0xFFFFFFFF; lanes that
 * meet in different operations, or a barrier that some thread does not reach, end the process with a message. */
#ifndef CLOCHER_TESTS_CUDA_EMULATE_CUDA_RUNTIME_H
#define CLOCHER_TESTS_CUDA_EMULATE_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"

#include <math.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__    __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__   static thread_local
#define __align__(n) alignas(n)

struct uint3 {
  unsigned int x, y, z;
};
struct dim3 {
  unsigned int x, y, z;
  dim3(unsigned int a = 1, unsigned int b = 1, unsigned int c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned int x, y;
};
struct alignas(16) uint4 {
  unsigned int x, y, z, w;
};
static inline float2 make_float2(float x, float y) {
  return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
static inline uint2 make_uint2(unsigned int x, unsigned int y) {
  return {x, y};
}
static inline uint4 make_uint4(unsigned int x, unsigned int y, unsigned int z, unsigned int w) {
  return {x, y, z, w};
}

/* Where the running thread stands. */
struct emu_place {
  uint3 thread, block;
  dim3 threads, blocks;
};
extern thread_local emu_place emu_here;
#define threadIdx emu_here.thread
#define blockIdx  emu_here.block
#define blockDim  emu_here.threads
#define gridDim   emu_here.blocks

/* All threads of the block. */
void emu_barrier();
/* Gives `bytes` (at most 64) to the other lanes and waits for theirs; lane i's stand at i * 64. `op` must be the same
 * for all. Valid until the lane's next operation but one. */
const unsigned char *emu_exchange(int op, const void *mine, size_t bytes);
/* The block's dynamic shared memory. */
unsigned char *emu_shared();

static inline void __syncthreads() {
  emu_barrier();
}

enum emu_op { EMU_SYNC, EMU_SHUFFLE, EMU_BALLOT, EMU_MMA, EMU_MATRIX, EMU_WGMMA, EMU_WARPGROUP };
void emu_mask_check(unsigned int mask);

static inline void __syncwarp(unsigned int mask = 0xFFFFFFFFu) {
  emu_mask_check(mask);
  emu_exchange(EMU_SYNC, "", 1);
}
template <class T> static inline T emu_shuffle(unsigned int mask, T value, int lane) {
  emu_mask_check(mask);
  const unsigned char *all = emu_exchange(EMU_SHUFFLE, &value, sizeof value);
  T out;
  memcpy(&out, all + 64 * (lane & 31), sizeof out);
  return out;
}
static inline int emu_lane() {
  return (int)(emu_here.thread.x & 31);
}
template <class T> static inline T __shfl_sync(unsigned int mask, T value, int lane) {
  return emu_shuffle(mask, value, lane);
}
template <class T> static inline T __shfl_xor_sync(unsigned int mask, T value, int bits) {
  return emu_shuffle(mask, value, emu_lane() ^ bits);
}
template <class T> static inline T __shfl_up_sync(unsigned int mask, T value, unsigned int by) {
  int from = emu_lane() - (int)by;
  return emu_shuffle(mask, value, from < 0 ? emu_lane() : from);
}
template <class T> static inline T __shfl_down_sync(unsigned int mask, T value, unsigned int by) {
  int from = emu_lane() + (int)by;
  return emu_shuffle(mask, value, from > 31 ? emu_lane() : from);
}
static inline unsigned int __ballot_sync(unsigned int mask, int predicate) {
  emu_mask_check(mask);
  const unsigned char *all = emu_exchange(EMU_BALLOT, &predicate, sizeof predicate);
  unsigned int out = 0;
  for (int i = 0; i < 32; i++) {
    int one;
    memcpy(&one, all + 64 * i, sizeof one);
    out |= (unsigned int)(one != 0) << i;
  }
  return out;
}
static inline int __any_sync(unsigned int mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
static inline int __popc(unsigned int x) {
  return __builtin_popcount(x);
}
static inline int __ffs(int x) {
  return __builtin_ffs(x);
}

template <class T> static inline T atomicAdd(T *at, T value) {
  T old = *at;
  *at = (T)(old + value);
  return old;
}
static inline unsigned long long atomicMin(unsigned long long *at, unsigned long long value) {
  unsigned long long old = *at;
  if (value < old) *at = value;
  return old;
}
static inline unsigned int atomicMin(unsigned int *at, unsigned int value) {
  unsigned int old = *at;
  if (value < old) *at = value;
  return old;
}
static inline unsigned int atomicMax(unsigned int *at, unsigned int value) {
  unsigned int old = *at;
  if (value > old) *at = value;
  return old;
}
static inline unsigned int atomicOr(unsigned int *at, unsigned int value) {
  unsigned int old = *at;
  *at = old | value;
  return old;
}
static inline void __threadfence() {}

static inline float __fmul_rn(float a, float b) {
  return a * b;
}
static inline float __fadd_rn(float a, float b) {
  return a + b;
}
static inline float __fsub_rn(float a, float b) {
  return a - b;
}
static inline float __fdiv_rn(float a, float b) {
  return a / b;
}
static inline double __dmul_rn(double a, double b) {
  return a * b;
}
static inline double __dadd_rn(double a, double b) {
  return a + b;
}
static inline unsigned int __float_as_uint(float x) {
  unsigned int u;
  memcpy(&u, &x, sizeof u);
  return u;
}
static inline float __uint_as_float(unsigned int u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

#endif
