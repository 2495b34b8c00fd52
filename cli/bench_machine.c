/* clocher bench memory, matrix, disk, tokenizer, sampler: parts of the machine and of the program by themselves. */
#include "bench.h"
#include "clocher/sample.h"
#include "clocher/text.h"
#include "engine.h"

#include <stdlib.h>
#include <string.h>

/* --- memory, matrix, disk ---------------------------------------------------------------------------------------- */

static json_t *patterns_json(const ie_memory_probe *p) {
  json_t *list = json_array();
  for (int i = 0; list && i < p->patterns; i++)
    json_array_append_new(list, json_pack("{s:i, s:b, s:o}", "streams", p->each[i].streams, "prefetch",
                                          p->each[i].prefetch, "gb_s", cli_json_number(p->each[i].gb_s)));
  return list;
}

/* What every result says about its circumstances; takes `object` over. */
static json_t *circumstances_add(json_t *object, const ie_device *device, const ie_load *load) {
  json_t *more =
      json_pack("{s:o, s:o, s:b, s:s, s:i, s:s}", "foreign_cpu_s", cli_json_number(load->foreign_cpu_s),
                "steal_s", cli_json_number(load->steal_s), "valid", bench_quiet(load), "isa",
                ie_device_isa(device), "threads", ie_device_threads(device), "commit", cli_commit());
  bool ok = object && more && json_object_update(object, more) == 0;
  json_decref(more);
  if (ok) return object;
  json_decref(object);
  return NULL;
}

static void disturbed_print(cli_context *context, const ie_load *load) {
  if (bench_quiet(load)) return;
  cli_out_printf(context, "INVALID: others used %.2f s of the processors in %.2f s\n",
                 load->foreign_cpu_s + load->steal_s, load->wall_s);
}

static int memory_print(cli_context *context, const bench_settings *s, const ie_device *device,
                        const ie_memory_probe *p, const ie_load *load) {
  if (s->json) {
    json_t *object =
        json_pack("{s:s, s:o, s:s, s:o, s:I, s:I}", "phase", "memory", "read_gb_s",
                  cli_json_number(p->read_gb_s), "read_pattern", p->pattern, "patterns", patterns_json(p),
                  "buffer_bytes", (json_int_t)p->buffer_bytes, "read_bytes", (json_int_t)p->read_bytes);
    return cli_out_json(context, circumstances_add(object, device, load));
  }
  for (int i = 0; i < p->patterns; i++)
    cli_out_printf(context, "%d streams%-18s %7.2f GB/s\n", p->each[i].streams,
                   p->each[i].prefetch ? ", prefetch" : "", p->each[i].gb_s);
  cli_out_printf(context, "read ceiling: %.2f GB/s (%s)\n", p->read_gb_s, p->pattern);
  disturbed_print(context, load);
  return CLI_OK;
}

int bench_memory(cli_context *context, const bench_settings *s) {
  ie_device *device;
  ie_error error = {0};
  ie_memory_probe probe;
  ie_memory_probe_options o = {.buffer_bytes = (size_t)s->buffer, .read_bytes = (size_t)s->probe_read};
  ie_load_mark mark;
  ie_load load;
  ie_status status = cli_device_open(context, &device, &error);
  ie_load_begin(&mark);
  if (status == IE_OK) status = ie_probe_memory(device, &o, &probe, &error);
  ie_load_since(&mark, &load);
  int code =
      status == IE_OK ? memory_print(context, s, device, &probe, &load) : cli_fail(context, status, &error);
  ie_device_free(device);
  return code;
}

static json_t *kinds_json(const ie_matrix_probe *p) {
  json_t *list = json_array();
  for (int i = 0; list && i < p->kinds; i++)
    json_array_append_new(
        list, json_pack("{s:s, s:o}", "kind", p->each[i].kind, "tera_s", cli_json_number(p->each[i].tera_s)));
  return list;
}

int bench_matrix(cli_context *context, const bench_settings *s) {
  ie_device *device;
  ie_error error = {0};
  ie_matrix_probe p;
  ie_load_mark mark;
  ie_load load;
  ie_status status = cli_device_open(context, &device, &error);
  if (status != IE_OK) return cli_fail(context, status, &error);
  ie_load_begin(&mark);
  ie_probe_matrix(device, &p);
  ie_load_since(&mark, &load);
  int code = CLI_OK;
  if (s->json) {
    json_t *object =
        json_pack("{s:s, s:o, s:s, s:o, s:s, s:o}", "phase", "matrix", "matrix_tflop_s",
                  cli_json_number(p.matrix_tflop_s), "matrix_kind", p.matrix_kind, "int8_tops",
                  cli_json_number(p.int8_tops), "int8_kind", p.int8_kind, "kinds", kinds_json(&p));
    code = cli_out_json(context, circumstances_add(object, device, &load));
  } else {
    for (int i = 0; i < p.kinds; i++)
      cli_out_printf(context, "%-14s %8.3f T operations/s\n", p.each[i].kind, p.each[i].tera_s);
    cli_out_printf(context, "matrix ceiling: %.3f TFLOP/s (%s)\n", p.matrix_tflop_s, p.matrix_kind);
    disturbed_print(context, &load);
  }
  ie_device_free(device);
  return code;
}

int bench_disk(cli_context *context, const bench_settings *s) {
  const char *path = s->path ? s->path : s->model_dir;
  if (!path)
    return cli_usage(context, "disk needs --path or --model-dir: a file or folder on the disk to measure");
  if (s->path && s->model_dir) cli_log(context, "clocher: --model-dir is ignored: --path names the disk");
  ie_disk_probe p;
  ie_error error = {0};
  ie_status status = ie_probe_disk(path, NULL, &p, &error);
  if (status != IE_OK) return cli_fail(context, status, &error);
  if (s->json)
    return cli_out_json(context,
                        json_pack("{s:s, s:o, s:o, s:b, s:b, s:i, s:o, s:I, s:I, s:s}", "phase", "disk",
                                  "sequential_gb_s", cli_json_number(p.sequential_gb_s), "random_gb_s",
                                  cli_json_number(p.random_gb_s), "direct", p.direct, "uring", p.uring,
                                  "depth", p.depth, "file", cli_json_text(p.file, strlen(p.file)),
                                  "file_bytes", (json_int_t)p.file_bytes, "read_bytes",
                                  (json_int_t)p.read_bytes, "commit", cli_commit()));
  cli_out_printf(context, "sequential %.2f GB/s, random 1 MiB %.2f GB/s (%s, %d in flight by %s)\n",
                 p.sequential_gb_s, p.random_gb_s, p.direct ? "O_DIRECT" : "through the page cache", p.depth,
                 p.uring ? "io_uring" : "threads");
  return CLI_OK;
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
  size_t runs = (size_t)s->runs;
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
