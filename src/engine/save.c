/* Saving and restoring one sequence: a safetensors file with
 *   state  U8 (32)       fingerprint of the model
 *   ids    I32 (n)
 *   first  I64 (layers)  the first position that the file holds of each layer
 *   k.L v.L              (HK, n - first, D) positions first .. n - 1 of layer L, of the cache's type
 * and of an int8 layer, with the w positions of whole groups (64 each) and the n - w after them:
 *   k.L v.L  I8          (HK, w, D)
 *   k_scale.L  BF16      (HK, w / 64, D)
 *   v_scale.L  BF16      (HK, w, 1)
 *   k_recent.L v_recent.L  (HK, n - w, D) exact, of the type of the other layers */
#include "base/file.h"
#include "base/hash.h"
#include "base/size.h"
#include "blocks/kv_int8.h"
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

/* Copies rows begin .. end - 1 of one head between the ring, which lies where the device computes, and dense memory. */
static ie_status head_copy(ie_device *device, const ie_cache_part *part, uint8_t *cache, uint8_t *dense,
                           bool out, ie_error *error) {
  size_t row = ie_cache_row_bytes(part);
  ie_status status = IE_OK;
  for (int64_t r = part->begin; r < part->end && status == IE_OK;) {
    int64_t slot = r % part->cap, n = ie_min_i64(part->end - r, part->cap - slot);
    uint8_t *a = cache + (size_t)slot * row, *b = dense + (size_t)(r - part->begin) * row;
    if (out)
      status = ie_memory_read(device, b, a, (size_t)n * row, error);
    else
      status = ie_memory_write(device, a, b, (size_t)n * row, error);
    r += n;
  }
  return status;
}

static ie_status part_copy(ie_device *device, const ie_cache_part *part, int64_t sequence, void *dense,
                           bool out, ie_error *error) {
  size_t row = ie_cache_row_bytes(part);
  ie_status status = IE_OK;
  for (int64_t h = 0; h < part->heads && status == IE_OK; h++)
    status = head_copy(device, part, part->data + (size_t)((sequence * part->heads + h) * part->cap) * row,
                       (uint8_t *)dense + (size_t)(h * (part->end - part->begin)) * row, out, error);
  return status;
}

static size_t part_bytes(const ie_cache_part *part) {
  return (size_t)(part->heads * (part->end - part->begin)) * ie_cache_row_bytes(part);
}

/* The tensor of a part; `name` is written and must outlive it. */
static ie_tensor_out part_tensor(const ie_cache_part *part, int64_t layer, char name[NAME_BYTES]) {
  snprintf(name, NAME_BYTES, "%s.%lld", part->name, (long long)layer);
  return (ie_tensor_out){.name = name,
                         .dtype = part->dtype,
                         .rank = 3,
                         .shape = {part->heads, part->end - part->begin, part->dim}};
}

ie_status ie_state_save(const ie_state *state, int64_t sequence, const char *path, ie_error *error) {
  if (sequence < 0 || sequence >= state->sequences)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "sequence %lld, but the state has %lld",
                        (long long)sequence, (long long)state->sequences);
  int64_t layers = state->model->info.layers, n = state->length[sequence];
  size_t most = 3 + IE_CACHE_PARTS * (size_t)layers, count = 3;
  uint8_t digest[IE_SHA256_BYTES];
  fingerprint(state->model, digest);
  ie_tensor_out *t = calloc(most, sizeof *t);
  char(*names)[NAME_BYTES] = calloc(most, sizeof *names);
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
  for (int64_t i = 0; i < layers && status == IE_OK; i++) {
    ie_cache_part part[IE_CACHE_PARTS];
    first[i] = ie_min_i64(ie_state_first_held(state, i, sequence), n);
    int parts = ie_cache_parts(&state->layer[i], first[i], n, part);
    for (int p = 0; p < parts && status == IE_OK; p++, count++) {
      t[count] = part_tensor(&part[p], i, names[count]);
      t[count].data = at;
      status = part_copy(state->model->device, &part[p], sequence, at, /*out=*/true, error);
      at += part_bytes(&part[p]);
    }
  }
  if (status == IE_OK) status = ie_tensor_file_write(path, t, count, error);
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
  for (int64_t i = 0; i < state->model->info.layers; i++) {
    int64_t window = state->model->kv[i].window, first = in->first[i];
    ie_cache_part part[IE_CACHE_PARTS];
    char name[NAME_BYTES];
    if (first < 0 || first > in->n || first > (window > 0 ? ie_max_i64(0, in->n - window + 1) : 0))
      return ie_error_set(error, IE_FORMAT,
                          "%s: layer %lld begins at position %lld, too late for %lld tokens", in->path,
                          (long long)i, (long long)first, (long long)in->n);
    int parts = ie_cache_parts(&state->layer[i], first, in->n, part);
    for (int p = 0; p < parts; p++) {
      const ie_tensor_out want = part_tensor(&part[p], i, name);
      const ie_tensor_info *t = saved_find(in, &want, error);
      if (!t) return IE_FORMAT;
      /* Rows older than the ring are written first and overwritten by the newer ones. */
      ie_status status = IE_OK;
      if (copy)
        status = part_copy(state->model->device, &part[p], sequence, (void *)(uintptr_t)t->data,
                           /*out=*/false, error);
      if (status != IE_OK) return status;
    }
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
    state->exact[sequence] = in.n - in.n % IE_KV_GROUP;
  }
  ie_tensor_file_free(file);
  return status;
}
