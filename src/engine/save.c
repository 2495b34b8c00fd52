/* Saving and restoring one sequence: a safetensors file with
 *   state  U8 (32)       fingerprint of the model
 *   ids    I32 (n)
 *   k.L v.L              (HK, n - first, D) positions first .. n - 1 of layer L, of the cache's type
 *   first  I64 (layers)  the first position that the file holds of each layer */
#include "base/file.h"
#include "base/hash.h"
#include "base/size.h"
#include "engine/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 4, SAMPLE_BYTES = 64, NAME_BYTES = 32 };

/* The architecture, config.json, the arithmetic class, how dense weights are held, and of all tensors name, type, shape and some bytes: the first
 * ones and others spread over the rest. */
static void fingerprint(const ie_model *model, uint8_t digest[IE_SHA256_BYTES]) {
  struct sha256_ctx ctx;
  sha256_init(&ctx);
  sha256_update(&ctx, strlen(model->arch->name), (const uint8_t *)model->arch->name);
  sha256_update(&ctx, sizeof model->config_digest, model->config_digest);
  sha256_update(&ctx, sizeof model->cls, (const uint8_t *)&model->cls);
  if (model->info.dense_weights != IE_WEIGHTS_PUBLISHED)
    sha256_update(&ctx, sizeof model->info.dense_weights, (const uint8_t *)&model->info.dense_weights);
  for (size_t i = 0; i < ie_checkpoint_count(model->checkpoint); i++) {
    const ie_tensor_info *t = ie_checkpoint_at(model->checkpoint, i);
    sha256_update(&ctx, strlen(t->name) + 1, (const uint8_t *)t->name);
    sha256_update(&ctx, sizeof t->dtype, (const uint8_t *)&t->dtype);
    sha256_update(&ctx, (size_t)t->rank * sizeof t->shape[0], (const uint8_t *)t->shape);
    for (size_t k = 0; k < SAMPLES; k++) {
      size_t at = t->bytes / SAMPLES * k, n = t->bytes - at < SAMPLE_BYTES ? t->bytes - at : SAMPLE_BYTES;
      sha256_update(&ctx, n, (const uint8_t *)t->data + at);
    }
  }
  sha256_digest(&ctx, IE_SHA256_BYTES, digest);
}

/* Copies positions first .. end of one head between the ring and dense memory. */
static void head_copy(const ie_kv_layer *layer, uint8_t *cache, uint8_t *dense, int64_t first, int64_t end,
                      bool out) {
  size_t row = (size_t)layer->dim * ie_dtype_bytes(layer->dtype);
  for (int64_t p = first; p < end;) {
    int64_t slot = p % layer->cap, n = ie_min_i64(end - p, layer->cap - slot);
    uint8_t *a = cache + (size_t)slot * row, *b = dense + (size_t)(p - first) * row;
    if (out)
      memcpy(b, a, (size_t)n * row);
    else
      memcpy(a, b, (size_t)n * row);
    p += n;
  }
}

static void layer_copy(const ie_kv_layer *layer, void *cache, int64_t sequence, void *dense, int64_t first,
                       int64_t end, bool out) {
  size_t row = (size_t)layer->dim * ie_dtype_bytes(layer->dtype);
  for (int64_t h = 0; h < layer->heads; h++)
    head_copy(layer, (uint8_t *)cache + (size_t)((sequence * layer->heads + h) * layer->cap) * row,
              (uint8_t *)dense + (size_t)(h * (end - first)) * row, first, end, out);
}

ie_status ie_state_save(const ie_state *state, int64_t sequence, const char *path, ie_error *error) {
  if (sequence < 0 || sequence >= state->sequences)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "sequence %lld, but the state has %lld",
                        (long long)sequence, (long long)state->sequences);
  int64_t layers = state->model->info.layers, n = state->length[sequence];
  size_t count = 3 + 2 * (size_t)layers;
  uint8_t digest[IE_SHA256_BYTES];
  fingerprint(state->model, digest);
  ie_tensor_out *t = calloc(count, sizeof *t);
  char(*names)[NAME_BYTES] = calloc(count, sizeof *names);
  int64_t *first = calloc((size_t)layers, sizeof *first);
  uint8_t *dense = malloc(state->kv_bytes / (size_t)state->sequences + 1), *at = dense;
  ie_status status = IE_OK;
  if (!t || !names || !first || !dense) {
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for a copy of the cache", path);
    goto cleanup;
  }
  t[0] =
      (ie_tensor_out){.name = "state", .dtype = IE_U8, .rank = 1, .shape = {IE_SHA256_BYTES}, .data = digest};
  t[1] = (ie_tensor_out){.name = "first", .dtype = IE_I64, .rank = 1, .shape = {layers}, .data = first};
  t[2] = (ie_tensor_out){
      .name = "ids", .dtype = IE_I32, .rank = 1, .shape = {n}, .data = ie_state_ids(state, sequence)};
  for (int64_t i = 0; i < 2 * layers; i++) {
    const ie_kv_layer *layer = &state->layer[i / 2];
    first[i / 2] = ie_min_i64(ie_state_first_held(state, i / 2, sequence), n);
    snprintf(names[3 + i], NAME_BYTES, "%c.%lld", i % 2 ? 'v' : 'k', (long long)(i / 2));
    t[3 + i] = (ie_tensor_out){.name = names[3 + i],
                               .dtype = layer->dtype,
                               .rank = 3,
                               .shape = {layer->heads, n - first[i / 2], layer->dim},
                               .data = at};
    layer_copy(layer, i % 2 ? layer->v : layer->k, sequence, at, first[i / 2], n, /*out=*/true);
    at += (size_t)(layer->heads * (n - first[i / 2]) * layer->dim) * ie_dtype_bytes(layer->dtype);
  }
  status = ie_tensor_file_write(path, t, count, error);
cleanup:
  free(t);
  free(names);
  free(first);
  free(dense);
  return status;
}

/* A saved sequence that is being read. */
typedef struct saved {
  const ie_tensor_file *file;
  const char *path;
  const int32_t *ids;   /* (n) */
  const int64_t *first; /* (layers) */
  int64_t n;
} saved;

/* The tensor of that name, type and shape (rank 1 to 3), or NULL with the error. */
static const ie_tensor_info *saved_find(const saved *in, const ie_tensor_out *want, ie_error *error) {
  const ie_tensor_info *t = ie_tensor_file_get(in->file, want->name);
  bool good = t && t->dtype == want->dtype && t->rank == want->rank &&
              (uintptr_t)t->data % ie_dtype_bytes(t->dtype) == 0;
  for (int i = 0; good && i < want->rank; i++) good = want->shape[i] < 0 || t->shape[i] == want->shape[i];
  if (good) return t;
  ie_error_set(error, IE_FORMAT,
               "%s: not a saved state of this model and KV type: tensor %s is missing or has another "
               "type or shape",
               in->path, want->name);
  return NULL;
}

static ie_status saved_header(const ie_state *state, saved *in, ie_error *error) {
  int64_t layers = state->model->info.layers;
  uint8_t digest[IE_SHA256_BYTES];
  const ie_tensor_out want_mark = {.name = "state", .dtype = IE_U8, .rank = 1, .shape = {IE_SHA256_BYTES}};
  const ie_tensor_out want_first = {.name = "first", .dtype = IE_I64, .rank = 1, .shape = {layers}};
  const ie_tensor_out want_ids = {.name = "ids", .dtype = IE_I32, .rank = 1, .shape = {-1}};
  const ie_tensor_info *mark = saved_find(in, &want_mark, error);
  const ie_tensor_info *first = mark ? saved_find(in, &want_first, error) : NULL;
  const ie_tensor_info *ids = first ? saved_find(in, &want_ids, error) : NULL;
  if (!ids) return IE_FORMAT;
  in->ids = ids->data;
  in->first = first->data;
  in->n = ids->shape[0];
  fingerprint(state->model, digest);
  if (memcmp(mark->data, digest, sizeof digest) != 0)
    return ie_error_set(error, IE_FORMAT, "%s: saved from another model, config.json, precision or weights",
                        in->path);
  if (in->n > state->context)
    return ie_error_set(error, IE_LIMIT, "%s: holds %lld tokens, but the context is %lld", in->path,
                        (long long)in->n, (long long)state->context);
  for (int64_t i = 0; i < in->n; i++)
    if (in->ids[i] < 0 || in->ids[i] >= state->model->info.vocab)
      return ie_error_set(error, IE_FORMAT, "%s: id %d is not below the vocabulary", in->path, in->ids[i]);
  return IE_OK;
}

/* Checks (copy = false) or restores (copy = true) the layers. A file from a state with a longer ring gives the part
 * that this one can hold; one from a shorter ring may lack what the window needs, which is refused. */
static ie_status saved_layers(ie_state *state, int64_t sequence, const saved *in, bool copy,
                              ie_error *error) {
  for (int64_t i = 0; i < 2 * state->model->info.layers; i++) {
    const ie_kv_layer *layer = &state->layer[i / 2];
    int64_t window = state->model->kv[i / 2].window, first = in->first[i / 2];
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%c.%lld", i % 2 ? 'v' : 'k', (long long)(i / 2));
    if (first < 0 || first > in->n || first > (window > 0 ? ie_max_i64(0, in->n - window + 1) : 0))
      return ie_error_set(error, IE_FORMAT,
                          "%s: layer %lld begins at position %lld, too late for %lld tokens", in->path,
                          (long long)(i / 2), (long long)first, (long long)in->n);
    const ie_tensor_out want = {
        .name = name, .dtype = layer->dtype, .rank = 3, .shape = {layer->heads, in->n - first, layer->dim}};
    const ie_tensor_info *t = saved_find(in, &want, error);
    if (!t) return IE_FORMAT;
    /* Positions older than the ring are written first and overwritten by the newer ones. */
    if (copy)
      layer_copy(layer, i % 2 ? layer->v : layer->k, sequence, (void *)(uintptr_t)t->data, first, in->n,
                 /*out=*/false);
  }
  return IE_OK;
}

/* What the restored sequence cannot go back beyond: the latest beginning of any layer. */
static int64_t saved_high(const ie_state *state, const saved *in) {
  int64_t high = in->n;
  for (int64_t i = 0; i < state->model->info.layers; i++)
    if (in->first[i] > 0) high = ie_max_i64(high, in->first[i] + state->layer[i].cap);
  return high;
}

ie_status ie_state_load(ie_state *state, int64_t sequence, const char *path, ie_error *error) {
  if (sequence < 0 || sequence >= state->sequences)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "sequence %lld, but the state has %lld",
                        (long long)sequence, (long long)state->sequences);
  ie_tensor_file *file;
  ie_status status = ie_tensor_file_open(path, &file, error);
  if (status != IE_OK) return status;
  saved in = {.file = file, .path = path};
  status = saved_header(state, &in, error);
  if (status == IE_OK) status = saved_layers(state, sequence, &in, /*copy=*/false, error);
  if (status == IE_OK) status = saved_layers(state, sequence, &in, /*copy=*/true, error);
  if (status == IE_OK) {
    memcpy(state->ids + sequence * state->context, in.ids, (size_t)in.n * sizeof(int32_t));
    state->length[sequence] = in.n;
    state->high[sequence] = saved_high(state, &in);
  }
  ie_tensor_file_free(file);
  return status;
}
