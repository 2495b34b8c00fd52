#define PCRE2_CODE_UNIT_WIDTH 8
#include "models/adapter_config.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/quote.h"

#include <math.h>
#include <pcre2.h>
#include <string.h>

/* ---- regular expressions ---- */

enum { MATCH_LIMIT = 1000000, HEAP_LIMIT_KIB = 16 << 10, DEPTH_LIMIT = 10000 };

static ie_status pattern_run(const pcre2_code *regex, const char *pattern, const char *text, bool *matches,
                             ie_error *error) {
  pcre2_match_context *context = pcre2_match_context_create(NULL);
  pcre2_match_data *data = pcre2_match_data_create(1, NULL);
  int rc = PCRE2_ERROR_NOMEMORY;
  if (context && data) {
    pcre2_set_match_limit(context, MATCH_LIMIT);
    pcre2_set_heap_limit(context, HEAP_LIMIT_KIB);
    pcre2_set_depth_limit(context, DEPTH_LIMIT);
    rc = pcre2_match(regex, (PCRE2_SPTR)text, strlen(text), 0, 0, data, context);
  }
  pcre2_match_data_free(data);
  pcre2_match_context_free(context);
  *matches = rc >= 0;
  if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH) return IE_OK;
  if (rc == PCRE2_ERROR_NOMEMORY)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory to match '%s'", ie_quote(pattern).text);
  return ie_error_set(error, IE_FORMAT, "expression '%s' takes too long to match '%s'",
                      ie_quote(pattern).text, ie_quote(text).text);
}

/* Python's re.fullmatch(front + pattern, text). The languages agree in what names of modules need; what only PCRE2
 * knows, settings at the front, is refused. */
static ie_status pattern_matches(const char *front, const char *pattern, const char *text, bool *matches,
                                 ie_error *error) {
  ie_buf full = {0};
  *matches = false;
  if (strstr(pattern, "(*"))
    return ie_error_set(error, IE_FORMAT, "expression '%s': expected Python's syntax, found '(*'",
                        ie_quote(pattern).text);
  bool wrapped = front[0] != '\0';
  if (!ie_buf_printf(&full, "%s%s%s%s", front, wrapped ? "(?:" : "", pattern, wrapped ? ")" : "")) {
    ie_buf_free(&full);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory to match '%s'", ie_quote(pattern).text);
  }
  pcre2_compile_context *context = pcre2_compile_context_create(NULL);
  int code = PCRE2_ERROR_NOMEMORY;
  PCRE2_SIZE at = 0;
  pcre2_code *regex = NULL;
  if (context)
    regex = pcre2_compile((PCRE2_SPTR)full.data, full.size, PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED,
                          &code, &at, context);
  pcre2_compile_context_free(context);
  ie_buf_free(&full);
  ie_status status;
  if (regex) {
    status = pattern_run(regex, pattern, text, matches, error);
  } else if (!context || code == PCRE2_ERROR_NOMEMORY || code == 121 /* no room for the compiled code */) {
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory to match '%s'", ie_quote(pattern).text);
  } else {
    PCRE2_UCHAR message[128];
    pcre2_get_error_message(code, message, sizeof message);
    status =
        ie_error_set(error, IE_FORMAT, "expression '%s': %s", ie_quote(pattern).text, (const char *)message);
  }
  pcre2_code_free(regex);
  return status;
}

/* ---- reading ---- */

/* A value that stands for "not used": what PEFT writes by default. */
static bool is_unset(const json_t *value) {
  return !value || json_is_null(value) || json_is_false(value) ||
         (json_is_array(value) && json_array_size(value) == 0) ||
         (json_is_object(value) && json_object_size(value) == 0);
}

static ie_status unsupported_check(const json_t *root, const char *where, ie_error *error) {
  static const char *const keys[] = {
      "use_dora",
      "lora_bias",
      "modules_to_save",
      "target_parameters",
      "trainable_token_indices",
      "use_qalora",
      "use_bdlora",
      "arrow_config",
      "alora_invocation_tokens",
      "layer_replication",
      "megatron_config",
      "kasa_config",
      "monteclora_config",
      "velora_config",
      "ensure_weight_tying",
  };
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
    const json_t *value = json_object_get(root, keys[i]);
    if (is_unset(value)) continue;
    ie_buf text = {0};
    ie_json_append(value, JSON_COMPACT | JSON_ENCODE_ANY, &text);
    ie_error_set(error, IE_UNSUPPORTED, "%s: %s is %s: adapters with it are not built here", where, keys[i],
                 text.data ? ie_quote(text.data).text : "set");
    ie_buf_free(&text);
    return IE_UNSUPPORTED;
  }
  const json_t *init = json_object_get(root, "init_lora_weights");
  if (!json_is_string(init)) return IE_OK;
  static const char *const harmless[] = {"gaussian", "eva", "orthogonal"};
  for (size_t i = 0; i < sizeof harmless / sizeof harmless[0]; i++)
    if (strcmp(json_string_value(init), harmless[i]) == 0) return IE_OK;
  return ie_error_set(
      error, IE_UNSUPPORTED,
      "%s: init_lora_weights is '%s', which changes the base weights: save the adapter converted to a "
      "plain one",
      where, ie_quote(json_string_value(init)).text);
}

static ie_status targets_read(ie_adapter_config *c, const char *where, ie_error *error) {
  c->targets = json_object_get(c->root, "target_modules");
  bool ok = json_is_string(c->targets) || (json_is_array(c->targets) && json_array_size(c->targets) > 0);
  for (size_t i = 0; ok && json_is_array(c->targets) && i < json_array_size(c->targets); i++)
    ok = json_is_string(json_array_get(c->targets, i));
  if (ok) return IE_OK;
  return ie_error_set(error, IE_FORMAT,
                      "%s: target_modules: expected names, an expression or \"all-linear\", found %s", where,
                      c->targets ? ie_json_type_name(c->targets) : "nothing");
}

static ie_status patterns_check(const json_t *patterns, const char *key, bool whole, const char *where,
                                ie_error *error) {
  const char *name;
  json_t *value;
  if (!patterns) return IE_OK;
  json_object_foreach((json_t *)(uintptr_t)patterns, name, value) {
    double x = json_number_value(value);
    if ((whole ? json_is_integer(value) : json_is_number(value)) && x > 0 && x <= (double)IE_ADAPTER_MAX_RANK)
      continue;
    return ie_error_set(error, IE_FORMAT, "%s: %s.%s: expected a positive %s", where, key,
                        ie_quote(name).text, whole ? "integer" : "number");
  }
  return IE_OK;
}

static ie_status fields_read(ie_adapter_config *c, const char *where, ie_error *error) {
  ie_json_reader in = {.object = c->root, .where = where, .error = error};
  const char *type = ie_json_string(&in, "peft_type", "LORA");
  const char *bias = ie_json_string(&in, "bias", "none");
  c->r = ie_json_int(&in, "r", 8, 1, IE_ADAPTER_MAX_RANK);
  c->alpha = ie_json_number(&in, "lora_alpha", 8, 1e-9, 1e9);
  c->dropout = ie_json_number(&in, "lora_dropout", 0, 0, 1);
  c->rslora = ie_json_bool(&in, "use_rslora", false);
  (void)ie_json_bool(&in, "fan_in_fan_out", false);
  c->rank_pattern = ie_json_object(&in, "rank_pattern");
  c->alpha_pattern = ie_json_object(&in, "alpha_pattern");
  if (in.status != IE_OK) return in.status;
  if (strcmp(type, "LORA") != 0)
    return ie_error_set(error, IE_UNSUPPORTED, "%s: peft_type: expected LORA, found '%s'", where,
                        ie_quote(type).text);
  if (strcmp(bias, "none") != 0)
    return ie_error_set(error, IE_UNSUPPORTED, "%s: bias: expected none, found '%s'", where,
                        ie_quote(bias).text);
  ie_status status = unsupported_check(c->root, where, error);
  if (status == IE_OK) status = patterns_check(c->rank_pattern, "rank_pattern", true, where, error);
  if (status == IE_OK) status = patterns_check(c->alpha_pattern, "alpha_pattern", false, where, error);
  if (status == IE_OK) status = targets_read(c, where, error);
  return status;
}

ie_status ie_adapter_config_take(json_t *root, const char *where, ie_adapter_config *out, ie_error *error) {
  *out = (ie_adapter_config){.root = root};
  ie_status status = IE_OK;
  if (!root)
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", where);
  else if (!json_is_object(root))
    status =
        ie_error_set(error, IE_FORMAT, "%s: expected an object, found %s", where, ie_json_type_name(root));
  else
    status = fields_read(out, where, error);
  if (status != IE_OK) ie_adapter_config_free(out);
  return status;
}

ie_status ie_adapter_config_parse(const void *bytes, size_t size, const char *where, ie_adapter_config *out,
                                  ie_error *error) {
  json_t *root;
  *out = (ie_adapter_config){0};
  ie_status status = ie_json_parse(bytes, size, JSON_REJECT_DUPLICATES, where, &root, error);
  return status == IE_OK ? ie_adapter_config_take(root, where, out, error) : status;
}

void ie_adapter_config_free(ie_adapter_config *config) {
  json_decref(config->root);
  *config = (ie_adapter_config){0};
}

/* ---- questions ---- */

/* name, or its end behind a dot, is `end`. */
static bool ends_with_part(const char *name, const char *end) {
  size_t n = strlen(name), m = strlen(end);
  return n >= m && strcmp(name + n - m, end) == 0 && (n == m || name[n - m - 1] == '.');
}

ie_status ie_adapter_config_matches(const ie_adapter_config *config, const char *module, bool *matches,
                                    ie_error *error) {
  *matches = false;
  if (json_is_string(config->targets)) {
    const char *pattern = json_string_value(config->targets);
    *matches = strcmp(pattern, "all-linear") == 0;
    return *matches ? IE_OK : pattern_matches("", pattern, module, matches, error);
  }
  for (size_t i = 0; !*matches && i < json_array_size(config->targets); i++)
    *matches = ends_with_part(module, json_string_value(json_array_get(config->targets, i)));
  return IE_OK;
}

/* The value of the first pattern that matches, or NULL. */
static ie_status pattern_find(const json_t *patterns, const char *module, const json_t **out,
                              ie_error *error) {
  const char *key;
  json_t *value;
  *out = NULL;
  if (!patterns) return IE_OK;
  json_object_foreach((json_t *)(uintptr_t)patterns, key, value) {
    bool matches = ends_with_part(module, key); /* most keys are plain names */
    ie_status status = matches ? IE_OK : pattern_matches("(?:.*\\.)?", key, module, &matches, error);
    if (status != IE_OK) return status;
    if (!matches) continue;
    *out = value;
    return IE_OK;
  }
  return IE_OK;
}

ie_status ie_adapter_config_rank(const ie_adapter_config *config, const char *module, ie_adapter_rank *out,
                                 ie_error *error) {
  const json_t *r, *alpha;
  ie_status status = pattern_find(config->rank_pattern, module, &r, error);
  if (status == IE_OK) status = pattern_find(config->alpha_pattern, module, &alpha, error);
  if (status != IE_OK) return status;
  out->r = r ? json_integer_value(r) : config->r;
  out->alpha = alpha ? json_number_value(alpha) : config->alpha;
  out->scale = out->alpha / (config->rslora ? sqrt((double)out->r) : (double)out->r);
  return IE_OK;
}
