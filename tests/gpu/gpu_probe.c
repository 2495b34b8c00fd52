/* Measures what decisions need and benchmarks are compared with, and prints one JSON object: the device, the gap between
 * launches (alone and in a graph, each also with overlap), the cost of a barrier over the whole chip, read and matrix ceilings (also that of
 * mma.sync, where wgmma's is higher), and host to device copies. Run by scripts/gpu_check.sh, stage smoke. */
#include "cuda/cuda.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAUNCHES = 2000, BARRIERS = 2000 };

static int fail(const char *what, const char *why) {
  fprintf(stderr, "gpu_probe: %s: %s\n", what, why);
  return 1;
}

/* Microseconds a launch of an empty kernel: launched one by one. */
static double gap_eager(cuda_device *device) {
  ie_error error = {0};
  double begin = ie_clock_s();
  for (int i = 0; i < LAUNCHES; i++)
    if (ie_cuda_probe_empty(&device->queue) != cudaSuccess) return -1;
  if (cuda_wait(device, "launches", &error) != IE_OK) return -1;
  return 1e6 * (ie_clock_s() - begin) / LAUNCHES;
}

/* The same in one graph, of its second run. */
static double gap_graph(cuda_device *device) {
  cudaGraph_t graph = NULL;
  cudaGraphExec_t exec = NULL;
  cudaStream_t stream = device->queue.stream;
  ie_error error = {0};
  double took = -1;
  if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return -1;
  bool good = true;
  for (int i = 0; i < LAUNCHES; i++) good = good && ie_cuda_probe_empty(&device->queue) == cudaSuccess;
  good = cudaStreamEndCapture(stream, &graph) == cudaSuccess && good;
  good = good && cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess;
  for (int run = 0; run < 2 && good; run++) {
    double begin = ie_clock_s();
    good = cudaGraphLaunch(exec, stream) == cudaSuccess && cuda_wait(device, "a graph", &error) == IE_OK;
    took = good ? 1e6 * (ie_clock_s() - begin) / LAUNCHES : -1;
  }
  if (exec) cudaGraphExecDestroy(exec);
  if (graph) cudaGraphDestroy(graph);
  return took;
}

/* Microseconds a barrier over one block a multiprocessor; -1 where it is not supported. */
static double barrier_us(cuda_device *device) {
  uint32_t *counter = NULL;
  ie_error error = {0};
  double took = -1;
  if (cudaMalloc((void **)&counter, sizeof *counter) != cudaSuccess) return -1;
  for (int run = 0; run < 2; run++) {
    cudaMemsetAsync(counter, 0, sizeof *counter, device->queue.stream);
    if (cuda_wait(device, "a memset", &error) != IE_OK) break;
    double begin = ie_clock_s();
    if (ie_cuda_probe_barrier(&device->queue, counter, BARRIERS) != cudaSuccess) {
      cudaGetLastError();
      took = -1;
      break;
    }
    if (cuda_wait(device, "barriers", &error) != IE_OK) break;
    took = 1e6 * (ie_clock_s() - begin) / BARRIERS;
  }
  cudaFree(counter);
  return took;
}

/* Host to device through the pinned ring, as weights are uploaded: 1e9 bytes a second. */
static double upload_gb_s(ie_device *device, size_t bytes) {
  ie_error error = {0};
  uint8_t *memory = malloc(bytes);
  if (!memory) return -1;
  memset(memory, 1, bytes);
  const ie_host_range range = {memory, bytes};
  double begin = ie_clock_s();
  ie_status status = device->memory->hold(device, memory, &range, 1, &error);
  double took = ie_clock_s() - begin;
  device->memory->drop(device, memory);
  free(memory);
  return status == IE_OK ? 1e-9 * (double)bytes / took : -1;
}

int main(int argc, char **argv) {
  bool small = argc > 1 && !strcmp(argv[1], "--small"); /* where a read of gigabytes would take minutes */
  ie_device *device;
  ie_ceilings ceilings = {0}, sync = {0};
  ie_error error = {0};
  int driver = 0, runtime = 0;
  if (ie_device_open(&(ie_device_options){.kind = "cuda"}, &device, &error) != IE_OK)
    return fail("open", error.message);
  cuda_device *cuda = cuda_of(device);
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (device->memory->probe_read(device, small ? (size_t)1 << 16 : 0, &ceilings, &error) != IE_OK ||
      device->memory->probe_matrix(device, &ceilings, &error) != IE_OK)
    return fail("ceilings", error.message);
  ie_cuda_wgmma wgmma = cuda->queue.wgmma;
  cuda_wgmma(cuda, IE_CUDA_WGMMA_NEVER);
  if (device->memory->probe_matrix(device, &sync, &error) != IE_OK) return fail("ceilings", error.message);
  cuda_wgmma(cuda, wgmma);
  double eager = gap_eager(cuda), graph = gap_graph(cuda), barrier = barrier_us(cuda);
  cuda_overlap(cuda, true);
  double eager_overlap = gap_eager(cuda), graph_overlap = gap_graph(cuda);
  cuda_overlap(cuda, false);
  double upload = upload_gb_s(device, small ? (size_t)1 << 20 : (size_t)4 << 30);
  size_t room, total;
  device->memory->room(device, &room, &total);
  printf("{\"device\":\"%s\",\"compute\":\"%d.%d\",\"sms\":%d,\"memory_bytes\":%zu,\"free_bytes\":%zu,"
         "\"driver_cuda\":%d,\"runtime_cuda\":%d,\"read_gb_s\":%.1f,\"matrix_tflop_s\":%.1f,\"matrix_kind\":"
         "\"%s\",\"mma_sync_tflop_s\":%.1f,"
         "\"launch_us\":%.3f,\"graph_launch_us\":%.3f,\"launch_overlap_us\":%.3f,\"graph_overlap_us\":%.3f,"
         "\"barrier_us\":%.3f,\"upload_gb_s\":%.2f}\n",
         device->name, cuda->queue.major, cuda->queue.minor, cuda->queue.sms, total, room, driver, runtime,
         ceilings.read_gb_s, ceilings.matrix_tflop_s, ceilings.matrix_kind, sync.matrix_tflop_s, eager, graph,
         eager_overlap, graph_overlap, barrier, upload);
  ie_device_free(device);
  return 0;
}
