#include "models/adapter.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/quote.h"
#include "base/rng.h"
#include "base/size.h"
#include "formats/convert.h"
#include "formats/safetensors.h"
#include "formats/tensor_stream.h"
#include "formats/torch_pt.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char prefix[] = "base_model.model.", weight_end[] = ".weight";
static const char config_name[] = "adapter_config.json", weights_name[] = "adapter_model.safetensors",
                  pickle_name[] = "adapter_model.bin";
static const size_t max_config_bytes = (size_t)16 << 20;

static ie_status memory_error(const char *where, ie_error *error) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for the adapter", where);
}

void ie_adapter_free(ie_adapter *adapter) {
  if (!adapter) return;
  for (size_t i = 0; i < adapter->count; i++) {
    free((void *)(uintptr_t)adapter->items[i].target);
    free(adapter->items[i].a);
    free(adapter->items[i].b);
  }
  free(adapter->items);
  ie_adapter_config_free(&adapter->config);
  free(adapter);
}

size_t ie_adapter_count(const ie_adapter *adapter) {
  return adapter->count;
}

const ie_lora *ie_adapter_at(const ie_adapter *adapter, size_t i) {
  return i < adapter->count ? &adapter->items[i] : NULL;
}

static int lora_compare(const void *a, const void *b) {
  return strcmp(((const ie_lora *)a)->target, ((const ie_lora *)b)->target);
}

const ie_lora *ie_adapter_find(const ie_adapter *adapter, const char *target) {
  const ie_lora key = {.target = target};
  return adapter->count ? bsearch(&key, adapter->items, adapter->count, sizeof key, lora_compare) : NULL;
}

/* Appends MODULE.weight with matrices of the given sizes, not filled. *out is borrowed until the next one. */
static ie_status adapter_add(ie_adapter *adapter, const char *module, const ie_lora *like, ie_lora **out,
                             ie_error *error) {
  if (adapter->count == adapter->capacity) {
    size_t capacity = adapter->capacity ? 2 * adapter->capacity : 64;
    ie_lora *items = realloc(adapter->items, capacity * sizeof *items);
    if (!items) return memory_error(module, error);
    adapter->items = items;
    adapter->capacity = capacity;
  }
  size_t a, b;
  if (!ie_size_mul((size_t)like->r, (size_t)like->cols, &a) || !ie_size_mul(a, sizeof(float), &a) ||
      !ie_size_mul((size_t)like->rows, (size_t)like->r, &b) || !ie_size_mul(b, sizeof(float), &b))
    return memory_error(module, error);
  ie_buf target = {0};
  ie_lora item = *like;
  (void)ie_buf_printf(&target, "%s%s", module, weight_end);
  item.a = malloc(a ? a : 1);
  item.b = malloc(b ? b : 1);
  if (target.failed || !item.a || !item.b) {
    ie_buf_free(&target);
    free(item.a);
    free(item.b);
    return memory_error(module, error);
  }
  item.target = target.data;
  adapter->items[adapter->count] = item;
  *out = &adapter->items[adapter->count++];
  return IE_OK;
}

static void adapter_sort(ie_adapter *adapter) {
  if (adapter->count) qsort(adapter->items, adapter->count, sizeof *adapter->items, lora_compare);
}

/* ---- reading ---- */

/* What a name in the file says: "base_model.model.MODULE.lora_A.weight", or ".lora_A.default.weight" as it is called in
 * a live model. 'A', 'B', or 0 for another name. */
static char name_parse(const char *name, ie_buf *module) {
  static const char *const ends[] = {".lora_A.weight", ".lora_B.weight", ".lora_A.default.weight",
                                     ".lora_B.default.weight"};
  size_t n = strlen(name), front = strlen(prefix);
  if (strncmp(name, prefix, front) != 0) return 0;
  for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
    size_t end = strlen(ends[i]);
    if (n <= front + end || strcmp(name + n - end, ends[i]) != 0) continue;
    ie_buf_clear(module);
    (void)ie_buf_append(module, name + front, n - front - end);
    return i % 2 == 0 ? 'A' : 'B';
  }
  return 0;
}

static ie_status unknown_name(const char *path, const char *name, ie_error *error) {
  const char *what = strstr(name, "lora_embedding_") ? "an adapter of embeddings, which is not built here"
                     : strstr(name, "lora_magnitude_vector")          ? "of DoRA, which is not built here"
                     : strstr(name, ".lora_") && strstr(name, "bias") ? "a bias, which is not built here"
                                                                      : NULL;
  if (what)
    return ie_error_set(error, IE_UNSUPPORTED, "%s: tensor %s is %s", path, ie_quote(name).text, what);
  return ie_error_set(error, IE_FORMAT, "%s: tensor %s: expected %sMODULE.lora_A.weight or .lora_B.weight",
                      path, ie_quote(name).text, prefix);
}

/* The other matrix of a pair, under the same ending; NULL when there is none. */
static const ie_tensor_info *partner_find(const ie_table *table, const char *name, char other) {
  char *copy = strdup(name);
  if (!copy) return NULL;
  char *last = copy;
  for (char *next; (next = strstr(last + 1, ".lora_")) != NULL;) last = next;
  last[strlen(".lora_")] = other;
  const ie_tensor_info *found = ie_table_find(table, copy);
  free(copy);
  return found;
}

static ie_status matrix_check(const ie_tensor_info *t, const char *path, ie_error *error) {
  if (!ie_convert_knows(t->dtype))
    return ie_error_set(error, IE_UNSUPPORTED, "%s: tensor %s: expected F32, F16 or BF16, found %s", path,
                        ie_quote(t->name).text, ie_dtype_name(t->dtype));
  if (t->rank != 2 || t->shape[0] < 1 || t->shape[1] < 1)
    return ie_error_set(error, IE_FORMAT, "%s: tensor %s: expected a matrix, found %d dimensions", path,
                        ie_quote(t->name).text, t->rank);
  return IE_OK;
}

static ie_status matrix_read(const ie_tensor_info *t, const char *path, float *out, ie_error *error) {
  int64_t count = t->shape[0] * t->shape[1];
  ie_convert_to_f32(t->dtype, t->data, count, out);
  for (int64_t i = 0; i < count; i++)
    if (!isfinite(out[i]))
      return ie_error_set(error, IE_NUMERIC, "%s: tensor %s: element %lld is %g", path,
                          ie_quote(t->name).text, (long long)i, (double)out[i]);
  return IE_OK;
}

static ie_status pair_read(ie_adapter *adapter, const char *module, const ie_tensor_info *a,
                           const ie_tensor_info *b, const char *path, ie_error *error) {
  ie_adapter_rank rank;
  bool named = false;
  ie_status status = matrix_check(a, path, error);
  if (status == IE_OK) status = matrix_check(b, path, error);
  if (status == IE_OK) status = ie_adapter_config_matches(&adapter->config, module, &named, error);
  if (status == IE_OK) status = ie_adapter_config_rank(&adapter->config, module, &rank, error);
  if (status != IE_OK) return status;
  if (!named)
    return ie_error_set(error, IE_FORMAT, "%s: module %s is not among target_modules of %s", path,
                        ie_quote(module).text, config_name);
  if (a->shape[0] != b->shape[1] || a->shape[0] != rank.r)
    return ie_error_set(
        error, IE_FORMAT,
        "%s: module %s: expected r = %lld of %s, found lora_A (%lld, %lld) and lora_B (%lld, %lld)", path,
        ie_quote(module).text, (long long)rank.r, config_name, (long long)a->shape[0], (long long)a->shape[1],
        (long long)b->shape[0], (long long)b->shape[1]);
  const ie_lora like = {
      .rows = b->shape[0], .cols = a->shape[1], .r = rank.r, .alpha = rank.alpha, .scale = rank.scale};
  ie_lora *item;
  status = adapter_add(adapter, module, &like, &item, error);
  if (status == IE_OK) status = matrix_read(a, path, item->a, error);
  if (status == IE_OK) status = matrix_read(b, path, item->b, error);
  return status;
}

/* A copy of the adapted matrix, which PEFT writes beside an adapter of the output matrix. It is not read: the model has
 * it. IE_FORMAT where it is of another shape, as after more tokens were added. */
static bool is_base_copy(const ie_table *table, const ie_tensor_info *t, const char *path, ie_status *status,
                         ie_error *error) {
  static const char end[] = ".base_layer.weight";
  size_t n = strlen(t->name), m = strlen(end);
  if (n <= m || strcmp(t->name + n - m, end) != 0) return false;
  const ie_tensor_info *pair[2];
  for (int i = 0; i < 2; i++) {
    ie_buf name = {0};
    if (!ie_buf_printf(&name, "%.*s.lora_%c.weight", (int)(n - m), t->name, "AB"[i]))
      *status = memory_error(path, error);
    pair[i] = name.failed ? NULL : ie_table_find(table, name.data);
    ie_buf_free(&name);
    if (!pair[i]) return *status != IE_OK;
  }
  bool same = t->rank == 2 && pair[0]->rank == 2 && pair[1]->rank == 2 && t->shape[0] == pair[1]->shape[0] &&
              t->shape[1] == pair[0]->shape[1];
  if (!same)
    *status = ie_error_set(error, IE_FORMAT, "%s: tensor %s: expected the shape of what its adapter adds",
                           path, ie_quote(t->name).text);
  return true;
}

static ie_status table_read(ie_adapter *adapter, const ie_table *table, const char *path, ie_error *error) {
  ie_buf module = {0};
  ie_status status = IE_OK;
  for (size_t i = 0; status == IE_OK && i < table->count; i++) {
    const ie_tensor_info *t = &table->tensors[i];
    char which = name_parse(t->name, &module);
    if (module.failed) {
      status = memory_error(path, error);
    } else if (!which) {
      if (!is_base_copy(table, t, path, &status, error)) status = unknown_name(path, t->name, error);
    } else {
      errno = 0;
      const ie_tensor_info *other = partner_find(table, t->name, which == 'A' ? 'B' : 'A');
      if (!other)
        status = errno == ENOMEM ? memory_error(path, error)
                                 : ie_error_set(error, IE_FORMAT, "%s: tensor %s: its lora_%c is missing",
                                                path, ie_quote(t->name).text, which == 'A' ? 'B' : 'A');
      else if (which == 'A')
        status = pair_read(adapter, module.data, t, other, path, error);
    }
  }
  ie_buf_free(&module);
  if (status == IE_OK && adapter->count == 0)
    status = ie_error_set(error, IE_FORMAT, "%s: it holds no adapted weights", path);
  adapter_sort(adapter);
  for (size_t i = 1; status == IE_OK && i < adapter->count; i++)
    if (lora_compare(&adapter->items[i - 1], &adapter->items[i]) == 0)
      status = ie_error_set(error, IE_FORMAT, "%s: module of %s is adapted twice", path,
                            ie_quote(adapter->items[i].target).text);
  return status;
}

static ie_status weights_read(ie_adapter *adapter, const char *dir, ie_error *error) {
  char *path = ie_path_join(dir, weights_name), *pickle = ie_path_join(dir, pickle_name);
  ie_map map = {0};
  ie_table table = {0};
  ie_torch_pt pt = {0};
  ie_status status = path && pickle ? IE_OK : memory_error(dir, error);
  bool torch = status == IE_OK && !ie_file_exists(path) && ie_file_exists(pickle);
  const char *from = torch ? pickle : path;
  if (status == IE_OK) status = ie_map_open(from, &map, error);
  if (status == IE_OK)
    status = torch ? ie_torch_pt_parse(map.data, map.size, from, &pt, error)
                   : ie_safetensors_parse(map.data, map.size, from, &table, error);
  if (status == IE_OK) status = table_read(adapter, torch ? &pt.table : &table, from, error);
  ie_torch_pt_free(&pt);
  ie_table_free(&table);
  ie_map_close(&map);
  free(path);
  free(pickle);
  return status;
}

ie_status ie_adapter_open(const char *dir, ie_adapter **out, ie_error *error) {
  *out = NULL;
  ie_adapter *adapter = calloc(1, sizeof *adapter);
  char *path = ie_path_join(dir, config_name);
  ie_buf text = {0};
  ie_status status = adapter && path ? IE_OK : memory_error(dir, error);
  if (status == IE_OK) status = ie_file_read(path, max_config_bytes, &text, error);
  if (status == IE_OK)
    status = ie_adapter_config_parse(text.data ? text.data : "", text.size, path, &adapter->config, error);
  if (status == IE_OK) status = weights_read(adapter, dir, error);
  ie_buf_free(&text);
  free(path);
  if (status == IE_OK)
    *out = adapter;
  else
    ie_adapter_free(adapter);
  return status;
}

/* ---- making ---- */

static json_t *config_make(const ie_adapter_options *o) {
  json_t *targets = o->target_count ? json_array() : json_string("all-linear");
  for (size_t i = 0; targets && i < o->target_count; i++)
    if (json_array_append_new(targets, json_string(o->targets[i])) != 0) {
      json_decref(targets);
      return NULL;
    }
  bool whole = o->alpha == floor(o->alpha) && fabs(o->alpha) <= 0x1p53;
  json_t *alpha = whole ? json_integer((json_int_t)o->alpha) : json_real(o->alpha);
  return json_pack(
      "{s:s, s:s, s:s?, s:n, s:I, s:o, s:f, s:o, s:s, s:b, s:b, s:b, s:b, s:n, s:n, s:n, s:{}, s:{}}",
      "peft_type", "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", o->base_model, "revision",
      "r", (json_int_t)o->r, "lora_alpha", alpha, "lora_dropout", o->dropout, "target_modules", targets,
      "bias", "none", "fan_in_fan_out", 0, "inference_mode", 1, "init_lora_weights", 1, "use_rslora",
      (int)o->rslora, "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern",
      "alpha_pattern");
}

/* "model.layers.0.self_attn.q_proj" of ".....q_proj.weight"; false when it is named otherwise. */
static bool module_of(const char *weight, ie_buf *module) {
  size_t n = strlen(weight), end = strlen(weight_end);
  if (n <= end || strcmp(weight + n - end, weight_end) != 0) return false;
  ie_buf_clear(module);
  return ie_buf_append(module, weight, n - end);
}

static void lora_init(ie_lora *lora, uint64_t seed) {
  float bound = 1.0f / sqrtf((float)lora->cols);
  uint64_t stream = ie_hash_name(lora->target);
  for (int64_t i = 0; i < lora->r * lora->cols; i++)
    lora->a[i] = (2.0f * ie_rng_f32(seed, stream, (uint64_t)i) - 1.0f) * bound;
  memset(lora->b, 0, (size_t)(lora->rows * lora->r) * sizeof *lora->b);
}

/* Each target must name a weight. */
static ie_status targets_check(const ie_adapter_options *o, const ie_adapter_weight *weights, size_t count,
                               ie_error *error) {
  ie_buf known = {0};
  ie_status status = IE_OK;
  for (size_t t = 0; status == IE_OK && t < o->target_count; t++) {
    bool found = false;
    size_t m = strlen(o->targets[t]);
    for (size_t i = 0; i < count && !found; i++) {
      size_t n = strlen(weights[i].name) - strlen(weight_end); /* all end in it: see adapter_fill */
      found = n >= m && strncmp(weights[i].name + n - m, o->targets[t], m) == 0 &&
              (n == m || weights[i].name[n - m - 1] == '.');
    }
    if (found) continue;
    for (size_t i = 0; i < count; i++) { /* the last parts of the names, each once */
      int n = (int)(strlen(weights[i].name) - strlen(weight_end));
      int from = n;
      while (from > 0 && weights[i].name[from - 1] != '.') from--;
      ie_buf part = {0};
      (void)ie_buf_printf(&part, "%.*s", n - from, weights[i].name + from);
      if (part.data && (!known.data || !strstr(known.data, part.data)))
        ie_buf_printf(&known, "%s%s", known.size ? ", " : "", part.data);
      ie_buf_free(&part);
    }
    status =
        ie_error_set(error, IE_INVALID_ARGUMENT, "no linear layer of the model is called '%s': there are %s",
                     ie_quote(o->targets[t]).text, known.data ? known.data : "none");
  }
  ie_buf_free(&known);
  return status;
}

static ie_status adapter_fill(ie_adapter *adapter, const ie_adapter_options *o,
                              const ie_adapter_weight *weights, size_t count, ie_error *error) {
  ie_buf module = {0};
  ie_status status = IE_OK;
  for (size_t i = 0; status == IE_OK && i < count; i++)
    if (!module_of(weights[i].name, &module))
      status = module.failed
                   ? memory_error(weights[i].name, error)
                   : ie_error_set(error, IE_INVALID_ARGUMENT, "tensor %s: expected a name that ends in %s",
                                  ie_quote(weights[i].name).text, weight_end);
  if (status == IE_OK) status = targets_check(o, weights, count, error);
  for (size_t i = 0; status == IE_OK && i < count; i++) {
    bool named = false;
    ie_adapter_rank rank;
    if (o->target_count == 0 && weights[i].output) continue;
    if (!module_of(weights[i].name, &module)) status = memory_error(weights[i].name, error);
    if (status == IE_OK) status = ie_adapter_config_matches(&adapter->config, module.data, &named, error);
    if (status != IE_OK || !named) continue;
    status = ie_adapter_config_rank(&adapter->config, module.data, &rank, error);
    const ie_lora like = {.rows = weights[i].rows,
                          .cols = weights[i].cols,
                          .r = o->r,
                          .alpha = rank.alpha,
                          .scale = rank.scale};
    ie_lora *item;
    if (status == IE_OK) status = adapter_add(adapter, module.data, &like, &item, error);
    if (status == IE_OK) lora_init(item, o->seed);
  }
  ie_buf_free(&module);
  if (status == IE_OK && adapter->count == 0)
    status = ie_error_set(error, IE_INVALID_ARGUMENT, "the model has no linear layer to adapt");
  adapter_sort(adapter);
  return status;
}

ie_status ie_adapter_create(const ie_adapter_options *options, const ie_adapter_weight *weights, size_t count,
                            ie_adapter **out, ie_error *error) {
  *out = NULL;
  if (options->r < 1 || options->r > IE_ADAPTER_MAX_RANK || !(options->alpha > 0) ||
      !isfinite(options->alpha) || !(options->dropout >= 0 && options->dropout < 1))
    return ie_error_set(
        error, IE_INVALID_ARGUMENT,
        "an adapter takes r of 1 to %d, alpha above 0 and dropout below 1, found r %lld, alpha %g, "
        "dropout %g",
        IE_ADAPTER_MAX_RANK, (long long)options->r, options->alpha, options->dropout);
  ie_adapter *adapter = calloc(1, sizeof *adapter);
  if (!adapter) return memory_error("new", error);
  ie_status status =
      ie_adapter_config_take(config_make(options), "the adapter's options", &adapter->config, error);
  if (status == IE_OK) status = adapter_fill(adapter, options, weights, count, error);
  if (status == IE_OK)
    *out = adapter;
  else
    ie_adapter_free(adapter);
  return status;
}

/* ---- writing ---- */

/* Two tensors an item; names are owned by the caller's list. */
static bool tensors_describe(const ie_adapter *adapter, ie_tensor_out *out, char **names) {
  for (size_t i = 0; i < 2 * adapter->count; i++) {
    const ie_lora *item = &adapter->items[i / 2];
    bool a = i % 2 == 0;
    int module = (int)(strlen(item->target) - strlen(weight_end));
    ie_buf name = {0};
    (void)ie_buf_printf(&name, "%s%.*s.lora_%c%s", prefix, module, item->target, a ? 'A' : 'B', weight_end);
    names[i] = name.data;
    if (name.failed) return false;
    out[i] = (ie_tensor_out){.name = name.data, .dtype = IE_F32, .rank = 2, .data = a ? item->a : item->b};
    out[i].shape[0] = a ? item->r : item->rows;
    out[i].shape[1] = a ? item->cols : item->r;
  }
  return true;
}

static ie_status config_write(const ie_adapter *adapter, const char *dir, ie_error *error) {
  char *path = ie_path_join(dir, config_name);
  ie_buf text = {0};
  ie_json_append(adapter->config.root, JSON_INDENT(2) | JSON_SORT_KEYS, &text);
  ie_status status =
      path && !text.failed ? ie_file_write(path, text.data, text.size, error) : memory_error(dir, error);
  free(path);
  ie_buf_free(&text);
  return status;
}

/* What is written can be read and computed with: nothing is replaced by an adapter that cannot. */
static ie_status adapter_check_finite(const ie_adapter *adapter, ie_error *error) {
  for (size_t i = 0; i < adapter->count; i++) {
    const ie_lora *lora = &adapter->items[i];
    bool finite = true;
    for (int64_t k = 0; finite && k < lora->r * lora->cols; k++) finite = isfinite(lora->a[k]);
    for (int64_t k = 0; finite && k < lora->rows * lora->r; k++) finite = isfinite(lora->b[k]);
    if (!finite)
      return ie_error_set(error, IE_NUMERIC, "%s: the adapter holds a number that is not finite",
                          lora->target);
  }
  return IE_OK;
}

ie_status ie_adapter_write(const ie_adapter *adapter, const char *dir, ie_error *error) {
  size_t count = 2 * adapter->count;
  ie_tensor_out *tensors = calloc(count ? count : 1, sizeof *tensors);
  char **names = calloc(count ? count : 1, sizeof *names);
  char *path = ie_path_join(dir, weights_name);
  json_t *metadata = json_pack("{s:s}", "format", "pt");
  ie_status status = adapter_check_finite(adapter, error);
  if (status == IE_OK)
    status = tensors && names && path && metadata && tensors_describe(adapter, tensors, names)
                 ? ie_folder_make(dir, error)
                 : memory_error(dir, error);
  if (status == IE_OK) status = config_write(adapter, dir, error);
  if (status == IE_OK)
    status = ie_tensor_file_stream(path, tensors, count, metadata, &ie_tensor_memory, error);
  for (size_t i = 0; names && i < count; i++) free(names[i]);
  free(names);
  free(tensors);
  free(path);
  json_decref(metadata);
  return status;
}

/* ---- use ---- */

ie_status ie_adapter_check(const ie_adapter *adapter, ie_adapter_shape shape, void *user, ie_error *error) {
  ie_buf missing = {0};
  size_t absent = 0;
  ie_status status = IE_OK;
  for (size_t i = 0; status == IE_OK && i < adapter->count; i++) {
    const ie_lora *item = &adapter->items[i];
    int64_t rows = 0, cols = 0;
    if (!shape(user, item->target, &rows, &cols)) {
      if (absent++ < 3)
        ie_buf_printf(&missing, "%s%s", missing.size ? ", " : "", ie_quote(item->target).text);
    } else if (rows != item->rows || cols != item->cols) {
      status =
          ie_error_set(error, IE_FORMAT, "the adapter's %s is for (%lld, %lld), the model's is (%lld, %lld)",
                       ie_quote(item->target).text, (long long)item->rows, (long long)item->cols,
                       (long long)rows, (long long)cols);
    }
  }
  if (status == IE_OK && missing.failed) status = memory_error("check", error);
  if (status == IE_OK && absent)
    status =
        ie_error_set(error, IE_FORMAT, "the adapter changes %zu weight%s that the model does not have: %s%s",
                     absent, absent == 1 ? "" : "s", missing.data, absent > 3 ? ", ..." : "");
  ie_buf_free(&missing);
  return status;
}

void ie_lora_add_row(const ie_lora *lora, int64_t row, float *out, float *sum) {
  memset(sum, 0, (size_t)lora->cols * sizeof *sum);
  for (int64_t k = 0; k < lora->r; k++) {
    float b = lora->b[row * lora->r + k];
    const float *a = lora->a + k * lora->cols;
    for (int64_t c = 0; c < lora->cols; c++) sum[c] += b * a[c];
  }
  float scale = (float)lora->scale;
  for (int64_t c = 0; c < lora->cols; c++) out[c] += scale * sum[c];
}
