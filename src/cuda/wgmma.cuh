/* The tensor cores of compute capability 9.0 (wgmma) and what comes with them, one instruction a function. As of ptx.cuh,
 * tests/cuda/emulate/cuda has a file of the same name for g++. What B is in shared memory: wgmma_tile.cuh.
 *
 * These instructions are the chip's own: code for them is in sm_90a alone, and WGMMA_BUILT says whether this is it. */
#ifndef CLOCHER_CUDA_WGMMA_CUH
#define CLOCHER_CUDA_WGMMA_CUH

#include "cuda/ptx.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
enum { WGMMA_BUILT = 1 };
#define WGMMA_ASM(...) asm volatile(__VA_ARGS__)
#else
enum { WGMMA_BUILT = 0 };
#define WGMMA_ASM(...) __trap()
#endif

/* What a kernel of wgmma is where it is not built; nothing launches it there. */
static __device__ __forceinline__ void wgmma_absent() {
  __trap();
}
/* Whether the code of a kernel that the device has loaded takes so many threads: its __launch_bounds__ are less where it
 * is not built. */
static inline bool wgmma_loaded(const void *kernel, int threads) {
  cudaFuncAttributes has;
  if (cudaFuncGetAttributes(&has, kernel) == cudaSuccess) return has.maxThreadsPerBlock >= threads;
  cudaGetLastError();
  return false;
}

/* The address that descriptors have. */
static __device__ __forceinline__ uint32_t shared_address(const void *shared) {
  return (uint32_t)__cvta_generic_to_shared(shared);
}
/* 16 bytes to shared memory that wgmma will read. */
static __device__ __forceinline__ void shared_store(void *to, const uint4 &value) {
  *(uint4 *)to = value;
}
/* What this thread has written to shared memory (its asynchronous copies that it waited for included) may be read by
 * wgmma, by other threads after the next barrier. */
static __device__ __forceinline__ void shared_publish() {
  WGMMA_ASM("fence.proxy.async.shared::cta;" ::: "memory");
}

/* By all four warps of a warpgroup, like everything below: before the first of several wgmma, and again when a register
 * that one of them reads or adds to was written since. */
static __device__ __forceinline__ void wgmma_fence() {
  WGMMA_ASM("wgmma.fence.sync.aligned;" ::: "memory");
}
/* Ends a group. */
static __device__ __forceinline__ void wgmma_commit() {
  WGMMA_ASM("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Until at most GROUPS of the warpgroup's groups are under way. */
template <int GROUPS> static __device__ __forceinline__ void wgmma_wait() {
  WGMMA_ASM("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}
/* The compiler must not read sums before the wait that stands before this. */
template <int COUNT> static __device__ __forceinline__ void wgmma_keep(float (&d)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i])::"memory");
}

/* d (64, N) += a (64, 16) b (16, N), bf16 with f32 sums; COUNT = N / 2. It has begun when the call returns, and until it
 * was waited for d must not be touched, a must not be changed, and what b says must not be written.
 * Warp w of the four has rows 16 w to 16 w + 15: lane 4 g + t has a[0] = A[g][2t, 2t + 1], a[1] = A[g + 8][same],
 * a[2] = A[g][2t + 8, 2t + 9], a[3] = A[g + 8][same], and d[4 j + 2 h + e] = D[g + 8 h][8 j + 2 t + e]. b: wgmma_tile. */
#define WGMMA_8(d, i)                                                                                        \
  "+f"((d)[i]), "+f"((d)[(i) + 1]), "+f"((d)[(i) + 2]), "+f"((d)[(i) + 3]), "+f"((d)[(i) + 4]),              \
      "+f"((d)[(i) + 5]), "+f"((d)[(i) + 6]), "+f"((d)[(i) + 7])
#define WGMMA_32(d, i)       WGMMA_8(d, i), WGMMA_8(d, (i) + 8), WGMMA_8(d, (i) + 16), WGMMA_8(d, (i) + 24)
#define WGMMA_OPERANDS(a, b) "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "l"(b)

static __device__ __forceinline__ void wgmma_bf16(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  WGMMA_ASM("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
            "{%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
            : WGMMA_32(d, 0)
            : WGMMA_OPERANDS(a, b));
}
static __device__ __forceinline__ void wgmma_bf16(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  WGMMA_ASM("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
            "{%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
            : WGMMA_32(d, 0), WGMMA_32(d, 32)
            : WGMMA_OPERANDS(a, b));
}
static __device__ __forceinline__ void wgmma_bf16(float (&d)[128], const uint32_t (&a)[4], uint64_t b) {
  WGMMA_ASM(
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "{%128, %129, %130, %131}, %132, 1, 1, 1, 0;"
      : WGMMA_32(d, 0), WGMMA_32(d, 32), WGMMA_32(d, 64), WGMMA_32(d, 96)
      : WGMMA_OPERANDS(a, b));
}

#endif
