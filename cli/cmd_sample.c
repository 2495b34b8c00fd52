/* clocher sample: the sampler over rows of logits in a file. */
#include "cli.h"
#include "clocher/sample.h"
#include "clocher/tensor.h"
#include "out.h"

#include <stdlib.h>
#include <string.h>

typedef struct settings {
  const char *logits, *params, *out;
} settings;

static const cli_option options[] = {
    {"--logits", CLI_AS_PATH(settings, logits), .argument = "F", .required = true,
     .meaning =
         "safetensors file with F32 `logits` (N, V), and I32 `seen` (N, S) where ids were seen before."},
    {"--params", CLI_AS_PATH(settings, params), .argument = "J", .required = true,
     .meaning = "JSON file: an object with any of repetition_penalty, temperature, top_k, top_p, min_p, "
                "draws, seed."},
    {"--out", CLI_AS_PATH(settings, out), .argument = "F2", .required = true,
     .meaning =
         "safetensors file to write: F32 `probs` (N, V), and I32 `ids` (N, draws) when draws are asked for."},
    {0},
};

/* What the parameter file says. */
typedef struct request {
  ie_sample_step steps[IE_SAMPLE_DEFAULT_STEPS];
  size_t step_count;
  int64_t draws;
  uint64_t seed;
  bool greedy;
} request;

/* Reads one number; false after a message. *given tells whether the key stands there with a value. */
static ie_status number_read(const json_t *root, const char *key, double *out, bool *given, ie_error *error) {
  const json_t *value = json_object_get(root, key);
  *given = value && !json_is_null(value);
  if (!*given) return IE_OK;
  if (!json_is_number(value))
    return ie_error_set(error, IE_INVALID_ARGUMENT, "parameters: %s: expected a number", key);
  *out = json_number_value(value);
  return IE_OK;
}

/* The steps in transformers' order. Where transformers takes a value as "off" (top_k 0, top_p 1, min_p 0,
 * temperature and penalty 1), no step is made. Temperature 0 is greedy. */
static ie_status steps_read(const json_t *root, request *r, ie_error *error) {
  static const struct {
    const char *key;
    ie_sample_kind kind;
    double off;
  } known[] = {{"repetition_penalty", IE_SAMPLE_REPETITION_PENALTY, 1},
               {"temperature", IE_SAMPLE_TEMPERATURE, 1},
               {"top_k", IE_SAMPLE_TOP_K, 0},
               {"top_p", IE_SAMPLE_TOP_P, 1},
               {"min_p", IE_SAMPLE_MIN_P, 0}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    double value = 0;
    bool given;
    ie_status status = number_read(root, known[i].key, &value, &given, error);
    if (status != IE_OK) return status;
    if (!given || value == known[i].off) continue;
    if (known[i].kind == IE_SAMPLE_TEMPERATURE && value == 0)
      r->greedy = true;
    else
      r->steps[r->step_count++] = (ie_sample_step){.kind = known[i].kind, .value = value};
  }
  return IE_OK;
}

static ie_status request_read(cli_context *context, const char *path, request *r, ie_error *error) {
  static const char *const known[] = {
      "repetition_penalty", "temperature", "top_k", "top_p", "min_p", "draws", "seed", NULL};
  ie_bytes text = {0};
  ie_status status = cli_read(path, 1 << 20, &text, error);
  if (status != IE_OK) {
    ie_bytes_free(&text);
    return status;
  }
  json_error_t at;
  json_t *root = json_loadb(text.data, text.size, 0, &at);
  ie_bytes_free(&text);
  if (!json_is_object(root)) {
    json_decref(root);
    return ie_error_set(error, IE_INVALID_ARGUMENT, "%s: expected a JSON object%s%s", path, root ? "" : ": ",
                        root ? "" : at.text);
  }
  const char *key;
  json_t *value;
  json_object_foreach(root, key, value) {
    size_t i = 0;
    while (known[i] && strcmp(known[i], key) != 0) i++;
    if (!known[i]) cli_log(context, "clocher: %s: key %s is ignored", path, key);
  }
  status = steps_read(root, r, error);
  const json_t *draws = json_object_get(root, "draws"), *seed = json_object_get(root, "seed");
  if (status == IE_OK && draws && (!json_is_integer(draws) || json_integer_value(draws) < 0))
    status = ie_error_set(error, IE_INVALID_ARGUMENT, "parameters: draws: expected an integer of at least 0");
  if (status == IE_OK && seed && !json_is_integer(seed))
    status = ie_error_set(error, IE_INVALID_ARGUMENT, "parameters: seed: expected an integer");
  if (status == IE_OK) {
    r->draws = json_integer_value(draws);
    r->seed = (uint64_t)json_integer_value(seed);
  }
  json_decref(root);
  return status;
}

/* The rows of a tensor of one or two dimensions. */
static ie_status matrix_get(const ie_tensor_file *file, const char *name, ie_dtype dtype,
                            const ie_tensor_info **out, int64_t shape[2], ie_error *error) {
  const ie_tensor_info *t = *out = ie_tensor_file_get(file, name);
  if (!t) return IE_OK;
  if (t->dtype != dtype || t->rank < 1 || t->rank > 2)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "%s: tensor %s: expected %s with one or two dimensions, found %s"
                        " with %d",
                        t->file, name, ie_dtype_name(dtype), ie_dtype_name(t->dtype), t->rank);
  shape[0] = t->rank == 2 ? t->shape[0] : 1;
  shape[1] = t->shape[t->rank - 1];
  return IE_OK;
}

typedef struct work {
  const ie_tensor_info *logits, *seen;
  int64_t shape[2], seen_shape[2]; /* (N, V), (N, S) */
  float *logits_row;               /* (V) copied from the file, where it may stand at any byte */
  int32_t *seen_row;               /* (S) likewise */
  float *probs;                    /* (N, V) */
  int32_t *ids;                    /* (N, draws) */
  ie_sampler *sampler;
} work;

/* Row i of a tensor with items of four bytes. */
static void row_copy(void *out, const ie_tensor_info *t, int64_t i, int64_t width) {
  size_t bytes = 4 * (size_t)width;
  if (bytes) memcpy(out, (const char *)t->data + (size_t)i * bytes, bytes);
}

static ie_status rows_compute(work *w, const request *r, ie_error *error) {
  ie_sampler_config config = {.steps = r->steps,
                              .step_count = r->step_count,
                              .vocab = w->shape[1],
                              .seed = r->seed,
                              .greedy = r->greedy};
  ie_status status = ie_sampler_new(&config, &w->sampler, error);
  for (int64_t i = 0; status == IE_OK && i < w->shape[0]; i++) {
    ie_sample_input input = {.logits = w->logits_row, .vocab = w->shape[1], .row = (uint64_t)i};
    row_copy(w->logits_row, w->logits, i, w->shape[1]);
    if (w->seen) {
      row_copy(w->seen_row, w->seen, i, w->seen_shape[1]);
      input.seen = w->seen_row;
      input.seen_count = (size_t)w->seen_shape[1];
    }
    status = ie_sampler_probs(w->sampler, &input, w->probs + i * w->shape[1], error);
    if (status == IE_OK)
      status = ie_sampler_draw_many(w->sampler, &input, w->ids + i * r->draws, (size_t)r->draws, error);
  }
  return status;
}

static ie_status result_write(const work *w, const request *r, const char *path, ie_error *error) {
  ie_tensor_out out[] = {
      {.name = "probs", .dtype = IE_F32, .rank = 2, .shape = {w->shape[0], w->shape[1]}, .data = w->probs},
      {.name = "ids", .dtype = IE_I32, .rank = 2, .shape = {w->shape[0], r->draws}, .data = w->ids},
  };
  return ie_tensor_file_write(path, out, r->draws > 0 ? 2 : 1, error);
}

static ie_status file_sample(const ie_tensor_file *file, const request *r, const settings *s,
                             ie_error *error) {
  work w = {0};
  ie_status status = matrix_get(file, "logits", IE_F32, &w.logits, w.shape, error);
  if (status == IE_OK) status = matrix_get(file, "seen", IE_I32, &w.seen, w.seen_shape, error);
  if (status != IE_OK) return status;
  if (!w.logits || w.shape[0] < 1 || w.shape[1] < 1)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "%s: expected a tensor logits (N, V) that is not empty",
                        s->logits);
  if (w.seen && w.seen_shape[0] != w.shape[0])
    return ie_error_set(error, IE_INVALID_ARGUMENT, "%s: seen has %lld rows, expected %lld as logits",
                        s->logits, (long long)w.seen_shape[0], (long long)w.shape[0]);
  size_t draws;
  if (__builtin_mul_overflow((size_t)w.shape[0], (size_t)r->draws, &draws))
    draws = SIZE_MAX / sizeof(int32_t);
  w.probs = calloc((size_t)w.shape[0] * (size_t)w.shape[1], sizeof *w.probs);
  w.ids = calloc(draws + 1, sizeof *w.ids);
  w.logits_row = malloc((size_t)w.shape[1] * sizeof *w.logits_row);
  w.seen_row = malloc(((size_t)w.seen_shape[1] + 1) * sizeof *w.seen_row);
  if (!w.probs || !w.ids || !w.logits_row || !w.seen_row)
    status =
        ie_error_set(error, IE_OUT_OF_MEMORY, "sample: out of memory for %lld rows", (long long)w.shape[0]);
  if (status == IE_OK) status = rows_compute(&w, r, error);
  if (status == IE_OK) status = result_write(&w, r, s->out, error);
  ie_sampler_free(w.sampler);
  free(w.logits_row);
  free(w.seen_row);
  free(w.probs);
  free(w.ids);
  return status;
}

static int sample_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  request r = {0};
  ie_error error = {0};
  ie_tensor_file *file = NULL;
  ie_status status = request_read(context, s->params, &r, &error);
  if (status == IE_OK) status = ie_tensor_file_open(s->logits, &file, &error);
  if (status == IE_OK) status = file_sample(file, &r, s, &error);
  ie_tensor_file_free(file);
  return status == IE_OK ? CLI_OK : cli_fail(context, status, &error);
}

const cli_command cmd_sample = {
    .name = "sample",
    .summary = "Run the sampler over rows of logits in a file",
    .usage = "--logits F --params J --out F2",
    .help =
        "Computes the distribution that `clocher run` draws from: repetition penalty, temperature, top-k, "
        "top-p,\n"
        "min-p, softmax, as transformers does and in its order. temperature 0 is greedy. With \"draws\": K "
        "it also\n"
        "draws K ids a row; draw k of row i depends on the logits, the parameters, \"seed\", k and i alone.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .run = sample_run,
};
