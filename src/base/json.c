#include "base/json.h"

#include "base/file.h"

#include <errno.h>
#include <math.h>

ie_status ie_json_parse(const void *bytes, size_t size, size_t flags, const char *where, json_t **out,
                        ie_error *error) {
  *out = NULL;
  json_error_t detail;
  errno = 0;
  json_t *root = json_loadb(bytes, size, flags, &detail);
  /* Out of memory, jansson says nothing, or reports a syntax error, or returns a string that is cut short; malloc
   * leaves ENOMEM in all cases. */
  if (errno == ENOMEM ||
      (!root && (json_error_code(&detail) == json_error_out_of_memory || !detail.text[0]))) {
    json_decref(root);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory while parsing JSON", where);
  }
  if (!root)
    return ie_error_set(error, IE_FORMAT, "%s: not valid JSON: %s (line %d, column %d)", where, detail.text,
                        detail.line, detail.column);
  *out = root;
  return IE_OK;
}

ie_status ie_json_read_object(const char *path, size_t max_bytes, json_t **out, ie_error *error) {
  *out = NULL;
  ie_buf text = {0};
  ie_status status = ie_file_read(path, max_bytes, &text, error);
  if (status == IE_OK) status = ie_json_parse(text.data ? text.data : "", text.size, 0, path, out, error);
  ie_buf_free(&text);
  if (status == IE_OK && !json_is_object(*out)) {
    status =
        ie_error_set(error, IE_FORMAT, "%s: expected a JSON object, found %s", path, ie_json_type_name(*out));
    json_decref(*out);
    *out = NULL;
  }
  return status;
}

const char *ie_json_type_name(const json_t *value) {
  if (!value) return "nothing";
  switch (json_typeof(value)) {
  case JSON_OBJECT: return "an object";
  case JSON_ARRAY: return "an array";
  case JSON_STRING: return "a string";
  case JSON_INTEGER: return "an integer";
  case JSON_REAL: return "a real number";
  case JSON_TRUE: return "true";
  case JSON_FALSE: return "false";
  case JSON_NULL: return "null";
  }
  return "an unknown value";
}

/* The value under key when it is there, not null, and nothing has failed yet. */
static const json_t *reader_get(ie_json_reader *reader, const char *key) {
  if (reader->status != IE_OK) return NULL;
  const json_t *value = json_object_get(reader->object, key);
  return json_is_null(value) ? NULL : value;
}

static void reader_type_error(ie_json_reader *reader, const char *key, const char *expected,
                              const json_t *value) {
  reader->status = ie_error_set(reader->error, IE_FORMAT, "%s: %s: expected %s, found %s", reader->where, key,
                                expected, ie_json_type_name(value));
}

int64_t ie_json_int(ie_json_reader *reader, const char *key, int64_t fallback, int64_t min, int64_t max) {
  const json_t *value = reader_get(reader, key);
  int64_t n = fallback;
  if (reader->status != IE_OK) return fallback;
  if (json_is_integer(value)) {
    n = json_integer_value(value);
  } else if (json_is_real(value) && fabs(json_real_value(value)) < 0x1p53 &&
             json_real_value(value) == floor(json_real_value(value))) {
    n = (int64_t)json_real_value(value);
  } else if (value) {
    reader_type_error(reader, key, "an integer", value);
    return fallback;
  }
  if (n < min || n > max) {
    reader->status = ie_error_set(
        reader->error, IE_FORMAT, "%s: %s: expected a number from %lld to %lld, found %lld%s", reader->where,
        key, (long long)min, (long long)max, (long long)n, value ? "" : " (its default)");
    return fallback;
  }
  return n;
}

int64_t ie_json_int_required(ie_json_reader *reader, const char *key, int64_t min, int64_t max) {
  if (reader->status == IE_OK && !reader_get(reader, key))
    reader->status = ie_error_set(reader->error, IE_FORMAT, "%s: %s is missing", reader->where, key);
  return ie_json_int(reader, key, min, min, max);
}

double ie_json_number(ie_json_reader *reader, const char *key, double fallback, double min, double max) {
  const json_t *value = reader_get(reader, key);
  if (!value) return fallback;
  if (!json_is_number(value)) {
    reader_type_error(reader, key, "a number", value);
    return fallback;
  }
  double x = json_number_value(value);
  if (!(x >= min && x <= max) || !isfinite(x)) {
    reader->status =
        ie_error_set(reader->error, IE_FORMAT, "%s: %s: expected a number from %g to %g, found %g",
                     reader->where, key, min, max, x);
    return fallback;
  }
  return x;
}

bool ie_json_bool(ie_json_reader *reader, const char *key, bool fallback) {
  const json_t *value = reader_get(reader, key);
  if (!value) return fallback;
  if (json_is_boolean(value)) return json_is_true(value);
  reader_type_error(reader, key, "true or false", value);
  return fallback;
}

const char *ie_json_string(ie_json_reader *reader, const char *key, const char *fallback) {
  const json_t *value = reader_get(reader, key);
  if (!value) return fallback;
  if (json_is_string(value)) return json_string_value(value);
  reader_type_error(reader, key, "a string", value);
  return fallback;
}

const json_t *ie_json_object(ie_json_reader *reader, const char *key) {
  const json_t *value = reader_get(reader, key);
  if (!value || json_is_object(value)) return value;
  reader_type_error(reader, key, "an object", value);
  return NULL;
}

const json_t *ie_json_array(ie_json_reader *reader, const char *key) {
  const json_t *value = reader_get(reader, key);
  if (!value || json_is_array(value)) return value;
  reader_type_error(reader, key, "an array", value);
  return NULL;
}

static int text_append(const char *text, size_t size, void *buf) {
  return ie_buf_append(buf, text, size) ? 0 : -1;
}

void ie_json_append(const json_t *value, size_t flags, ie_buf *out) {
  if (json_dump_callback(value, text_append, out, flags) != 0) out->failed = true;
}
