/* src/cuda/ptx.cuh for the emulator: the same functions with plain arithmetic. */
#ifndef CLOCHER_CUDA_PTX_CUH
#define CLOCHER_CUDA_PTX_CUH

#include "base/float.h"
#include "cuda/kernels.h"

#include <cuda_runtime.h>

#include <functional>

static inline float f16_to_f32(uint16_t h) {
  return ie_f16_to_f32(h);
}
static inline uint16_t f32_to_f16(float x) {
  return ie_f32_to_f16(x);
}
static inline float bf16_to_f32(uint16_t h) {
  return ie_bf16_to_f32(h);
}
static inline uint16_t f32_to_bf16(float x) {
  return ie_f32_to_bf16(x);
}
static inline uint32_t bf16x2_of(float low, float high) {
  return (uint32_t)ie_f32_to_bf16(high) << 16 | ie_f32_to_bf16(low);
}
static inline float quick_exp(float x) {
  return expf(x);
}
static inline float quick_divide(float a, float b) {
  return a / b;
}
static inline uint32_t f16x2_of(float low, float high) {
  return (uint32_t)ie_f32_to_f16(high) << 16 | ie_f32_to_f16(low);
}
static inline uint32_t bf16x2_mul(uint32_t a, uint32_t b) {
  return bf16x2_of(ie_bf16_to_f32((uint16_t)a) * ie_bf16_to_f32((uint16_t)b),
                   ie_bf16_to_f32((uint16_t)(a >> 16)) * ie_bf16_to_f32((uint16_t)(b >> 16)));
}

static inline uint32_t bf16x2_add(uint32_t a, uint32_t b) {
  return bf16x2_of(ie_bf16_to_f32((uint16_t)a) + ie_bf16_to_f32((uint16_t)b),
                   ie_bf16_to_f32((uint16_t)(a >> 16)) + ie_bf16_to_f32((uint16_t)(b >> 16)));
}

template <float FLOAT(uint16_t)> static inline float emu_half(const unsigned char *fragment, int half) {
  uint16_t h;
  memcpy(&h, fragment + 2 * half, 2);
  return FLOAT(h);
}
/* Fragments as PTX ISA section "Matrix Fragments for mma.m16n8k16" places them. */
template <float FLOAT(uint16_t)>
static inline void emu_mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
  unsigned char mine[24];
  memcpy(mine, a, 16);
  memcpy(mine + 16, b, 8);
  const unsigned char *all = emu_exchange(EMU_MMA, mine, sizeof mine);
  int lane = emu_lane();
  for (int i = 0; i < 4; i++) {
    int row = lane / 4 + (i / 2) * 8, col = lane % 4 * 2 + i % 2;
    double sum = 0;
    for (int k = 0; k < 16; k++) {
      /* A: register 2 (k / 8) + row / 8 of lane row % 8 * 4 + k % 8 / 2; B: register k / 8 of lane col * 4 + k % 8 / 2 */
      const unsigned char *at_a = all + 64 * (row % 8 * 4 + k % 8 / 2),
                          *at_b = all + 64 * (col * 4 + k % 8 / 2);
      sum += (double)emu_half<FLOAT>(at_a, 2 * (2 * (k / 8) + row / 8) + k % 2) *
             (double)emu_half<FLOAT>(at_b + 16, 2 * (k / 8) + k % 2);
    }
    d[i] = (float)((double)d[i] + sum);
  }
}

static inline void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
  emu_mma<bf16_to_f32>(d, a, b);
}
static inline void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
  emu_mma<f16_to_f32>(d, a, b);
}

/* ldmatrix .x4: matrix m of 8 x 8 halves has its row r where lane 8 m + r says; a lane gets row lane / 4, halves
 * 2 (lane % 4) and the next; transposed: column lane / 4. */
static inline void matrix_load(uint32_t r[4], const void *row) {
  const unsigned char *all = emu_exchange(EMU_MATRIX, &row, sizeof row);
  int lane = emu_lane();
  for (int m = 0; m < 4; m++) {
    const unsigned char *at;
    memcpy(&at, all + 64 * (8 * m + lane / 4), sizeof at);
    memcpy(&r[m], at + 4 * (lane % 4), 4);
  }
}
static inline void matrix_load_transposed(uint32_t r[4], const void *row) {
  const unsigned char *all = emu_exchange(EMU_MATRIX, &row, sizeof row);
  int lane = emu_lane();
  for (int m = 0; m < 4; m++) {
    uint16_t h[2];
    for (int i = 0; i < 2; i++) {
      const unsigned char *at;
      memcpy(&at, all + 64 * (8 * m + lane % 4 * 2 + i), sizeof at);
      memcpy(&h[i], at + 2 * (lane / 4), 2);
    }
    r[m] = (uint32_t)h[1] << 16 | h[0];
  }
}

static inline uint4 load_once(const void *from) {
  uint4 out;
  memcpy(&out, __builtin_assume_aligned(from, 16), sizeof out);
  return out;
}
static inline uint2 load_once8(const void *from) {
  uint2 out;
  memcpy(&out, __builtin_assume_aligned(from, 8), sizeof out);
  return out;
}

/* The bytes arrive when the thread waits for them, and are NaNs until then. */
void emu_copy_async(void *to, const void *from, bool valid);
void emu_copy_commit();
void emu_copy_wait(int groups);
static inline void copy_async(void *to, const void *from, bool valid) {
  emu_copy_async(to, from, valid);
}
static inline void copy_async_commit() {
  emu_copy_commit();
}
template <int GROUPS> static inline void copy_async_wait() {
  emu_copy_wait(GROUPS);
}

static inline void launch_wait() {}
static inline void launch_next() {}

#define DYNAMIC_SHARED(name) unsigned char *name = emu_shared()

struct launch_shape {
  dim3 blocks, threads;
  size_t shared;
};

cudaError_t emu_launch(cudaStream_t stream, const launch_shape &shape, std::function<void()> thread);

template <class... P, class... A>
cudaError_t launch(const ie_cuda_queue *queue, const launch_shape &shape, void (*kernel)(P...), A... args) {
  if (shape.shared > queue->shared_bytes) return cudaErrorInvalidValue;
  return emu_launch(queue->stream, shape, [=]() { kernel(args...); });
}
/* Blocks would have to run at once. */
template <class... P, class... A>
cudaError_t launch_together(const ie_cuda_queue *, const launch_shape &, void (*)(P...), A...) {
  return cudaErrorNotSupported;
}

#endif
