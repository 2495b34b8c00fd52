/* src/cuda/wgmma.cuh for the emulator (wgmma.cpp): products that take place between the call and the wait, at the one end
 * or the other, and read shared memory through the descriptor, in what the tensor cores see of it. */
#ifndef CLOCHER_CUDA_WGMMA_CUH
#define CLOCHER_CUDA_WGMMA_CUH

#include "cuda/ptx.cuh"

enum { WGMMA_BUILT = 1 };
static inline void wgmma_absent() {}
static inline bool wgmma_loaded(const void *, int) {
  return true;
}

uint32_t emu_shared_address(const void *shared);
void emu_shared_store(void *to, const uint4 &value);
void emu_shared_publish();
void emu_wgmma_fence();
void emu_wgmma_commit();
void emu_wgmma_wait(int groups);
/* d (64, 2 count) += a b; the arrays are read and written later. */
void emu_wgmma(float *d, int count, const uint32_t *a, uint64_t b);

static inline uint32_t shared_address(const void *shared) {
  return emu_shared_address(shared);
}
static inline void shared_store(void *to, const uint4 &value) {
  emu_shared_store(to, value);
}
static inline void shared_publish() {
  emu_shared_publish();
}
static inline void wgmma_fence() {
  emu_wgmma_fence();
}
static inline void wgmma_commit() {
  emu_wgmma_commit();
}
template <int GROUPS> static inline void wgmma_wait() {
  emu_wgmma_wait(GROUPS);
}
template <int COUNT> static inline void wgmma_keep(float (&)[COUNT]) {}
template <int COUNT> static inline void wgmma_bf16(float (&d)[COUNT], const uint32_t (&a)[4], uint64_t b) {
  emu_wgmma(d, COUNT, a, b);
}

#endif
