/* Conversations as files. Manual: clocher/conversation.h. */
#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "engine/conversation.h"

#include <jansson.h>

enum { FILE_MAX_BYTES = 256 << 20 };

/* The fields of a message beside its text, in the order in which they are written. */
static const char *const keys[] = {"role", "name", "channel", "recipient", "content_type"};
enum { KEYS = sizeof keys / sizeof keys[0] };

static const char **field(ie_chat_message *m, size_t key) {
  const char **const fields[KEYS] = {&m->role, &m->name, &m->channel, &m->recipient, &m->content_type};
  return fields[key];
}

/* A new reference, or NULL when memory is out. */
static json_t *message_write(const ie_chat_message *message) {
  ie_chat_message m = *message;
  json_t *object = json_object();
  bool ok = object != NULL;
  for (size_t k = 0; ok && k < KEYS; k++) {
    const char *value = *field(&m, k);
    if (value) ok = json_object_set_new(object, keys[k], json_string(value)) == 0;
  }
  ok = ok && json_object_set_new(object, "content", json_stringn(m.text, m.text_size)) == 0;
  if (ok) return object;
  json_decref(object);
  return NULL;
}

/* A new reference, or NULL when memory is out. */
static json_t *conversation_write(const ie_conversation *c) {
  json_t *root = json_object(), *list = json_array();
  bool ok = root && list;
  for (size_t i = 0; ok && i < c->count; i++)
    ok = json_array_append_new(list, message_write(&c->messages[i])) == 0;
  ok = ok && json_object_set_new(root, "chat_format", json_string(ie_chat_format_name(c->format))) == 0 &&
       json_object_set(root, "messages", list) == 0;
  json_decref(list);
  if (ok) return root;
  json_decref(root);
  return NULL;
}

static int text_append(const char *bytes, size_t size, void *arg) {
  return ie_buf_append(arg, bytes, size) ? 0 : -1;
}

ie_status ie_conversation_save(const ie_conversation *c, const char *path, ie_error *error) {
  ie_buf text = {0};
  json_t *root = conversation_write(c);
  bool ok = root && json_dump_callback(root, text_append, &text, JSON_INDENT(1)) == 0;
  ie_status status = ok ? ie_file_write(path, text.data, text.size, error)
                        : ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
  ie_buf_free(&text);
  json_decref(root);
  return status;
}

/* One message of a file into borrowed strings. */
static ie_status message_read(const json_t *object, const char *path, size_t i, ie_chat_message *out,
                              ie_error *error) {
  *out = (ie_chat_message){0};
  if (!json_is_object(object))
    return ie_error_set(error, IE_FORMAT, "%s: messages[%zu]: expected an object, found %s", path, i,
                        ie_json_type_name(object));
  for (size_t k = 0; k < KEYS; k++) {
    const json_t *value = json_object_get(object, keys[k]);
    bool absent = k > 0 && (!value || json_is_null(value));
    if (!absent && !json_is_string(value))
      return ie_error_set(error, IE_FORMAT, "%s: messages[%zu]: %s: expected a string, found %s", path, i,
                          keys[k], ie_json_type_name(value));
    if (!absent) *field(out, k) = json_string_value(value);
  }
  const json_t *text = json_object_get(object, "content");
  if (!json_is_string(text))
    return ie_error_set(error, IE_FORMAT, "%s: messages[%zu]: content: expected a string, found %s", path, i,
                        ie_json_type_name(text));
  out->text = json_string_value(text);
  out->text_size = json_string_length(text);
  return IE_OK;
}

static ie_status messages_read(ie_conversation *c, const json_t *root, const char *path, ie_error *error) {
  const json_t *list = json_object_get(root, "messages");
  if (!json_is_array(list))
    return ie_error_set(error, IE_FORMAT, "%s: messages: expected an array, found %s", path,
                        ie_json_type_name(list));
  ie_status status = IE_OK;
  for (size_t i = 0; status == IE_OK && i < json_array_size(list); i++) {
    ie_chat_message m;
    status = message_read(json_array_get(list, i), path, i, &m, error);
    if (status == IE_OK) status = ie_conversation_add(c, &m, error);
  }
  return status;
}

/* Not by ie_json_read_object: a text may hold U+0000. */
static ie_status root_parse(const char *text, size_t size, const char *path, json_t **out, ie_error *error) {
  ie_status status = ie_json_parse(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, path, out, error);
  if (status == IE_OK && !json_is_object(*out)) {
    status =
        ie_error_set(error, IE_FORMAT, "%s: expected an object, found %s", path, ie_json_type_name(*out));
    json_decref(*out);
    *out = NULL;
  }
  return status;
}

ie_status ie_conversation_read(ie_conversation *c, const char *text, size_t size, const char *path,
                               ie_error *error) {
  json_t *root = NULL;
  ie_conversation *fresh = NULL;
  int64_t tokens;
  ie_error inner = {0};
  ie_status status = root_parse(text, size, path, &root, error);
  if (status == IE_OK) status = ie_conversation_new(c->format, c->tokenizer, &fresh, error);
  if (status == IE_OK) status = messages_read(fresh, root, path, error);
  if (status == IE_OK) {
    status = ie_conversation_prompt_tok(fresh, /*options=*/NULL, &tokens, &inner);
    if (status != IE_OK) ie_error_set(error, status, "%s: %s", path, inner.message);
  }
  if (status == IE_OK) {
    ie_conversation old = *c;
    *c = *fresh;
    *fresh = old;
  }
  ie_conversation_free(fresh);
  json_decref(root);
  return status;
}

ie_status ie_conversation_load(ie_conversation *c, const char *path, ie_error *error) {
  ie_buf text = {0};
  ie_status status = ie_file_read(path, FILE_MAX_BYTES, &text, error);
  if (status == IE_OK) status = ie_conversation_read(c, text.data ? text.data : "", text.size, path, error);
  ie_buf_free(&text);
  return status;
}
