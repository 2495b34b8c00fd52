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
static std::atomic<uint64_t> launches, waits, fail_after, refuse_after;
static cudaError_t fail_with, refuse_with;
static std::atomic<int64_t> things_held; /* blocks, streams, events, graphs */
static thread_local cudaError_t error_last;
static std::atomic<int> driver_version(CUDART_VERSION), device_count(1);
static std::atomic<bool> hanging;

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

/* What calls that give back return through. */
static cudaError_t given_back(cudaError_t error) {
  if (fail_after.load() == 1) error = fail_with;
  if (error != cudaSuccess) error_last = error;
  return error;
}
/* All others: one of them may be the one that fails. */
static cudaError_t result(cudaError_t error) {
  uint64_t left = refuse_after.load();
  if (left > 0) refuse_after = left - 1;
  return given_back(left == 1 && error == cudaSuccess ? refuse_with : error);
}
static CUstream_st *stream_of(cudaStream_t stream) {
  return stream ? stream : &stream_zero;
}

/* What a call does that waits for the device. */
static void wait_for_device(const char *call) {
  waits++;
  if (!hanging.load()) return;
  fprintf(stderr, "emulator: %s would wait for ever\n", call);
  abort();
}

/* Now, or into the graph that the stream captures. */
static cudaError_t submit(cudaStream_t stream, std::function<void()> work) {
  cudaError_t error = result(cudaSuccess);
  if (error != cudaSuccess) return error;
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
  cudaError_t error = stream_of(stream)->capture ? cudaSuccess : result(cudaSuccess);
  if (error != cudaSuccess) return error;
  if (!stream_of(stream)->capture) {
    memory_open open;
    return given_back(launch_run(shape, thread));
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
uint64_t ie_emulate_waits(void) {
  return waits.load();
}
void ie_emulate_fail(uint64_t n, cudaError_t error) {
  fail_with = error;
  fail_after = n == 0 ? 0 : n + 1;
  error_last = cudaSuccess;
}

void ie_emulate_refuse(uint64_t n, cudaError_t error) {
  refuse_with = error;
  refuse_after = n;
}
uint64_t ie_emulate_refuse_left(void) {
  return refuse_after.load();
}
int64_t ie_emulate_held(void) {
  return things_held.load();
}
void ie_emulate_driver(int version, int devices) {
  driver_version = version;
  device_count = devices;
}
void ie_emulate_hang(int hangs) {
  hanging = hangs != 0;
}

/* CLOCHER_EMULATE, once. */
static void environment_read() {
  static std::once_flag once;
  std::call_once(once, []() {
    const char *words = getenv("CLOCHER_EMULATE");
    long long n;
    for (const char *at = words; at && *at; at = strchr(at, ' ') ? strchr(at, ' ') + 1 : nullptr) {
      if (sscanf(at, "driver=%lld", &n) == 1) driver_version = (int)n;
      if (sscanf(at, "devices=%lld", &n) == 1) device_count = (int)n;
      if (sscanf(at, "memory=%lld", &n) == 1) ie_emulate_memory((size_t)n);
      if (sscanf(at, "fail=%lld", &n) == 1) ie_emulate_fail((uint64_t)n, cudaErrorLaunchFailure);
      if (sscanf(at, "refuse=%lld", &n) == 1) ie_emulate_refuse((uint64_t)n, cudaErrorMemoryAllocation);
    }
  });
}

/* A handle, or the error of a call that fails. */
template <class T> static cudaError_t handle_new(T **out, T value) {
  *out = nullptr;
  cudaError_t error = result(cudaSuccess);
  if (error != cudaSuccess) return error;
  *out = new (std::nothrow) T(std::move(value));
  if (!*out) return given_back(cudaErrorMemoryAllocation);
  things_held++;
  return cudaSuccess;
}
template <class T> static cudaError_t handle_free(T *handle) {
  if (handle) things_held--;
  delete handle;
  return given_back(cudaSuccess);
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
  *version = driver_version.load();
  return result(cudaSuccess);
}
cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = CUDART_VERSION;
  return result(cudaSuccess);
}
cudaError_t cudaGetDeviceCount(int *count) {
  environment_read();
  *count = 0;
  if (driver_version.load() / 1000 < CUDART_VERSION / 1000) return result(cudaErrorInsufficientDriver);
  if (device_count.load() == 0) return result(cudaErrorNoDevice);
  *count = device_count.load();
  return result(cudaSuccess);
}
cudaError_t cudaGetDevice(int *device) {
  *device = 0;
  return result(cudaSuccess);
}
cudaError_t cudaSetDevice(int device) {
  return result(device >= 0 && device < device_count.load() ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaSetDeviceFlags(unsigned int) {
  return result(cudaSuccess);
}
cudaError_t cudaInitDevice(int device, unsigned int, unsigned int) {
  return cudaSetDevice(device);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device) {
  if (device < 0 || device >= device_count.load()) return result(cudaErrorInvalidDevice);
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
  wait_for_device("cudaDeviceSynchronize");
  return result(cudaSuccess);
}
cudaError_t cudaDeviceReset(void) {
  return result(cudaSuccess);
}

/* --- Memory ------------------------------------------------------------------------------------------------------ */

cudaError_t cudaMalloc(void **out, size_t bytes) {
  *out = nullptr;
  cudaError_t error = result(cudaSuccess);
  if (bytes == 0 || error != cudaSuccess) return error;
  std::lock_guard<std::mutex> lock(guard);
  if (bytes > memory_total || memory_held > memory_total - bytes)
    return given_back(cudaErrorMemoryAllocation);
  void *pages = mmap(nullptr, span_of(bytes) + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return given_back(cudaErrorMemoryAllocation);
  unsigned char *first = (unsigned char *)pages + PAGE;
  if (mprotect(first, span_of(bytes), PROT_READ | PROT_WRITE) != 0) {
    munmap(pages, span_of(bytes) + 2 * PAGE);
    return given_back(cudaErrorMemoryAllocation);
  }
  memset(first, 0xFF, span_of(bytes));
  if (open_depth == 0) mprotect(first, span_of(bytes), PROT_NONE);
  unsigned char *memory = first + span_of(bytes) - (bytes + 255) / 256 * 256;
  blocks_held[memory] = bytes;
  memory_held += bytes;
  things_held++;
  *out = memory;
  return cudaSuccess;
}
cudaError_t cudaFree(void *memory) {
  wait_for_device("cudaFree");
  if (!memory) return given_back(cudaSuccess);
  std::lock_guard<std::mutex> lock(guard);
  auto at = blocks_held.find(memory);
  if (at == blocks_held.end()) return given_back(cudaErrorInvalidValue);
  memory_held -= at->second;
  things_held--;
  munmap((unsigned char *)start_of(memory) - PAGE, span_of(at->second) + 2 * PAGE);
  blocks_held.erase(at);
  return given_back(cudaSuccess);
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  std::lock_guard<std::mutex> lock(guard);
  *total = memory_total;
  *available = memory_held < memory_total ? memory_total - memory_held : 0;
  return result(cudaSuccess);
}
cudaError_t cudaMallocHost(void **out, size_t bytes) {
  *out = nullptr;
  cudaError_t error = result(cudaSuccess);
  if (error != cudaSuccess) return error;
  *out = malloc(bytes ? bytes : 1);
  if (!*out) return given_back(cudaErrorMemoryAllocation);
  things_held++;
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned int) {
  return cudaMallocHost(out, bytes);
}
cudaError_t cudaFreeHost(void *memory) {
  wait_for_device("cudaFreeHost");
  if (memory) things_held--;
  free(memory);
  return given_back(cudaSuccess);
}
cudaError_t cudaHostRegister(void *, size_t, unsigned int) {
  return result(cudaSuccess);
}
cudaError_t cudaHostUnregister(void *) {
  return result(cudaSuccess);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind) {
  wait_for_device("cudaMemcpy");
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
  return handle_new(out, CUstream_st{});
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned int) {
  return cudaStreamCreate(out);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return handle_free(stream);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  wait_for_device("cudaStreamSynchronize");
  return result(stream_of(stream)->capture ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  waits++;
  return result(stream_of(stream)->capture ? cudaErrorStreamCaptureUnsupported
                : hanging.load()           ? cudaErrorNotReady
                                           : cudaSuccess);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned int) {
  return result(cudaSuccess);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *arg) {
  return submit(stream, [=]() { function(arg); });
}
cudaError_t cudaEventCreate(cudaEvent_t *out) {
  return handle_new(out, CUevent_st{});
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned int) {
  return cudaEventCreate(out);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return handle_free(event);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return submit(stream, [=]() { clock_gettime(CLOCK_MONOTONIC, &event->at); });
}
cudaError_t cudaEventQuery(cudaEvent_t) {
  waits++;
  return result(hanging.load() ? cudaErrorNotReady : cudaSuccess);
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  wait_for_device("cudaEventSynchronize");
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
  return handle_new(&stream->capture, CUgraph_st{});
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
  *out = stream->capture;
  stream->capture = nullptr;
  cudaError_t error = *out ? result(cudaSuccess) : cudaErrorStreamCaptureInvalidated;
  if (error != cudaSuccess && *out) handle_free(*out), *out = nullptr; /* as the runtime does */
  return given_back(error);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *out) {
  *out = stream_of(stream)->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return result(cudaSuccess);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
  return handle_new(out, CUgraphExec_st{graph->work});
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
  return handle_free(graph);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  return handle_free(graph);
}
