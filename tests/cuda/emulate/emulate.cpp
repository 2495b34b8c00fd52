/* The runtime calls of cuda_runtime_api.h over the host's memory. */
#include "cuda/ptx.cuh"
#include "fibers.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include <atomic>
#include <map>
#include <mutex>
#include <new>
#include <vector>

typedef std::vector<std::function<void()>> work_list;

struct CUstream_st {
  CUgraph_st *capture;
};
struct CUgraph_st {
  work_list work;
};
struct CUgraphExec_st {
  work_list work;
};
struct CUevent_st {
  struct timespec at;
};

static CUstream_st stream_zero;
static std::mutex guard;
static std::map<void *, size_t> blocks_held;
static size_t memory_total = (size_t)4 << 30, memory_held;
static std::atomic<uint64_t> launches, fail_after;
static cudaError_t fail_with;
static thread_local cudaError_t error_last;

/* Device memory is a mapping of its own for each block: the block ends at the last page, so that what reads or writes
 * beyond it dies, and the host cannot touch it: it is open while a kernel or a copy runs only. */
enum { PAGE = 4096 };
static int open_depth;
static size_t span_of(size_t bytes) {
  return (bytes + PAGE - 1) / PAGE * PAGE;
}
static void *start_of(void *memory) {
  return (void *)((uintptr_t)memory / PAGE * PAGE);
}
static void memory_protect(int protection) {
  std::lock_guard<std::mutex> lock(guard);
  for (const auto &block : blocks_held)
    if (mprotect(start_of(block.first), span_of(block.second), protection) != 0) {
      perror("emulator: mprotect");
      abort();
    }
}
struct memory_open {
  memory_open() {
    if (open_depth++ == 0) memory_protect(PROT_READ | PROT_WRITE);
  }
  ~memory_open() {
    if (--open_depth == 0) memory_protect(PROT_NONE);
  }
};

/* What every call returns through. */
static cudaError_t result(cudaError_t error) {
  if (fail_after.load() == 1) error = fail_with;
  if (error != cudaSuccess) error_last = error;
  return error;
}
static CUstream_st *stream_of(cudaStream_t stream) {
  return stream ? stream : &stream_zero;
}

/* Now, or into the graph that the stream captures. */
static cudaError_t submit(cudaStream_t stream, std::function<void()> work) {
  if (result(cudaSuccess) != cudaSuccess) return fail_with;
  CUstream_st *s = stream_of(stream);
  if (s->capture) {
    s->capture->work.push_back(std::move(work));
  } else {
    memory_open open;
    work();
  }
  return cudaSuccess;
}

static cudaError_t launch_run(const launch_shape &shape, const std::function<void()> &thread) {
  launches++;
  return emu_run(shape.blocks, shape.threads, shape.shared, thread);
}

cudaError_t emu_launch(cudaStream_t stream, const launch_shape &shape, std::function<void()> thread) {
  if (fail_after.load() > 1) fail_after--;
  if (result(cudaSuccess) != cudaSuccess) return fail_with;
  if (!stream_of(stream)->capture) {
    memory_open open;
    return result(launch_run(shape, thread));
  }
  return submit(stream, [shape, thread]() {
    cudaError_t ran = launch_run(shape, thread);
    if (ran != cudaSuccess) error_last = ran;
  });
}

/* --- The emulator's own ---------------------------------------------------------------------------------------- */

void ie_emulate_memory(size_t bytes) {
  memory_total = bytes;
}
void ie_emulate_order(unsigned int order) {
  emu_order_set(order);
}
uint64_t ie_emulate_launches(void) {
  return launches.load();
}
void ie_emulate_fail(uint64_t n, cudaError_t error) {
  fail_with = error;
  fail_after = n == 0 ? 0 : n + 1;
  error_last = cudaSuccess;
}

/* --- Errors and devices ---------------------------------------------------------------------------------------- */

const char *cudaGetErrorName(cudaError_t error) {
  switch (error) {
  case cudaSuccess: return "cudaSuccess";
  case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
  case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
  case cudaErrorNotSupported: return "cudaErrorNotSupported";
  case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
  case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
  default: return "cudaErrorUnknown";
  }
}
const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
  case cudaSuccess: return "no error";
  case cudaErrorInvalidValue: return "invalid argument";
  case cudaErrorMemoryAllocation: return "out of memory";
  case cudaErrorNotSupported: return "operation not supported";
  case cudaErrorLaunchFailure: return "unspecified launch failure";
  case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
  default: return "unknown error";
  }
}
cudaError_t cudaGetLastError(void) {
  cudaError_t error = error_last;
  error_last = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError(void) {
  return error_last;
}
cudaError_t cudaDriverGetVersion(int *version) {
  *version = CUDART_VERSION;
  return result(cudaSuccess);
}
cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = CUDART_VERSION;
  return result(cudaSuccess);
}
cudaError_t cudaGetDeviceCount(int *count) {
  *count = 1;
  return result(cudaSuccess);
}
cudaError_t cudaGetDevice(int *device) {
  *device = 0;
  return result(cudaSuccess);
}
cudaError_t cudaSetDevice(int device) {
  return result(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaSetDeviceFlags(unsigned int) {
  return result(cudaSuccess);
}
cudaError_t cudaInitDevice(int device, unsigned int, unsigned int) {
  return cudaSetDevice(device);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device) {
  if (device != 0) return result(cudaErrorInvalidDevice);
  *out = cudaDeviceProp{};
  strcpy(out->name, "emulated");
  out->totalGlobalMem = memory_total;
  out->sharedMemPerBlock = 48 << 10;
  out->sharedMemPerBlockOptin = 227 << 10;
  out->sharedMemPerMultiprocessor = 228 << 10;
  out->regsPerBlock = 65536;
  out->warpSize = 32;
  out->maxThreadsPerBlock = 1024;
  out->major = 9;
  out->multiProcessorCount = 4;
  out->l2CacheSize = 1 << 20;
  out->concurrentKernels = 1;
  return result(cudaSuccess);
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  cudaError_t status = cudaGetDeviceProperties(&p, device);
  if (status != cudaSuccess) return status;
  switch (attribute) {
  case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; break;
  case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
  case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
  case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
  case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
  case cudaDevAttrCooperativeLaunch: *value = 0; break;
  case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; break;
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) {
  return result(cudaSuccess);
}
cudaError_t cudaDeviceReset(void) {
  return result(cudaSuccess);
}

/* --- Memory ------------------------------------------------------------------------------------------------------ */

cudaError_t cudaMalloc(void **out, size_t bytes) {
  *out = nullptr;
  if (bytes == 0) return result(cudaSuccess);
  std::lock_guard<std::mutex> lock(guard);
  if (bytes > memory_total || memory_held > memory_total - bytes) return result(cudaErrorMemoryAllocation);
  void *pages = mmap(nullptr, span_of(bytes) + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return result(cudaErrorMemoryAllocation);
  unsigned char *first = (unsigned char *)pages + PAGE;
  if (mprotect(first, span_of(bytes), PROT_READ | PROT_WRITE) != 0) {
    munmap(pages, span_of(bytes) + 2 * PAGE);
    return result(cudaErrorMemoryAllocation);
  }
  memset(first, 0xFF, span_of(bytes));
  if (open_depth == 0) mprotect(first, span_of(bytes), PROT_NONE);
  unsigned char *memory = first + span_of(bytes) - (bytes + 255) / 256 * 256;
  blocks_held[memory] = bytes;
  memory_held += bytes;
  *out = memory;
  return result(cudaSuccess);
}
cudaError_t cudaFree(void *memory) {
  if (!memory) return result(cudaSuccess);
  std::lock_guard<std::mutex> lock(guard);
  auto at = blocks_held.find(memory);
  if (at == blocks_held.end()) return result(cudaErrorInvalidValue);
  memory_held -= at->second;
  munmap((unsigned char *)start_of(memory) - PAGE, span_of(at->second) + 2 * PAGE);
  blocks_held.erase(at);
  return result(cudaSuccess);
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  std::lock_guard<std::mutex> lock(guard);
  *total = memory_total;
  *available = memory_held < memory_total ? memory_total - memory_held : 0;
  return result(cudaSuccess);
}
cudaError_t cudaMallocHost(void **out, size_t bytes) {
  *out = malloc(bytes ? bytes : 1);
  return result(*out ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned int) {
  return cudaMallocHost(out, bytes);
}
cudaError_t cudaFreeHost(void *memory) {
  free(memory);
  return result(cudaSuccess);
}
cudaError_t cudaHostRegister(void *, size_t, unsigned int) {
  return result(cudaSuccess);
}
cudaError_t cudaHostUnregister(void *) {
  return result(cudaSuccess);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind) {
  memory_open open;
  if (bytes) memcpy(to, from, bytes);
  return result(cudaSuccess);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind,
                            cudaStream_t stream) {
  return submit(stream, [=]() {
    if (bytes) memcpy(to, from, bytes);
  });
}
cudaError_t cudaMemset(void *to, int value, size_t bytes) {
  memory_open open;
  if (bytes) memset(to, value, bytes);
  return result(cudaSuccess);
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
  return submit(stream, [=]() {
    if (bytes) memset(to, value, bytes);
  });
}

/* --- Streams and events ------------------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreate(cudaStream_t *out) {
  *out = new (std::nothrow) CUstream_st{};
  return result(*out ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned int) {
  return cudaStreamCreate(out);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return result(cudaSuccess);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return result(stream_of(stream)->capture ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return cudaStreamSynchronize(stream);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned int) {
  return result(cudaSuccess);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *arg) {
  return submit(stream, [=]() { function(arg); });
}
cudaError_t cudaEventCreate(cudaEvent_t *out) {
  *out = new (std::nothrow) CUevent_st{};
  return result(*out ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned int) {
  return cudaEventCreate(out);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return result(cudaSuccess);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return submit(stream, [=]() { clock_gettime(CLOCK_MONOTONIC, &event->at); });
}
cudaError_t cudaEventQuery(cudaEvent_t) {
  return result(cudaSuccess);
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return result(cudaSuccess);
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
  *ms = (float)(1e3 * (double)(end->at.tv_sec - begin->at.tv_sec) +
                1e-6 * (double)(end->at.tv_nsec - begin->at.tv_nsec));
  return result(cudaSuccess);
}

/* --- Graphs --------------------------------------------------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode) {
  if (!stream || stream->capture) return result(cudaErrorStreamCaptureUnsupported);
  stream->capture = new (std::nothrow) CUgraph_st{};
  return result(stream->capture ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
  *out = stream->capture;
  stream->capture = nullptr;
  return result(*out ? cudaSuccess : cudaErrorStreamCaptureInvalidated);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *out) {
  *out = stream_of(stream)->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return result(cudaSuccess);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
  *out = new (std::nothrow) CUgraphExec_st{graph->work};
  return result(*out ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  return submit(stream, [=]() {
    for (const auto &work : graph->work) work();
  });
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  return result(cudaSuccess);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *, size_t *count) {
  *count = graph->work.size();
  return result(cudaSuccess);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return result(cudaSuccess);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return result(cudaSuccess);
}
