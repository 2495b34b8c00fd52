/* One forward on the device.
 *
 * The batch goes to fixed addresses in one copy, kernels read it there, and the logits, or the ids that are drawn from
 * them, and the first fault come back in two copies; the host waits once, at the end. Where nobody listens and each sequence has one token (decode), all of it
 * is a graph: of each shape the first forward is launched (kernels are loaded then), the second one is recorded and
 * run, the others are replays. A shape is the number of tokens, of wanted rows, and the reach rounded up to a power of
 * two; the addresses are the same because the arena is empty before each forward. */
#include "cuda/cuda.h"

#include "base/size.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GRAPHS_MAX = 96, BATCH_ARRAYS = 4, REACH_LEAST = 256 };

typedef struct shape {
  int64_t tokens, wanted, reach;
  uint64_t generation; /* of the device's copies of weights */
} shape;

typedef struct recorded {
  shape shape;
  bool used;
  cudaGraphExec_t graph; /* NULL: seen once */
  uint64_t last;         /* when it was used, in forwards */
  cuda_trace trace;      /* of the launches in it; its arrays are as long as they must be */
} recorded;

struct ie_runner {
  cuda_device *device;
  ie_runner_options options;
  int32_t *batch;       /* device: ids, position, sequence, wanted, (batch_max) each */
  int32_t *host_batch;  /* the same, pinned */
  float *logits;        /* pinned (wanted_max, vocab) */
  ie_cuda_fault *fault; /* pinned */
  cuda_draw draw;
  cuda_trace trace; /* of a forward that is launched or recorded */
  recorded graph[GRAPHS_MAX];
  bool graphs_refused; /* recording failed once: base.note says why */
  cuda_counts counts;
};

int64_t cuda_reach_bucket(int64_t reach) {
  int64_t bucket = REACH_LEAST;
  while (bucket < reach) bucket *= 2;
  return bucket;
}

cuda_counts cuda_runner_counts(const ie_runner *runner) {
  return runner->counts;
}

/* --- Life --------------------------------------------------------------------------------------------------- */

static size_t batch_bytes(const ie_runner *r) {
  return BATCH_ARRAYS * (size_t)r->options.batch_max * sizeof(int32_t);
}

size_t cuda_runner_bytes(const ie_runner_options *options) {
  return BATCH_ARRAYS * (size_t)options->batch_max * sizeof(int32_t) + cuda_draw_bytes(options);
}

static bool trace_alloc(cuda_trace *trace) {
  trace->check = calloc(CUDA_CHECKS_MAX, sizeof *trace->check);
  trace->attended = calloc(CUDA_CHECKS_MAX, sizeof *trace->attended);
  return trace->check && trace->attended;
}

static void trace_free(cuda_trace *trace) {
  free(trace->check);
  free(trace->attended);
  *trace = (cuda_trace){0};
}

static void recorded_drop(recorded *g) {
  if (g->graph) cudaGraphExecDestroy(g->graph);
  trace_free(&g->trace);
  *g = (recorded){0};
}

void cuda_runner_free(ie_device *device, ie_runner *r) {
  if (!r) return;
  if (cuda_choose(cuda_of(device))) {
    for (int i = 0; i < GRAPHS_MAX; i++) recorded_drop(&r->graph[i]);
    device->memory->give(device, r->batch, batch_bytes(r));
    if (r->host_batch) cudaFreeHost(r->host_batch);
    if (r->logits) cudaFreeHost(r->logits);
    if (r->fault) cudaFreeHost(r->fault);
    cuda_draw_close(cuda_of(device), &r->draw);
    cudaGetLastError();
  }
  trace_free(&r->trace);
  free(r);
}

ie_status cuda_runner_new(ie_device *device, const ie_runner_options *options, ie_runner **out,
                          ie_error *error) {
  *out = NULL;
  ie_runner *r = calloc(1, sizeof *r);
  if (!r || !trace_alloc(&r->trace)) {
    cuda_runner_free(device, r);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for forwards");
  }
  r->device = cuda_of(device);
  r->options = *options;
  size_t logits = (size_t)options->wanted_max * (size_t)options->vocab * sizeof(float);
  ie_status status = device->memory->take(device, batch_bytes(r), "a batch", (void **)&r->batch, error);
  if (status == IE_OK)
    status = cuda_pinned(r->device, batch_bytes(r), "a batch", (void **)&r->host_batch, error);
  if (status == IE_OK) status = cuda_pinned(r->device, logits, "logits", (void **)&r->logits, error);
  if (status == IE_OK) status = cuda_pinned(r->device, sizeof *r->fault, "faults", (void **)&r->fault, error);
  if (status == IE_OK) status = cuda_draw_open(r->device, options, &r->draw, error);
  if (status != IE_OK) {
    cuda_runner_free(device, r);
    return status;
  }
  memset(r->host_batch, 0, batch_bytes(r));
  *out = r;
  return IE_OK;
}

/* --- Launching ------------------------------------------------------------------------------------------------ */

static void batch_stage(ie_runner *r, const ie_batch *batch) {
  const int32_t *from[BATCH_ARRAYS] = {batch->ids, batch->position, batch->sequence, batch->wanted};
  for (int i = 0; i < BATCH_ARRAYS; i++) {
    int64_t n = i < 3 ? batch->tokens : batch->wanted_count;
    if (n > 0) memcpy(r->host_batch + i * r->options.batch_max, from[i], (size_t)n * sizeof(int32_t));
  }
}

/* The batch's copy and everything up to the logits; on the stream, or into the graph that it records. */
static void forward_launch(ie_runner *r, ie_ctx *ctx, const ie_forward *forward) {
  cuda_device *device = r->device;
  const ie_cuda_queue *queue = &device->queue;
  int64_t stride = r->options.batch_max;
  ie_batch batch = *forward->batch;
  batch.ids = r->batch;
  batch.position = r->batch + stride;
  batch.sequence = r->batch + 2 * stride;
  batch.wanted = r->batch + 3 * stride;
  batch.reach = cuda_reach_bucket(batch.reach);
  r->trace.checks = r->trace.attentions = 0;
  r->trace.work = (ie_work){0};
  r->trace.logits = NULL;
  device->trace = &r->trace;
  device->pending = (cuda_pending){0};
  cudaError_t result =
      cudaMemcpyAsync(r->batch, r->host_batch, batch_bytes(r), cudaMemcpyHostToDevice, queue->stream);
  if (result == cudaSuccess) result = ie_cuda_fault_clear(queue, device->fault);
  ie_tensor *logits = NULL;
  if (cuda_launched(ctx, "batch", result)) logits = forward->run(ctx, &batch, forward->arg);
  cuda_flush(ctx);
  device->trace = NULL;
  if (ctx->status == IE_OK && logits) r->trace.logits = ie_tensor_f32(logits);
}

/* What comes back, in launches and copies that wait behind the forward. */
static void results_launch(ie_runner *r, ie_ctx *ctx, const ie_forward *forward, const cuda_trace *trace) {
  const cuda_device *device = r->device;
  cudaStream_t stream = device->queue.stream;
  int64_t wanted = forward->batch->wanted_count;
  cudaError_t result = cudaSuccess;
  const char *what = forward->draw ? "sampling" : "logits";
  if (trace->logits && forward->draw)
    result = cuda_draw_launch(&r->draw, &device->queue, trace->logits, forward->draw, wanted,
                              (ie_cuda_check){.fault = device->fault, .where = CUDA_CHECK_DRAW});
  else if (trace->logits)
    result =
        cudaMemcpyAsync(r->logits, trace->logits, (size_t)wanted * (size_t)r->options.vocab * sizeof(float),
                        cudaMemcpyDeviceToHost, stream);
  if (result == cudaSuccess)
    result = cudaMemcpyAsync(r->fault, device->fault, sizeof *r->fault, cudaMemcpyDeviceToHost, stream);
  cuda_launched(ctx, what, result);
}

/* --- Graphs --------------------------------------------------------------------------------------------------- */

static bool shape_same(const shape *a, const shape *b) {
  return a->tokens == b->tokens && a->wanted == b->wanted && a->reach == b->reach &&
         a->generation == b->generation;
}

/* The entry of a shape; a new one takes the place of the one that was not used for longest. */
static recorded *graph_of(ie_runner *r, const shape *want, bool *fresh) {
  recorded *oldest = &r->graph[0];
  for (int i = 0; i < GRAPHS_MAX; i++) {
    recorded *g = &r->graph[i];
    *fresh = false;
    if (g->used && shape_same(&g->shape, want)) return g;
    if (!g->used || (oldest->used && g->last < oldest->last)) oldest = g;
  }
  *fresh = true;
  recorded_drop(oldest);
  oldest->used = true;
  oldest->shape = *want;
  return oldest;
}

/* A copy of a trace that is as large as what stands in it. */
static bool trace_keep(const cuda_trace *from, cuda_trace *to) {
  *to = *from;
  size_t checks = (size_t)from->checks * sizeof *to->check,
         attended = (size_t)from->attentions * sizeof *to->attended;
  to->check = malloc(checks ? checks : 1);
  to->attended = malloc(attended ? attended : 1);
  if (!to->check || !to->attended) {
    trace_free(to);
    return false;
  }
  memcpy(to->check, from->check, checks);
  memcpy(to->attended, from->attended, attended);
  return true;
}

/* Records a forward. False: it is to be launched instead, now and (but for a context that failed) from now on. */
static bool graph_record(ie_runner *r, ie_ctx *ctx, const ie_forward *forward, recorded *g) {
  cudaGraph_t graph = NULL;
  cudaStream_t stream = r->device->queue.stream;
  cudaError_t result = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (result == cudaSuccess) {
    forward_launch(r, ctx, forward);
    result = cudaStreamEndCapture(stream, &graph);
  }
  bool good = result == cudaSuccess && ctx->status == IE_OK && trace_keep(&r->trace, &g->trace);
  if (good) result = cudaGraphInstantiate(&g->graph, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  if (good && result == cudaSuccess) {
    r->counts.recorded++;
    return true;
  }
  cudaGetLastError();
  recorded_drop(g);
  if (ctx->status == IE_CANCELLED) return false;
  r->graphs_refused = true;
  snprintf(r->device->base.note, sizeof r->device->base.note, "decode is not replayed from a graph: %.120s",
           ctx->status != IE_OK ? ctx->error.message : cudaGetErrorString(result));
  ie_ctx_reset(ctx, (ie_ctx_mark){0});
  ctx->status = IE_OK;
  return false;
}

/* True when the forward runs as a replay. */
static bool graph_run(ie_runner *r, ie_ctx *ctx, const ie_forward *forward, recorded **used) {
  const ie_batch *batch = forward->batch;
  *used = NULL;
  if (!forward->replay || batch->longest_run != 1 || r->graphs_refused) return false;
  const shape want = {.tokens = batch->tokens,
                      .wanted = batch->wanted_count,
                      .reach = cuda_reach_bucket(batch->reach),
                      .generation = r->device->generation};
  bool fresh;
  recorded *g = graph_of(r, &want, &fresh);
  g->last = r->counts.eager + r->counts.replayed + 1;
  if (fresh) return false;
  if (!g->graph && !graph_record(r, ctx, forward, g)) return false;
  cudaError_t result = cudaGraphLaunch(g->graph, r->device->queue.stream);
  *used = g;
  r->counts.replayed++;
  cuda_launched(ctx, "graph", result);
  return true;
}

/* --- Afterwards ----------------------------------------------------------------------------------------------- */

/* Of attention: what positions, which a replay takes from device memory, say of it. */
static void work_add(ie_ctx *ctx, const cuda_trace *trace, const ie_batch *batch) {
  ctx->work.weight_bytes += trace->work.weight_bytes;
  ctx->work.flop += trace->work.flop;
  for (int i = 0; i < trace->attentions; i++) {
    const cuda_attended *a = &trace->attended[i];
    for (int64_t t = 0; t < batch->tokens; t++) {
      int64_t keys = batch->position[t] + 1;
      if (a->window > 0) keys = ie_min_i64(keys, a->window);
      ctx->work.flop += 4u * (uint64_t)(keys * a->q_numbers);
      /* The tokens of a run read its keys together. */
      bool last = t + 1 == batch->tokens || batch->sequence[t + 1] != batch->sequence[t];
      if (last) ctx->work.kv_bytes += (uint64_t)keys * a->position_bytes;
    }
  }
}

static void fault_report(ie_ctx *ctx, const cuda_trace *trace, int64_t vocab, ie_cuda_fault fault) {
  int where = IE_CUDA_FAULT_WHERE(fault);
  int64_t index = IE_CUDA_FAULT_INDEX(fault);
  if (where == CUDA_CHECK_DRAW) {
    ie_ctx_fail(ctx, IE_NUMERIC, "logits: %s at id %lld of row %lld of this forward",
                IE_CUDA_FAULT_NAN(fault) ? "NaN" : "infinity", (long long)(index % vocab),
                (long long)(index / vocab));
    return;
  }
  if (where >= trace->checks) {
    ie_ctx_fail(ctx, IE_INTERNAL, "a fault of check %d, but the forward made %d", where, trace->checks);
    return;
  }
  const cuda_check *check = &trace->check[where];
  double value = IE_CUDA_FAULT_NAN(fault) ? (double)NAN : (double)INFINITY;
  ctx->layer = check->layer;
  switch (check->kind) {
  case CUDA_CHECK_FINITE: ie_ctx_nonfinite(ctx, check->what, value, index, check->width); break;
  case CUDA_CHECK_GATE_UP:
    ie_ctx_fail(ctx, IE_NUMERIC, "%s: %s in row %lld of expert number %lld of token %lld", check->what,
                isnan(value) ? "NaN" : "infinity", (long long)(index % check->width),
                (long long)(index / check->width % check->group),
                (long long)(index / check->width / check->group));
    break;
  case CUDA_CHECK_F16:
    ie_ctx_fail(ctx, IE_NUMERIC,
                "keys or values beyond 65504 do not fit a KV cache of f16; bf16 and f32 hold them");
    break;
  }
  ctx->layer = -1;
}

ie_status cuda_run(ie_runner *r, ie_ctx *ctx, const ie_forward *forward, const float **logits,
                   ie_error *error) {
  const ie_batch *batch = forward->batch;
  cuda_device *device = r->device;
  *logits = NULL;
  if (batch->tokens > r->options.batch_max || batch->wanted_count > r->options.wanted_max)
    return ie_error_set(error, IE_INTERNAL, "a forward of %lld tokens and %lld wanted rows",
                        (long long)batch->tokens, (long long)batch->wanted_count);
  ie_status status = cuda_enter(device, error);
  if (status != IE_OK) return status;
  batch_stage(r, batch);
  recorded *used;
  if (!graph_run(r, ctx, forward, &used) && ctx->status == IE_OK) {
    r->counts.eager++;
    forward_launch(r, ctx, forward);
  }
  const cuda_trace *trace = used ? &used->trace : &r->trace;
  if (ctx->status == IE_OK) results_launch(r, ctx, forward, trace);
  /* Also after a failure: nothing may be under way when the arena is used again. */
  status = cuda_wait(device, "a forward", error);
  if (status != IE_OK) return status;
  if (ctx->status == IE_OK && *r->fault != IE_CUDA_NO_FAULT)
    fault_report(ctx, trace, r->options.vocab, *r->fault);
  if (ctx->status != IE_OK) return ie_error_set(error, ctx->status, "%s", ctx->error.message);
  work_add(ctx, trace, batch);
  if (batch->wanted_count > 0 && forward->draw) cuda_draw_read(&r->draw, forward->draw, batch->wanted_count);
  if (batch->wanted_count > 0 && !forward->draw) *logits = r->logits;
  return IE_OK;
}
