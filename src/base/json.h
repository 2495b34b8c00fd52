/* Typed, bounded access to jansson values, with messages that name the file, the key, what was expected and
 * what was found. jansson limits nesting (JSON_PARSER_MAX_DEPTH) and checks UTF-8. */
#ifndef CLOCHER_BASE_JSON_H
#define CLOCHER_BASE_JSON_H

#include "base/buf.h"
#include "clocher/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Parses `size` bytes of UTF-8; where names them in messages. *out is a new reference or NULL.
 * flags: jansson's, such as JSON_REJECT_DUPLICATES. */
ie_status ie_json_parse(const void *bytes, size_t size, size_t flags, const char *where, json_t **out,
                        ie_error *error);

/* Reads and parses a file of at most max_bytes; the root must be an object. */
ie_status ie_json_read_object(const char *path, size_t max_bytes, json_t **out, ie_error *error);

/* A reader over one object that keeps the first error, so that a config can be read field by field and asked
 * once. Absent keys and JSON null give the default; a value of another type is an error, and so is one out of range,
 * the default included: it may have been computed from other fields. */
typedef struct ie_json_reader {
  const json_t *object;
  const char *where; /* for messages, such as the path */
  ie_error *error;
  ie_status status; /* the first failure, IE_OK until then */
} ie_json_reader;

int64_t ie_json_int(ie_json_reader *reader, const char *key, int64_t fallback, int64_t min, int64_t max);
int64_t ie_json_int_required(ie_json_reader *reader, const char *key, int64_t min, int64_t max);
/* Integers are accepted too. The result is finite. */
double ie_json_number(ie_json_reader *reader, const char *key, double fallback, double min, double max);
bool ie_json_bool(ie_json_reader *reader, const char *key, bool fallback);
/* Borrowed from the object. */
const char *ie_json_string(ie_json_reader *reader, const char *key, const char *fallback);
/* An object or array under key, or NULL when absent or null; an error for another type. Borrowed. */
const json_t *ie_json_object(ie_json_reader *reader, const char *key);
const json_t *ie_json_array(ie_json_reader *reader, const char *key);

/* Appends a value as text; flags are jansson's. A failed allocation sets out->failed. */
void ie_json_append(const json_t *value, size_t flags, ie_buf *out);

/* "an integer", "a string", ... for messages. */
const char *ie_json_type_name(const json_t *value);

#endif
