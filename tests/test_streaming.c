/* Streamed = resident, to the bit: every layout, cache size, thread count, chunk and way of reading; and what happens
 * when a read fails, comes late or is cancelled. */
#include "engine/streaming.h"

#include "support/golden.h"
#include "support/random_model.h"
#include "support/tempdir.h"

#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define HF "tests/data/models/gpt-oss-hf"
enum { TOKENS = 37, VOCAB = 259, STEPS = 6 };

/* --- Reads that fail or take long: the program is linked with --wrap=pread ---------------------------------------- */

static _Atomic long fail_after = -1; /* this many reads succeed, the next one fails; -1: none */
static _Atomic long slow_ms;
static _Atomic bool straggle; /* the read before the one that fails ends long after it */
static _Atomic long reads;

/* The first reads since `reads` was zero. */
typedef struct read_range {
  off_t offset;
  size_t bytes;
} read_range;
enum { READS_KEPT = 4096 };
static read_range read_kept[READS_KEPT];

ssize_t __real_pread(int fd, void *to, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t offset) {
  long mine = atomic_fetch_add(&reads, 1);
  if (mine < READS_KEPT) read_kept[mine] = (read_range){offset, bytes};
  long ms = atomic_load(&slow_ms);
  if (ms) nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
  long left = atomic_load(&fail_after) >= 0 ? atomic_fetch_sub(&fail_after, 1) : -1;
  if (left == 0) {
    errno = EIO;
    return -1;
  }
  if (left == 1 && atomic_load(&straggle)) nanosleep(&(struct timespec){.tv_nsec = 150000000}, NULL);
  return __real_pread(fd, to, bytes, offset);
}

/* --- One model, resident and streamed ---------------------------------------------------------------------------- */

typedef struct setting {
  int64_t slots; /* 0: room for every expert */
  int threads;
  int64_t chunk;
  ie_reader_kind kind;
  bool buffered;
  ie_precision precision;
  ie_weights weights;
} setting;

typedef struct subject {
  ie_device *device;
  ie_model *model;
  ie_state *state;
} subject;

static int32_t prompt[TOKENS];

static subject subject_open(const char *dir, const setting *s, bool streamed) {
  subject x = {0};
  ie_error error = {0};
  ie_state_options options = {.context_tok = TOKENS + STEPS, .chunk_tok = s->chunk};
  for (int i = 0; i < TOKENS; i++) prompt[i] = (i * 37 + 11) % VOCAB;
  assert_int_equal(ie_device_open(&(ie_device_options){.threads = s->threads}, &x.device, &error), IE_OK);
  ie_model_options how = {.precision = s->precision, .dense_weights = s->weights, .limited = streamed};
  ie_status status = ie_model_open(x.device, dir, &how, &x.model, &error);
  if (status != IE_OK) fail_msg("%s", error.message);
  if (streamed) {
    ie_state_sizes sizes;
    ie_placement place;
    assert_int_equal(ie_state_size(x.model, &options, &sizes, &error), IE_OK);
    assert_true(ie_placement_split(x.model, &sizes, s->slots ? 0 : SIZE_MAX / 4, &place));
    if (s->slots) place.slots = s->slots;
    if (place.transit > place.slots) place.transit = place.slots;
    place.rows_bytes = 4 * IE_READER_ALIGN; /* less than a chunk needs: rows are let go all the time */
    ie_stream_options stream = {.reader = {.kind = s->kind, .buffered = s->buffered}};
    status = ie_stream_open(x.model, &place, &stream, &error);
    if (status != IE_OK) fail_msg("%s", error.message);
    x.model->limited = true;
  }
  status = ie_state_new(x.model, &options, &x.state, &error);
  if (status != IE_OK) fail_msg("%s", error.message);
  return x;
}

static void subject_close(subject *x) {
  ie_state_free(x->state);
  ie_model_free(x->model);
  ie_device_free(x->device);
}

/* Logits of the prompt's end and of STEPS tokens after it: (STEPS + 1, VOCAB). */
static float *answer(subject *x) {
  ie_error error = {0};
  float *out = malloc((STEPS + 1) * VOCAB * sizeof *out);
  assert_non_null(out);
  assert_int_equal(ie_state_rollback(x->state, 0, 0, &error), IE_OK);
  ie_status status = ie_state_append(x->state, 0, prompt, TOKENS, NULL, &error);
  for (int i = 0; status == IE_OK && i <= STEPS; i++) {
    memcpy(out + i * VOCAB, ie_state_logits(x->state), VOCAB * sizeof *out);
    int32_t id = (i * 91 + 5) % VOCAB;
    if (i < STEPS) status = ie_state_append(x->state, 0, &id, 1, NULL, &error);
  }
  if (status != IE_OK) fail_msg("%s", error.message);
  return out;
}

static float *resident_answer(const char *dir, const setting *s) {
  subject x = subject_open(dir, s, /*streamed=*/false);
  float *out = answer(&x);
  subject_close(&x);
  return out;
}

static void answers_equal(const char *dir, const setting *s) {
  float *want = resident_answer(dir, s);
  subject x = subject_open(dir, s, /*streamed=*/true);
  float *got = answer(&x);
  assert_memory_equal(got, want, (STEPS + 1) * VOCAB * sizeof *got);
  ie_stream_stats stats;
  ie_model_stream_stats(x.model, &stats);
  assert_true(stats.streamed && stats.misses > 0 && stats.read_bytes > 0);
  if (s->slots == 0) {
    /* everything was read once and is found from then on */
    uint64_t before = stats.misses;
    free(got);
    got = answer(&x);
    assert_memory_equal(got, want, (STEPS + 1) * VOCAB * sizeof *got);
    ie_model_stream_stats(x.model, &stats);
    assert_int_equal(stats.misses, before);
  }
  subject_close(&x);
  free(got);
  free(want);
}

static void every_setting(const char *dir) {
  static const int64_t slots[] = {1, 2, 5, 0}, chunks[] = {5, 64};
  bool uring = true;
  ie_reader *reader;
  if (ie_reader_new(&(ie_reader_options){.kind = IE_READER_URING}, &reader, NULL) != IE_OK) uring = false;
  ie_reader_free(reader);
  for (size_t i = 0; i < sizeof slots / sizeof *slots; i++)
    for (int threads = 1; threads <= 2; threads++)
      for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++)
        for (int way = uring ? 0 : 1; way < 3; way++) {
          setting s = {.slots = slots[i],
                       .threads = threads,
                       .chunk = chunks[c],
                       .kind = way == 0 ? IE_READER_URING : IE_READER_THREADS,
                       .buffered = way == 2,
                       .precision = (i + c) % 2 ? IE_PRECISION_BF16 : IE_PRECISION_INT8};
          answers_equal(dir, &s);
        }
}

static void hugging_face(void **state) {
  (void)state;
  every_setting(HF);
}

static void original(void **state) {
  (void)state;
  every_setting("tests/data/models/gpt-oss-original");
}

/* --- Other containers, written from the golden model --------------------------------------------------------------- */

static ie_tensor_out tensor_of(const ie_tensor_info *t) {
  ie_tensor_out o = {.name = t->name, .dtype = t->dtype, .rank = t->rank, .data = t->data};
  memcpy(o.shape, t->shape, sizeof o.shape);
  return o;
}

static void file_copy(const char *from, const char *dir, const char *name) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", from, name);
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  char *data = malloc(1 << 20);
  size_t n = fread(data, 1, 1 << 20, f);
  fclose(f);
  tempdir_write(dir, name, data, n);
  free(data);
}

/* Every second tensor in another shard: blocks and scales of an expert lie in different files. */
static void shards(void **state) {
  (void)state;
  char *dir = tempdir_make();
  ie_tensor_file *file;
  assert_int_equal(ie_tensor_file_open(HF "/model.safetensors", &file, NULL), IE_OK);
  size_t n = ie_tensor_file_count(file);
  json_t *map = json_object();
  for (size_t shard = 0; shard < 2; shard++) {
    ie_tensor_out *list = calloc(n, sizeof *list);
    char name[64];
    size_t count = 0;
    snprintf(name, sizeof name, "model-0000%zu-of-00002.safetensors", shard + 1);
    for (size_t i = shard; i < n; i += 2) {
      list[count++] = tensor_of(ie_tensor_file_at(file, i));
      json_object_set_new(map, ie_tensor_file_at(file, i)->name, json_string(name));
    }
    assert_int_equal(ie_tensor_file_write(tempdir_path(dir, name), list, count, NULL), IE_OK);
    free(list);
  }
  json_t *index = json_pack("{s:{}, s:o}", "metadata", "weight_map", map);
  assert_int_equal(json_dump_file(index, tempdir_path(dir, "model.safetensors.index.json"), 0), 0);
  json_decref(index);
  file_copy(HF, dir, "config.json");
  ie_tensor_file_free(file);
  answers_equal(dir, &(setting){.slots = 3, .threads = 2, .chunk = 16});
  tempdir_remove(dir);
}

/* IEBIN begins tensors at multiples of 64 bytes, so at most places in a page. */
static void iebin(void **state) {
  (void)state;
  char *dir = tempdir_make();
  ie_tensor_file *file;
  assert_int_equal(ie_tensor_file_open(HF "/model.safetensors", &file, NULL), IE_OK);
  json_t *list = json_array();
  FILE *bin = fopen(tempdir_path(dir, "model.ie.bin"), "wb");
  assert_non_null(bin);
  size_t at = 0;
  for (size_t i = 0; i < ie_tensor_file_count(file); i++) {
    const ie_tensor_info *t = ie_tensor_file_at(file, i);
    for (size_t gap = 64 + i % 3 * 64; gap > 0; gap--, at++) fputc(0x5A, bin);
    json_t *shape = json_array();
    for (int r = 0; r < t->rank; r++) json_array_append_new(shape, json_integer(t->shape[r]));
    json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I, s:I}", "name", t->name, "dtype",
                                          ie_dtype_name(t->dtype), "shape", shape, "nbytes",
                                          (json_int_t)t->bytes, "offset", (json_int_t)at));
    assert_int_equal(fwrite(t->data, 1, t->bytes, bin), t->bytes);
    at += t->bytes;
    for (; at % 64; at++) fputc(0, bin);
  }
  fclose(bin);
  json_t *root =
      json_pack("{s:i, s:s, s:s, s:s, s:s, s:o}", "version", 1, "dtype", "mixed", "weights_bin",
                "model.ie.bin", "format", "iebin_v1_raw_safetensors", "hf_dir", "/x", "tensors", list);
  assert_int_equal(json_dump_file(root, tempdir_path(dir, "model.ie.json"), 0), 0);
  json_decref(root);
  file_copy(HF, dir, "config.json");
  ie_tensor_file_free(file);
  answers_equal(dir, &(setting){.slots = 2, .threads = 1, .chunk = 64});
  answers_equal(dir, &(setting){.slots = 0, .threads = 2, .chunk = 7});
  tempdir_remove(dir);
}

/* --- What goes wrong ------------------------------------------------------------------------------------------------ */

static const setting threaded = {.slots = 3, .threads = 2, .chunk = 8, .kind = IE_READER_THREADS};

/* Each read fails once, at loading or in a forward: an error with the file, and the next try gives the answer, also when
 * other parts of the same expert are still under way as it begins. */
static void failed_reads(void **state) {
  (void)state;
  float *want = resident_answer(HF, &threaded);
  subject x = subject_open(HF, &threaded, /*streamed=*/true);
  int failures = 0;
  for (long n = 0; n < 200; n += 7) {
    ie_error error = {0};
    assert_int_equal(ie_state_rollback(x.state, 0, 0, &error), IE_OK);
    atomic_store(&fail_after, n);
    atomic_store(&straggle, n % 2 == 0);
    ie_status status = ie_state_append(x.state, 0, prompt, TOKENS, NULL, &error);
    atomic_store(&straggle, false);
    bool failed = atomic_exchange(&fail_after, -1) < 0;
    assert_int_equal(status, failed ? IE_IO : IE_OK);
    failures += failed;
    if (!failed) continue;
    assert_non_null(strstr(error.message, "model.safetensors"));
    assert_non_null(strstr(error.message, "Input/output error"));
    float *got = answer(&x);
    assert_memory_equal(got, want, (STEPS + 1) * VOCAB * sizeof *got);
    free(got);
  }
  assert_true(failures > 5);
  subject_close(&x);
  free(want);
}

static void failed_loads(void **state) {
  (void)state;
  for (long n = 0; n < 12; n++) {
    ie_error error = {0};
    ie_device *device;
    ie_model *model;
    ie_state_sizes sizes;
    ie_placement place;
    assert_int_equal(ie_device_open(&(ie_device_options){.threads = 1}, &device, &error), IE_OK);
    assert_int_equal(ie_model_open(device, HF, NULL, &model, &error), IE_OK);
    assert_int_equal(ie_state_size(model, NULL, &sizes, &error), IE_OK);
    assert_true(ie_placement_split(model, &sizes, 0, &place));
    atomic_store(&fail_after, n);
    ie_status status =
        ie_stream_open(model, &place, &(ie_stream_options){.reader = {.kind = IE_READER_THREADS}}, &error);
    bool failed = atomic_exchange(&fail_after, -1) < 0;
    /* the first read only asks whether direct reads work here */
    if (n > 0) assert_int_equal(status, failed ? IE_IO : IE_OK);
    if (n == 1) assert_true(failed);
    ie_model_free(model);
    ie_device_free(device);
  }
}

/* A file that another program cuts off: an error, no hang, and nothing touches the mapping (which would be SIGBUS). */
static void shrunk_file(void **state) {
  (void)state;
  bool uring = false;
  for (int way = 0; way < 2; way++) {
    char *dir = tempdir_make();
    file_copy(HF, dir, "config.json");
    ie_tensor_file *file;
    assert_int_equal(ie_tensor_file_open(HF "/model.safetensors", &file, NULL), IE_OK);
    size_t n = ie_tensor_file_count(file);
    ie_tensor_out *list = calloc(n, sizeof *list);
    for (size_t i = 0; i < n; i++) list[i] = tensor_of(ie_tensor_file_at(file, i));
    assert_int_equal(ie_tensor_file_write(tempdir_path(dir, "model.safetensors"), list, n, NULL), IE_OK);
    free(list);
    ie_tensor_file_free(file);
    subject x = subject_open(
        dir,
        &(setting){.slots = 2, .threads = 1, .chunk = 8, .kind = way ? IE_READER_THREADS : IE_READER_AUTO},
        /*streamed=*/true);
    ie_stream_stats stats;
    ie_model_stream_stats(x.model, &stats);
    uring |= stats.uring;
    assert_int_equal(truncate(tempdir_path(dir, "model.safetensors"), 5000), 0);
    ie_error error = {0};
    assert_int_equal(ie_state_append(x.state, 0, prompt, TOKENS, NULL, &error), IE_IO);
    assert_non_null(strstr(error.message, "shrunk"));
    assert_int_equal(ie_state_append(x.state, 0, prompt, 1, NULL, &error), IE_IO);
    subject_close(&x);
    tempdir_remove(dir);
  }
  if (!uring) print_message("    io_uring was not tried: it does not work here\n");
}

/* Bytes of one expert of layer 0, as they are read: pages. */
static size_t expert_read_bytes(const subject *x, int64_t expert) {
  const ie_weight *w[2] = {x->model->moe[0].gate_up, x->model->moe[0].down};
  size_t sum = 0;
  for (int k = 0; k < IE_PART_COUNT; k++) {
    size_t file, bytes = w[k / 2]->expert_bytes[k % 2];
    uint64_t offset;
    if (bytes == 0) continue;
    assert_true(ie_checkpoint_locate(x->model->checkpoint, w[k / 2]->part[k % 2], &file, &offset));
    offset += (uint64_t)expert * bytes;
    uint64_t begin = offset / IE_READER_ALIGN * IE_READER_ALIGN;
    sum += (size_t)((offset + bytes - begin + IE_READER_ALIGN - 1) / IE_READER_ALIGN * IE_READER_ALIGN);
  }
  return sum;
}

/* Asks the provider for one expert of layer 0 and takes it. */
static ie_status expert_take(ie_experts *e, ie_ctx *ctx, int64_t expert) {
  const ie_expert_want want = {.expert = expert, .tokens = 1};
  ie_expert_taken taken;
  ctx->status = IE_OK;
  e->want(e, ctx, &want, 1);
  int64_t n = e->take(e, ctx, &taken);
  assert_int_equal(n, ctx->status == IE_OK);
  e->give_back(e);
  return ctx->status;
}

/* What is read on a guess counts as in vain until it is used, with the bytes that were read. */
static void guesses_in_vain(void **state) {
  (void)state;
  subject x = subject_open(HF, &threaded, /*streamed=*/true);
  ie_experts *e = ie_stream_experts(x.model->stream);
  ie_ctx *ctx = calloc(1, sizeof *ctx);
  ie_stream_stats s;
  assert_non_null(ctx);
  e->expect(e, ctx, (const int32_t[]){1, 3}, 2);
  ie_model_stream_stats(x.model, &s);
  assert_int_equal(s.vain_bytes, expert_read_bytes(&x, 1) + expert_read_bytes(&x, 3));
  assert_int_equal(s.vain_bytes, s.read_bytes);
  assert_int_equal(expert_take(e, ctx, 3), IE_OK);
  ie_model_stream_stats(x.model, &s);
  assert_int_equal(s.vain_bytes, expert_read_bytes(&x, 1));
  for (int i = 0; i < 5; i++)
    if (i != 1) assert_int_equal(expert_take(e, ctx, i), IE_OK); /* takes the place of 1 */
  ie_model_stream_stats(x.model, &s);
  assert_int_equal(s.vain_bytes, expert_read_bytes(&x, 1));
  assert_int_equal(expert_take(e, ctx, 1), IE_OK);
  ie_model_stream_stats(x.model, &s);
  assert_int_equal(s.vain_bytes, expert_read_bytes(&x, 1));
  free(ctx);
  subject_close(&x);
}

/* A guess that cannot be read fails no forward that does without it, and is read anew when it is wanted. */
static void failed_guesses(void **state) {
  (void)state;
  subject x = subject_open(HF, &threaded, /*streamed=*/true);
  ie_experts *e = ie_stream_experts(x.model->stream);
  ie_ctx *ctx = calloc(1, sizeof *ctx);
  assert_non_null(ctx);
  assert_int_equal(expert_take(e, ctx, 0), IE_OK);
  atomic_store(&slow_ms, 100);
  atomic_store(&fail_after, 0);
  e->expect(e, ctx, (const int32_t[]){1}, 1);
  nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
  atomic_store(&slow_ms, 300);
  assert_int_equal(expert_take(e, ctx, 2), IE_OK); /* while the other one fails */
  atomic_store(&slow_ms, 0);
  assert_true(atomic_exchange(&fail_after, -1) < 0);
  assert_int_equal(expert_take(e, ctx, 0), IE_OK);
  assert_int_equal(expert_take(e, ctx, 1), IE_OK);
  free(ctx);
  subject_close(&x);
}

static bool cancel_at(void *arg) {
  int *left = arg;
  return --*left <= 0;
}

/* Slow reads: the question whether to go on is asked while they are waited for. */
static void cancelled_while_reading(void **state) {
  (void)state;
  float *want = resident_answer(HF, &threaded);
  subject x = subject_open(HF, &threaded, /*streamed=*/true);
  for (int calls = 1; calls < 12; calls += 2) {
    int left = calls;
    ie_error error = {0};
    ie_append_options o = {.cancelled = cancel_at, .cancelled_arg = &left};
    assert_int_equal(ie_state_rollback(x.state, 0, 0, &error), IE_OK);
    atomic_store(&slow_ms, 60);
    ie_status status = ie_state_append(x.state, 0, prompt, TOKENS, &o, &error);
    atomic_store(&slow_ms, 0);
    assert_int_equal(status, IE_CANCELLED);
    assert_true(left <= 0);
  }
  float *got = answer(&x);
  assert_memory_equal(got, want, (STEPS + 1) * VOCAB * sizeof *got);
  free(got);
  free(want);
  subject_close(&x);
}

/* --- With weights quantised at load ---------------------------------------------------------------------------------- */

static void quantised(void **state) {
  (void)state;
  static const int64_t slots[] = {2, 0};
  for (int weights = IE_WEIGHTS_INT8; weights <= IE_WEIGHTS_INT4; weights++)
    for (size_t i = 0; i < 2; i++)
      for (int way = 0; way < 2; way++) {
        setting s = {.slots = slots[i],
                     .threads = 1 + way,
                     .chunk = way ? 64 : 5,
                     .kind = way ? IE_READER_AUTO : IE_READER_THREADS,
                     .precision = way ? IE_PRECISION_INT8 : IE_PRECISION_BF16,
                     .weights = (ie_weights)weights};
        answers_equal(HF, &s);
        answers_equal("tests/data/models/gpt-oss-original", &s);
      }
}

static bool is_quantised(const char *name) {
  return strstr(name, "_proj.weight") || !strcmp(name, "lm_head.weight");
}

/* Bytes of this process's own memory behind the addresses of a file's map. */
static size_t own_bytes(const uint8_t *begin, size_t bytes) {
  FILE *f = fopen("/proc/self/smaps", "re");
  assert_non_null(f);
  char line[512];
  bool inside = false;
  size_t sum = 0, from, to, kb;
  while (fgets(line, sizeof line, f)) {
    if (sscanf(line, "%zx-%zx ", &from, &to) == 2)
      inside = from >= (uintptr_t)begin && to <= (uintptr_t)begin + bytes;
    else if (inside && sscanf(line, "Anonymous: %zu kB", &kb) == 1)
      sum += kb << 10;
  }
  fclose(f);
  return sum;
}

/* Matrices of many pages: what was quantised is not read a second time, and what is taken is what the plan says, but for
 * the pages that a tensor shares with its neighbours. */
static void quantised_is_not_read_again(void **state) {
  (void)state;
  char *dir = tempdir_make();
  random_model_write(&(random_model){.arch = RANDOM_GPT_OSS,
                                     .layers = 2,
                                     .width = 256,
                                     .ffn = 256,
                                     .heads = 8,
                                     .kv_heads = 4,
                                     .head_dim = 64,
                                     .vocab = 1000,
                                     .experts = 4,
                                     .top_k = 2,
                                     .window = 16,
                                     .dtype = IE_BF16,
                                     .seed = 3},
                     dir);
  for (int weights = IE_WEIGHTS_PUBLISHED; weights <= IE_WEIGHTS_INT4; weights++) {
    ie_error error = {0};
    ie_device *device;
    ie_model *model;
    ie_state_sizes sizes;
    ie_placement place;
    ie_model_options how = {.dense_weights = (ie_weights)weights, .limited = true};
    assert_int_equal(ie_device_open(&(ie_device_options){.threads = 1}, &device, &error), IE_OK);
    if (ie_model_open(device, dir, &how, &model, &error) != IE_OK) fail_msg("%s", error.message);
    assert_int_equal(ie_state_size(model, NULL, &sizes, &error), IE_OK);
    assert_true(ie_placement_split(model, &sizes, 0, &place));
    atomic_store(&reads, 0);
    ie_status status =
        ie_stream_open(model, &place, &(ie_stream_options){.reader = {.kind = IE_READER_THREADS}}, &error);
    if (status != IE_OK) fail_msg("%s", error.message);
    long count = atomic_load(&reads);
    assert_in_range(count, 1, READS_KEPT);
    const ie_checkpoint *c = model->checkpoint;
    size_t again = 0, quantised_count = 0, tensors = ie_checkpoint_count(c), file_bytes;
    assert_non_null(ie_checkpoint_file_at(c, 0, &file_bytes));
    const uint8_t *map = NULL;
    for (size_t i = 0; i < tensors; i++) {
      const ie_tensor_info *t = ie_checkpoint_at(c, i);
      size_t file;
      uint64_t at;
      assert_true(ie_checkpoint_locate(c, t->data, &file, &at));
      map = (const uint8_t *)t->data - at;
      if (!is_quantised(t->name)) continue;
      quantised_count++;
      uint64_t first = (at + 4095) / 4096 * 4096, last = (at + t->bytes) / 4096 * 4096;
      for (long k = 1; k < count; k++) /* the first one only asks whether direct reads work */
        again += (uint64_t)read_kept[k].offset < last &&
                 (uint64_t)read_kept[k].offset + read_kept[k].bytes > first;
    }
    assert_int_equal(quantised_count, 9);
    if (weights == IE_WEIGHTS_PUBLISHED)
      assert_true(again >= quantised_count);
    else
      assert_int_equal(again, 0);
    size_t taken = own_bytes(map, file_bytes) + model->info.weights_copied_bytes, edges = 2 * 4096 * tensors;
    if (taken > place.resident_bytes + edges || taken + edges < place.resident_bytes)
      fail_msg("weights %d: %zu bytes taken, %zu planned", weights, taken, place.resident_bytes);
    ie_model_free(model);
    ie_device_free(device);
  }
  tempdir_remove(dir);
}

/* --- The plan --------------------------------------------------------------------------------------------------------- */

static void plans(void **state) {
  (void)state;
  ie_error error = {0};
  ie_device *device;
  ie_model *model;
  ie_state_sizes sizes;
  ie_placement least, more, all;
  assert_int_equal(ie_device_open(&(ie_device_options){.threads = 1}, &device, &error), IE_OK);
  assert_int_equal(ie_model_open(device, HF, NULL, &model, &error), IE_OK);
  assert_int_equal(ie_state_size(model, NULL, &sizes, &error), IE_OK);
  assert_true(ie_placement_split(model, &sizes, 0, &least));
  assert_int_equal(least.slots, 2);
  assert_int_equal(least.peak_bytes, least.minimum_bytes);
  size_t limit = least.minimum_bytes + 7 * least.slot_bytes + 4096;
  assert_true(ie_placement_split(model, &sizes, limit, &more));
  assert_true(more.fits && more.slots >= 8 && more.peak_bytes <= limit);
  assert_true(ie_placement_split(model, &sizes, limit - 6 * least.slot_bytes, &all) &&
              all.slots < more.slots);
  assert_true(ie_placement_split(model, &sizes, SIZE_MAX / 4, &all));
  assert_true(all.slots >= 8 && all.slots < 1000);
  /* below the least: refused, nothing is loaded, and the least is named */
  ie_plan plan;
  ie_plan_options o = {.memory_bytes = 1 << 20};
  assert_int_equal(ie_model_plan(model, &o, &plan, &error), IE_OK);
  assert_false(plan.fits);
  char number[32];
  snprintf(number, sizeof number, "at least %zu", plan.minimum_bytes);
  assert_int_equal(ie_model_place(model, &o, &error), IE_LIMIT);
  assert_non_null(strstr(error.message, number));
  assert_null(model->stream);
  /* a limit that holds all: nothing moves; only once */
  o.memory_bytes = (size_t)1 << 40;
  assert_int_equal(ie_model_place(model, &o, &error), IE_OK);
  assert_null(model->stream);
  assert_int_equal(ie_model_place(model, &o, &error), IE_INVALID_ARGUMENT);
  ie_model_free(model);
  /* no experts, or experts that are transposed at load: cannot be split */
  static const char *const whole[] = {"tests/data/models/qwen3", "tests/data/models/gpt-oss-bf16"};
  for (size_t i = 0; i < 2; i++) {
    assert_int_equal(ie_model_open(device, whole[i], NULL, &model, &error), IE_OK);
    assert_int_equal(ie_state_size(model, NULL, &sizes, &error), IE_OK);
    assert_false(ie_placement_split(model, &sizes, 0, &least));
    assert_int_equal(ie_model_plan(model, &o, &plan, &error), IE_OK);
    assert_int_equal(plan.minimum_bytes, plan.peak_bytes);
    ie_model_free(model);
  }
  ie_device_free(device);
}

/* Bytes of a plan's place; 0 when it has none of that name. */
static size_t place_bytes(const ie_plan *plan, const char *tensors) {
  for (int i = 0; i < plan->places; i++)
    if (strcmp(plan->place[i].tensors, tensors) == 0) return plan->place[i].bytes;
  return 0;
}

/* Of an embedding that is not the head, a plan counts what a context can look up, and the whole at most. */
static void rows_are_planned(void **state) {
  (void)state;
  static const char *const name = "rows of the embedding that are looked up";
  ie_error error = {0};
  ie_device *device;
  ie_model *model;
  ie_plan few, most;
  assert_int_equal(ie_device_open(&(ie_device_options){.threads = 1}, &device, &error), IE_OK);
  assert_int_equal(ie_model_open(device, HF, NULL, &model, &error), IE_OK);
  bool replaced;
  size_t lookup = ie_model_lookup_bytes(model, &replaced);
  assert_true(lookup > 8192 && !replaced);
  ie_plan_options o = {.state = {.context_tok = 2}};
  assert_int_equal(ie_model_plan(model, &o, &few, &error), IE_OK);
  assert_int_equal(few.resident_weights_bytes, few.weights_bytes - lookup + place_bytes(&few, name));
  assert_int_equal(place_bytes(&few, name), 8192); /* a row within two pages */
  o.state.context_tok = ie_model_describe(model)->context_tok;
  assert_int_equal(ie_model_plan(model, &o, &most, &error), IE_OK);
  assert_int_equal(place_bytes(&most, name), lookup);
  assert_int_equal(most.resident_weights_bytes, most.weights_bytes);
  ie_model_free(model);
  /* the head too: all of it is read */
  o.state.context_tok = 2;
  assert_int_equal(ie_model_open(device, "tests/data/models/qwen3", NULL, &model, &error), IE_OK);
  assert_int_equal(ie_model_lookup_bytes(model, &replaced), 0);
  assert_int_equal(ie_model_plan(model, &o, &few, &error), IE_OK);
  assert_int_equal(few.resident_weights_bytes, few.weights_bytes);
  assert_int_equal(place_bytes(&few, name), 0);
  ie_model_free(model);
  ie_device_free(device);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(hugging_face),   cmocka_unit_test(original),
      cmocka_unit_test(shards),         cmocka_unit_test(iebin),
      cmocka_unit_test(failed_reads),   cmocka_unit_test(failed_loads),
      cmocka_unit_test(shrunk_file),    cmocka_unit_test(guesses_in_vain),
      cmocka_unit_test(failed_guesses), cmocka_unit_test(cancelled_while_reading),
      cmocka_unit_test(quantised),      cmocka_unit_test(quantised_is_not_read_again),
      cmocka_unit_test(plans),          cmocka_unit_test(rows_are_planned),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
