/* clocher bench memory, matrix, disk, tokenizer, sampler: parts of the machine and of the program by themselves. */
#include "bench.h"
#include "clocher/sample.h"
#include "clocher/text.h"
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- memory ---------------------------------------------------------------------------------------------------- */

static json_t *patterns_json(const ie_read_ceiling *read) {
  json_t *list = json_array();
  for (int i = 0; list && i < read->patterns; i++)
    json_array_append_new(list, json_pack("{s:i, s:b, s:o}", "streams", read->pattern[i].streams, "prefetch",
                                          read->pattern[i].prefetch, "gb_s",
                                          cli_json_number(read->pattern[i].gb_s)));
  return list;
}

static int memory_print(cli_context *context, const bench_settings *s, const ie_device *device,
                        const ie_read_ceiling *read, const bench_foreign *foreign) {
  char name[48];
  const ie_read_pattern *best = &read->pattern[read->best];
  bench_pattern_name(best, name, sizeof name);
  if (s->json)
    return cli_out_json(
        context,
        json_pack("{s:s, s:o, s:s, s:o, s:I, s:I, s:o, s:o, s:b, s:s, s:i, s:s}", "phase", "memory",
                  "read_gb_s", cli_json_number(best->gb_s), "read_pattern", name, "patterns",
                  patterns_json(read), "buffer_bytes", (json_int_t)read->buffer_bytes, "read_bytes",
                  (json_int_t)read->read_bytes, "foreign_cpu_s", cli_json_number(foreign->cpu_s), "steal_s",
                  cli_json_number(foreign->steal_s), "valid", foreign->quiet, "isa", ie_device_isa(device),
                  "threads", ie_device_threads(device), "commit", cli_commit()));
  for (int i = 0; i < read->patterns; i++)
    cli_out_printf(context, "%-26s %7.2f GB/s%s\n", bench_pattern_name(&read->pattern[i], name, sizeof name),
                   read->pattern[i].gb_s, i == read->best ? "  <- ceiling" : "");
  if (!foreign->quiet)
    cli_out_printf(context, "INVALID: others used %.2f s of the processors\n", foreign->cpu_s);
  return CLI_OK;
}

int bench_memory(cli_context *context, const bench_settings *s) {
  ie_device *device;
  ie_error error = {0};
  ie_read_ceiling read;
  ie_read_options o = {.buffer_bytes = (size_t)s->buffer};
  ie_status status = cli_device_open(context, &device, &error);
  bench_load before = bench_load_read();
  if (status == IE_OK) status = ie_bench_read(device, &o, &read, &error);
  bench_load after = bench_load_read();
  bench_foreign foreign = bench_foreign_between(&before, &after);
  int code =
      status == IE_OK ? memory_print(context, s, device, &read, &foreign) : cli_fail(context, status, &error);
  ie_device_free(device);
  return code;
}

/* --- matrix ---------------------------------------------------------------------------------------------------- */

int bench_matrix(cli_context *context, const bench_settings *s) {
  ie_device *device;
  ie_error error = {0};
  int code = CLI_OK;
  ie_status status = cli_device_open(context, &device, &error);
  for (int p = IE_PRECISION_BF16; status == IE_OK && p <= IE_PRECISION_INT8; p++) {
    ie_matrix_ceiling m;
    bench_load before = bench_load_read();
    status = ie_bench_matrix(device, (ie_precision)p, &m, &error);
    bench_load after = bench_load_read();
    bench_foreign f = bench_foreign_between(&before, &after);
    if (status != IE_OK) break;
    if (s->json)
      code = cli_out_json(context,
                          json_pack("{s:s, s:s, s:o, s:s, s:o, s:o, s:b, s:s, s:i, s:s}", "phase", "matrix",
                                    "precision", ie_precision_name((ie_precision)p), "matrix_tflop_s",
                                    cli_json_number(m.tflop_s), "matrix_kind", m.kind, "foreign_cpu_s",
                                    cli_json_number(f.cpu_s), "steal_s", cli_json_number(f.steal_s), "valid",
                                    f.quiet, "isa", ie_device_isa(device), "threads",
                                    ie_device_threads(device), "commit", cli_commit()));
    else
      cli_out_printf(context, "%-5s %8.3f T operations/s  (%s)%s\n", ie_precision_name((ie_precision)p),
                     m.tflop_s, m.kind, f.quiet ? "" : "  INVALID: disturbed");
  }
  if (status != IE_OK) code = cli_fail(context, status, &error);
  ie_device_free(device);
  return code;
}

/* --- disk ------------------------------------------------------------------------------------------------------ */

enum { DISK_BLOCK = 1 << 20, DISK_THREADS = 8 };

typedef struct disk_job {
  int fd, thread;
  int64_t blocks, reads; /* of the file; of this thread */
  bool random;
  int failed; /* errno, or 0 */
} disk_job;

static void *disk_thread(void *arg) {
  disk_job *j = arg;
  void *buffer = NULL;
  if (posix_memalign(&buffer, 4096, DISK_BLOCK) != 0) {
    j->failed = ENOMEM;
    return NULL;
  }
  for (int64_t i = 0; i < j->reads && !j->failed; i++) {
    int64_t place = i * DISK_THREADS + j->thread;
    int64_t block = j->random ? bench_id(place, j->blocks) : place % j->blocks;
    ssize_t n = pread(j->fd, buffer, DISK_BLOCK, block * DISK_BLOCK);
    if (n != DISK_BLOCK) j->failed = n < 0 ? errno : EIO;
  }
  free(buffer);
  return NULL;
}

/* GB/s of `reads` blocks by eight readers; negative: -errno. */
static double disk_measure(int fd, int64_t blocks, int64_t reads, bool random) {
  pthread_t threads[DISK_THREADS];
  disk_job jobs[DISK_THREADS];
  int made = 0, failed = 0;
  double start = cli_clock_s();
  for (; made < DISK_THREADS; made++) {
    jobs[made] = (disk_job){
        .fd = fd, .thread = made, .blocks = blocks, .reads = reads / DISK_THREADS, .random = random};
    if (pthread_create(&threads[made], NULL, disk_thread, &jobs[made]) != 0) {
      failed = EAGAIN;
      break;
    }
  }
  for (int i = 0; i < made; i++) {
    pthread_join(threads[i], NULL);
    if (jobs[i].failed) failed = jobs[i].failed;
  }
  if (failed) return -failed;
  return (double)(reads / DISK_THREADS * DISK_THREADS) * DISK_BLOCK / (cli_clock_s() - start) * 1e-9;
}

static int disk_print(cli_context *context, const bench_settings *s, double sequential, double random,
                      int64_t reads) {
  if (s->json)
    return cli_out_json(context,
                        json_pack("{s:s, s:o, s:o, s:i, s:I, s:s, s:s}", "phase", "disk", "sequential_gb_s",
                                  cli_json_number(sequential), "random_gb_s", cli_json_number(random),
                                  "block_bytes", DISK_BLOCK, "read_bytes", (json_int_t)(reads * DISK_BLOCK),
                                  "path", s->path, "commit", cli_commit()));
  cli_out_printf(context, "sequential %.2f GB/s, random 1 MiB %.2f GB/s (O_DIRECT, %d readers)\n", sequential,
                 random, DISK_THREADS);
  return CLI_OK;
}

int bench_disk(cli_context *context, const bench_settings *s) {
  enum { READS = 1024 };
  if (!s->path) return cli_usage(context, "disk needs --path F: a large file on the disk to measure");
  int fd = open(s->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0) {
    int code = cli_failf(context, "%s: cannot open without the page cache: %s", s->path, strerror(errno));
    if (fd >= 0) close(fd);
    return code;
  }
  int64_t blocks = (int64_t)st.st_size / DISK_BLOCK;
  double sequential = -EINVAL, random = -EINVAL;
  if (blocks >= DISK_THREADS) {
    sequential = disk_measure(fd, blocks, READS < blocks ? READS : blocks, /*random=*/false);
    random = disk_measure(fd, blocks, READS < blocks ? READS : blocks, /*random=*/true);
  }
  close(fd);
  if (blocks < DISK_THREADS)
    return cli_usage(context, "%s: a file of at least %d MiB is needed", s->path, DISK_THREADS);
  if (sequential < 0 || random < 0)
    return cli_failf(context, "%s: cannot read: %s", s->path, strerror((int)-fmin(sequential, random)));
  return disk_print(context, s, sequential, random, READS < blocks ? READS : blocks);
}

/* --- tokenizer --------------------------------------------------------------------------------------------------- */

typedef struct tokenizer_times {
  double load_s;
  double *encode_s, *decode_s; /* (runs) */
  size_t tokens;
} tokenizer_times;

static ie_status tokenizer_measure(const bench_settings *s, const ie_tokenizer *tokenizer,
                                   const ie_bytes *text, tokenizer_times *t, ie_error *error) {
  ie_status status = IE_OK;
  for (int64_t i = 0; status == IE_OK && i < s->runs; i++) {
    ie_ids ids = {0};
    ie_bytes back = {0};
    double start = cli_clock_s();
    status = ie_tokenizer_encode(tokenizer, text->data, text->size, NULL, &ids, error);
    t->encode_s[i] = cli_clock_s() - start;
    start = cli_clock_s();
    if (status == IE_OK)
      status = ie_tokenizer_decode(tokenizer, ids.ids, ids.count, /*skip_special=*/false, &back, error);
    t->decode_s[i] = cli_clock_s() - start;
    t->tokens = ids.count;
    ie_ids_free(&ids);
    ie_bytes_free(&back);
  }
  return status;
}

static int tokenizer_print(cli_context *context, const bench_settings *s, const ie_tokenizer *tokenizer,
                           const tokenizer_times *t, size_t bytes) {
  double mb = 1e-6 * (double)bytes, encode = mb / cli_quantile(t->encode_s, (size_t)s->runs, 0.5);
  double decode = mb / cli_quantile(t->decode_s, (size_t)s->runs, 0.5);
  if (s->json)
    return cli_out_json(
        context, json_pack("{s:s, s:s, s:i, s:o, s:o, s:o, s:I, s:I, s:I, s:s}", "phase", "tokenizer", "kind",
                           ie_tokenizer_kind(tokenizer), "vocab", (int)ie_tokenizer_vocab(tokenizer),
                           "load_s", cli_json_number(t->load_s), "encode_mb_s", cli_json_number(encode),
                           "decode_mb_s", cli_json_number(decode), "bytes", (json_int_t)bytes, "tokens",
                           (json_int_t)t->tokens, "runs", (json_int_t)s->runs, "commit", cli_commit()));
  cli_out_printf(context,
                 "load %.3f s, encode %.2f MB/s, decode %.2f MB/s (%zu bytes, %zu tokens, one thread)\n",
                 t->load_s, encode, decode, bytes, t->tokens);
  return CLI_OK;
}

int bench_tokenizer(cli_context *context, const bench_settings *s) {
  if (!s->model_dir == !s->tokenizer)
    return cli_usage(context, "tokenizer needs one of --model-dir and --tokenizer");
  if (!s->text) return cli_usage(context, "tokenizer needs --text F");
  ie_error error = {0};
  ie_tokenizer *tokenizer = NULL;
  ie_bytes text = {0};
  ie_tokenizer_options how = {.encoding = s->encoding, .cache_dir = cli_cache_dir(context)};
  tokenizer_times t = {.encode_s = calloc((size_t)s->runs, sizeof(double)),
                       .decode_s = calloc((size_t)s->runs, sizeof(double))};
  ie_status status = cli_read(s->text, (size_t)1 << 32, &text, &error);
  double start = cli_clock_s();
  if (status == IE_OK)
    status = s->tokenizer ? ie_tokenizer_open(s->tokenizer, &how, &tokenizer, &error)
                          : ie_tokenizer_open_dir(s->model_dir, &how, &tokenizer, &error);
  t.load_s = cli_clock_s() - start;
  if (status == IE_OK && !tokenizer)
    status = ie_error_set(&error, IE_INVALID_ARGUMENT, "%s has no tokenizer", s->model_dir);
  if (status == IE_OK && (!t.encode_s || !t.decode_s))
    status = ie_error_set(&error, IE_OUT_OF_MEMORY, "out of memory for the times");
  if (status == IE_OK) status = tokenizer_measure(s, tokenizer, &text, &t, &error);
  int code = status == IE_OK ? tokenizer_print(context, s, tokenizer, &t, text.size)
                             : cli_fail(context, status, &error);
  ie_tokenizer_free(tokenizer);
  ie_bytes_free(&text);
  free(t.encode_s);
  free(t.decode_s);
  return code;
}

/* --- sampler ------------------------------------------------------------------------------------------------------ */

/* Logits as a language model's: normal with deviation 3 (sum of twelve uniforms), a few far above. */
static void logits_make(float *logits, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    double sum = -6;
    for (int64_t k = 0; k < 12; k++) sum += (double)bench_id(12 * i + k, 1 << 24) / (1 << 24);
    logits[i] = (float)(3 * sum);
  }
  for (int64_t k = 0; k < 20 && k < count; k++) logits[bench_id(k, count)] = (float)(18 - 0.3 * (double)k);
}

static int sampler_case(cli_context *context, const bench_settings *s, const char *name,
                        const ie_sample_params *params, const float *logits) {
  enum { WARM = 3 };
  ie_sampler *sampler;
  ie_error error = {0};
  size_t runs = (size_t)s->runs * 20;
  double *times = calloc(runs, sizeof *times);
  ie_status status = times ? ie_sampler_new_default(params, s->vocab, &sampler, &error)
                           : ie_error_set(&error, IE_OUT_OF_MEMORY, "out of memory for the times");
  if (status != IE_OK) {
    free(times);
    return cli_fail(context, status, &error);
  }
  for (size_t i = 0; status == IE_OK && i < runs + WARM; i++) {
    int32_t id;
    ie_sample_input input = {.logits = logits, .vocab = s->vocab, .step = i};
    double start = cli_clock_s();
    status = ie_sampler_draw(sampler, &input, &id, &error);
    if (i >= WARM) times[i - WARM] = 1e3 * (cli_clock_s() - start);
  }
  bench_spread ms = bench_spread_of(times, runs);
  ie_sampler_free(sampler);
  free(times);
  if (status != IE_OK) return cli_fail(context, status, &error);
  if (s->json)
    return cli_out_json(context,
                        json_pack("{s:s, s:s, s:I, s:I, s:o, s:o, s:o, s:s}", "phase", "sampler", "case",
                                  name, "vocab", (json_int_t)s->vocab, "runs", (json_int_t)runs, "ms_median",
                                  cli_json_number(ms.median), "ms_min", cli_json_number(ms.min), "ms_max",
                                  cli_json_number(ms.max), "commit", cli_commit()));
  cli_out_printf(context, "%-42s %.3f ms (%.3f to %.3f)\n", name, ms.median, ms.min, ms.max);
  return CLI_OK;
}

int bench_sampler(cli_context *context, const bench_settings *s) {
  static const struct {
    const char *name;
    ie_sample_params params;
  } cases[] = {
      {"greedy", {.greedy = true}},
      {"temperature 0.7, top-k 50, top-p 0.95", {.temperature = 0.7, .top_k = 50, .top_p = 0.95}},
      {"temperature 0.7, top-p 0.95", {.temperature = 0.7, .top_p = 0.95}},
      {"temperature 1", {.temperature = 0}},
      {"min-p 0.05", {.min_p = 0.05}},
  };
  float *logits = malloc((size_t)s->vocab * sizeof *logits);
  if (!logits) return cli_failf(context, "out of memory for %lld logits", (long long)s->vocab);
  logits_make(logits, s->vocab);
  int code = CLI_OK;
  for (size_t i = 0; code == CLI_OK && i < sizeof cases / sizeof *cases; i++)
    code = sampler_case(context, s, cases[i].name, &cases[i].params, logits);
  free(logits);
  return code;
}
