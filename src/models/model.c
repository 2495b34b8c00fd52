#include "base/file.h"
#include "models/attach.h"
#include "models/bind_train.h"
#include "models/decoder.h"
#include "models/hold.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CONFIG_MAX_BYTES = 16 << 20 };

static const ie_class class_of[] = {[IE_PRECISION_BF16] = IE_CLASS_BF16,
                                    [IE_PRECISION_FP32] = IE_CLASS_F32,
                                    [IE_PRECISION_FP16] = IE_CLASS_F16,
                                    [IE_PRECISION_INT8] = IE_CLASS_INT8};

/* Appends the ids of eos_token_id (a number or a list of them) that are not there yet. */
static ie_status stop_ids_add(const json_t *value, const char *where, ie_model_info *info, ie_error *error) {
  size_t n = json_is_array(value) ? json_array_size(value) : 1;
  if (!value || json_is_null(value)) return IE_OK;
  for (size_t i = 0; i < n; i++) {
    const json_t *one = json_is_array(value) ? json_array_get(value, i) : value;
    if (!json_is_integer(one) || json_integer_value(one) < 0 || json_integer_value(one) > INT32_MAX)
      return ie_error_set(error, IE_FORMAT, "%s: eos_token_id: expected ids, found %s", where,
                          ie_json_type_name(one));
    int32_t id = (int32_t)json_integer_value(one);
    bool known = false;
    for (int k = 0; k < info->stop_count; k++) known |= info->stop_ids[k] == id;
    if (known) continue;
    if (info->stop_count == IE_STOP_IDS_MAX)
      return ie_error_set(error, IE_UNSUPPORTED, "%s: more than %d stop ids", where, IE_STOP_IDS_MAX);
    info->stop_ids[info->stop_count++] = id;
  }
  return IE_OK;
}

/* generation_config.json decides; without it, or without ids in it, config.json does. */
static ie_status stop_ids_read(ie_model *model, const json_t *config, const char *config_path,
                               ie_error *error) {
  char *path;
  ie_status status = ie_checkpoint_path(model->checkpoint, "generation_config.json", &path, error);
  if (path) {
    json_t *generation;
    status = ie_json_read_object(path, CONFIG_MAX_BYTES, &generation, error);
    if (status == IE_OK)
      status = stop_ids_add(json_object_get(generation, "eos_token_id"), path, &model->info, error);
    json_decref(generation);
    free(path);
  }
  if (status == IE_OK && model->info.stop_count == 0)
    status = stop_ids_add(json_object_get(config, "eos_token_id"), config_path, &model->info, error);
  return status;
}

static ie_status config_hash(const char *path, uint8_t digest[IE_SHA256_BYTES], ie_error *error) {
  ie_buf text = {0};
  ie_status status = ie_file_read(path, CONFIG_MAX_BYTES, &text, error);
  if (status == IE_OK) ie_sha256(text.data, text.size, digest);
  ie_buf_free(&text);
  return status;
}

static const ie_arch *arch_find(const json_t *config, const ie_checkpoint *checkpoint) {
  for (int i = 0; ie_archs[i]; i++)
    if (ie_archs[i]->recognise(config, checkpoint)) return ie_archs[i];
  return NULL;
}

static ie_status arch_unknown(const json_t *config, const char *path, ie_error *error) {
  char known[256] = "";
  for (int i = 0; ie_archs[i]; i++) {
    size_t at = strlen(known);
    snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", ie_archs[i]->name);
  }
  const char *type = json_string_value(json_object_get(config, "model_type"));
  return ie_error_set(error, IE_UNSUPPORTED, "%s: model_type '%s' is not built; known architectures: %s",
                      path, type ? type : "(missing)", known);
}

/* "mxfp4+bf16": the formats in use, smallest first. */
static void weights_label(unsigned formats, char *out, size_t size) {
  static const ie_wformat order[] = {IE_W_MXFP4, IE_W_INT4, IE_W_INT8, IE_W_BF16, IE_W_F16, IE_W_F32};
  out[0] = '\0';
  for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
    size_t at = strlen(out);
    if (formats >> order[i] & 1u)
      snprintf(out + at, size - at, "%s%s", at ? "+" : "", ie_wformat_describe(order[i])->name);
  }
}

static const ie_wformat dense_formats[] = {
    [IE_WEIGHTS_PUBLISHED] = IE_W_COUNT, [IE_WEIGHTS_INT8] = IE_W_INT8, [IE_WEIGHTS_INT4] = IE_W_INT4};

/* What a model that begins from nothing is stored as: config.json's dtype. */
static ie_dtype config_dtype(const json_t *config) {
  const char *name = json_string_value(json_object_get(config, "dtype"));
  if (!name) name = json_string_value(json_object_get(config, "torch_dtype"));
  if (name && !strcmp(name, "float32")) return IE_F32;
  return name && !strcmp(name, "float16") ? IE_F16 : IE_BF16;
}

static ie_status model_bind(ie_model *model, const json_t *config, const char *path,
                            const ie_model_options *options, ie_error *error) {
  ie_binder binder = {.device = model->device,
                      .checkpoint = model->checkpoint,
                      .cls = model->cls,
                      .dense = dense_formats[model->info.dense_weights],
                      .deterministic = model->info.deterministic,
                      .limited = options->limited,
                      .plan_only = model->plan_only,
                      .linears = &model->linears,
                      .params = options->train ? &model->params : NULL,
                      .create = options->create,
                      .seed = options->seed,
                      .create_dtype = config_dtype(config),
                      .bound = calloc(ie_checkpoint_count(model->checkpoint) + 1, sizeof *model->bound),
                      .error = error};
  model->bound = binder.bound;
  if (!model->bound) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a model");
  ie_json_reader reader = {.object = config, .where = path, .error = error};
  ie_status status = ie_decoder_open(model->arch->decoder, &binder, &reader, model, &model->net);
  model->owned = binder.owned;
  if (options->limited && binder.quantised_bytes > 0 && !model->plan_only)
    ie_checkpoint_forget_all(model->checkpoint);
  model->info.architecture = model->arch->name;
  model->info.chat_format = model->arch->chat_format;
  model->info.dir = ie_checkpoint_dir(model->checkpoint);
  model->info.weights_bytes = binder.bound_bytes;
  model->info.weights_copied_bytes = binder.owned_bytes + ie_checkpoint_copied_bytes(model->checkpoint);
  model->quantised_bytes = binder.quantised_bytes;
  model->info.weights_replaced_bytes = binder.replaced_bytes;
  weights_label(binder.formats, model->weights, sizeof model->weights);
  model->info.weights = model->weights;
  return status;
}

/* What a tokenizer will take is a matter of planning; whether it can be read is not looked at here. */
static ie_status tokenizer_look(ie_model *model, const char *dir, ie_error *error) {
  char *path;
  bool needs_encoding;
  struct stat info;
  ie_status status = ie_tokenizer_find(dir, &path, &needs_encoding, error);
  if (status == IE_OK && path && stat(path, &info) == 0 && info.st_size > 0)
    model->tokenizer_bytes = (size_t)info.st_size;
  free(path);
  return status;
}

size_t ie_model_lookup_bytes(const ie_model *model, bool *replaced) {
  const ie_decoder *d = model->net;
  bool tied = d->head.name == d->embed.name, quantised = d->head.format != d->embed.format;
  size_t file;
  uint64_t offset;
  *replaced = tied && quantised;
  if (model->device->memory || (tied && !quantised) || d->embed.part[1] ||
      !ie_checkpoint_locate(model->checkpoint, d->embed.part[0], &file, &offset))
    return 0;
  return (size_t)d->embed.rows * d->embed.row_bytes[0];
}

/* How the system is to read what is mapped. In training all of it becomes the process's own. What a dense model still
 * reads of its files when its matrices were quantised is small and far apart: reading ahead would bring back the matrices,
 * and under a limit push out what is read. */
static void maps_advise(const ie_model *model, const ie_model_options *options) {
  const ie_decoder *d = model->net;
  bool replaced;
  if (options->train || model->device->memory) return;
  size_t lookup = ie_model_lookup_bytes(model, &replaced);
  if (model->quantised_bytes > 0 && model->expert_bytes == 0)
    ie_checkpoint_scattered(model->checkpoint);
  else if (lookup > 0)
    ie_map_scattered(d->embed.part[0], lookup);
}

ie_status ie_model_open(ie_device *device, const char *dir, const ie_model_options *options, ie_model **out,
                        ie_error *error) {
  static const ie_model_options defaults = {0};
  if (!options) options = &defaults;
  *out = NULL;
  if (options->train && device->memory)
    return ie_error_set(error, IE_UNSUPPORTED, "device %s: training is not built there; --device cpu has it",
                        device->kind);
  json_t *config = NULL;
  char *path = NULL;
  ie_model *model = calloc(1, sizeof *model);
  if (!model) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a model");
  model->device = device;
  model->cls = class_of[options->precision];
  model->plan_only = options->plan_only;
  model->info.precision = options->precision;
  model->info.dense_weights = options->dense_weights;
  model->info.deterministic = options->deterministic;
  bool named = options->iebin_json || options->iebin_bin;
  ie_status status = options->create ? ie_checkpoint_open_empty(dir, &model->checkpoint, error)
                     : named         ? ie_checkpoint_open_iebin(dir, options->iebin_json, options->iebin_bin,
                                                                &model->checkpoint, error)
                                     : ie_checkpoint_open(dir, &model->checkpoint, error);
  const char *name = status == IE_OK ? ie_checkpoint_config_name(model->checkpoint) : NULL;
  if (status == IE_OK) status = ie_checkpoint_path(model->checkpoint, name, &path, error);
  if (status == IE_OK && !path) status = ie_error_set(error, IE_IO, "%s: %s is missing", dir, name);
  if (status == IE_OK) status = ie_json_read_object(path, CONFIG_MAX_BYTES, &config, error);
  if (status == IE_OK) status = config_hash(path, model->config_digest, error);
  if (status == IE_OK && !(model->arch = arch_find(config, model->checkpoint)))
    status = arch_unknown(config, path, error);
  if (status == IE_OK) status = model_bind(model, config, path, options, error);
  if (status == IE_OK) status = stop_ids_read(model, config, path, error);
  if (status == IE_OK) status = tokenizer_look(model, dir, error);
  if (status == IE_OK) status = ie_model_hold(model, error);
  if (status == IE_OK) maps_advise(model, options);
  json_decref(config);
  free(path);
  if (status != IE_OK) {
    ie_model_free(model);
    return status;
  }
  *out = model;
  return IE_OK;
}

ie_status ie_model_present(const char *dir, bool *present, ie_error *error) {
  return ie_checkpoint_present(dir, present, error);
}

void ie_model_free(ie_model *model) {
  if (!model) return;
  if (model->stream) model->stream_free(model->stream);
  ie_model_drop(model);
  ie_decoder_release(model->net);
  ie_owned_free(model->device, model->owned);
  ie_param_list_free(&model->params);
  ie_linear_list_free(&model->linears);
  free(model->low_rank);
  ie_checkpoint_free(model->checkpoint);
  free(model->kv);
  free(model->moe);
  free(model->bound);
  free(model);
}

const ie_model_info *ie_model_describe(const ie_model *model) {
  return &model->info;
}

size_t ie_model_file_count(const ie_model *model) {
  return ie_checkpoint_file_count(model->checkpoint);
}

const char *ie_model_file(const ie_model *model, size_t i, size_t *bytes) {
  return ie_checkpoint_file_at(model->checkpoint, i, bytes);
}
