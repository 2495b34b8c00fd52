/* Conversations as files. Manual: clocher/conversation.h. */
#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "engine/conversation.h"

#include <jansson.h>
#include <string.h>

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

/* A file that is being read. */
typedef struct file_reader {
  ie_conversation *to;
  const char *path;
  size_t i;            /* the message at hand */
  const json_t *calls; /* tool_calls of the latest message that had some, or NULL */
  size_t answers;      /* to them so far */
  ie_error *error;
} file_reader;

/* "messages[I]: KEY: expected ..., found ...". */
static ie_status type_refuse(const file_reader *r, const char *key, const char *expected,
                             const json_t *value) {
  return ie_error_set(r->error, IE_FORMAT, "%s: messages[%zu]: %s: expected %s, found %s", r->path, r->i, key,
                      expected, ie_json_type_name(value));
}

/* object[key], or NULL where it is absent or null. */
static const json_t *member(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  return value && !json_is_null(value) ? value : NULL;
}

/* The fields of a message into borrowed strings; its text may be missing where `calling`. */
static ie_status message_read(const file_reader *r, const json_t *object, bool calling,
                              ie_chat_message *out) {
  *out = (ie_chat_message){0};
  for (size_t k = 0; k < KEYS; k++) {
    const json_t *value = k > 0 ? member(object, keys[k]) : json_object_get(object, keys[k]);
    if ((k == 0 || value) && !json_is_string(value)) return type_refuse(r, keys[k], "a string", value);
    *field(out, k) = json_string_value(value);
  }
  const json_t *text = json_object_get(object, "content");
  if (!json_is_string(text) && !(calling && (!text || json_is_null(text))))
    return type_refuse(r, "content", "a string", text);
  out->text = json_is_string(text) ? json_string_value(text) : "";
  out->text_size = json_string_length(text);
  return IE_OK;
}

static const json_t *call_function(const json_t *call) {
  const json_t *function = json_object_get(call, "function");
  return function ? function : call;
}

/* Appends "functions.NAME"; a name with a dot is a full one. */
static ie_status recipient_read(const file_reader *r, const json_t *call, ie_buf *out) {
  const json_t *name = json_object_get(call_function(call), "name");
  if (!json_is_string(name)) return type_refuse(r, "tool_calls: function.name", "a string", name);
  if (!strchr(json_string_value(name), '.')) ie_buf_append_str(out, "functions.");
  ie_buf_append_str(out, json_string_value(name));
  return out->failed ? ie_error_set(r->error, IE_OUT_OF_MEMORY, "%s: out of memory", r->path) : IE_OK;
}

/* A call as a parser gives it: a message to the tool whose text is the arguments, an object's as compact JSON. */
static ie_status call_add(const file_reader *r, const json_t *call) {
  const json_t *arguments = member(call_function(call), "arguments");
  bool text = json_is_string(arguments), harmony = !strcmp(ie_chat_format_name(r->to->format), "harmony");
  if (arguments && !text && !json_is_object(arguments))
    return type_refuse(r, "tool_calls: function.arguments", "a string or an object", arguments);
  ie_buf recipient = {0}, json = {0};
  ie_status status = recipient_read(r, call, &recipient);
  if (status == IE_OK && json_is_object(arguments) &&
      json_dump_callback(arguments, text_append, &json, JSON_COMPACT) != 0)
    status = ie_error_set(r->error, IE_OUT_OF_MEMORY, "%s: out of memory", r->path);
  ie_chat_message m = {.role = "assistant",
                       .channel = "commentary",
                       .recipient = recipient.data,
                       .content_type = harmony ? "<|constrain|>json" : "json",
                       .text = text        ? json_string_value(arguments)
                               : json.data ? json.data
                                           : "",
                       .text_size = text ? json_string_length(arguments) : json.size};
  if (status == IE_OK) status = ie_conversation_add(r->to, &m, r->error);
  ie_buf_free(&recipient);
  ie_buf_free(&json);
  return status;
}

/* The name of a tool whose answer does not say it: by the call's id, else by the order of the calls. */
static ie_status answer_add(file_reader *r, const json_t *object, ie_chat_message *m) {
  size_t count = json_array_size(r->calls);
  const char *id = json_string_value(json_object_get(object, "tool_call_id"));
  const json_t *call = json_array_get(r->calls, r->answers < count ? r->answers : count - 1);
  for (size_t i = 0; id && i < count; i++) {
    const char *other = json_string_value(json_object_get(json_array_get(r->calls, i), "id"));
    if (other && !strcmp(other, id)) call = json_array_get(r->calls, i);
  }
  r->answers++;
  ie_buf name = {0};
  ie_status status = recipient_read(r, call, &name);
  if (status == IE_OK) {
    m->name = name.data;
    m->channel = m->channel ? m->channel : "commentary";
    m->recipient = m->recipient ? m->recipient : "assistant";
    status = ie_conversation_add(r->to, m, r->error);
  }
  ie_buf_free(&name);
  return status;
}

/* A message of the assistant that calls tools, as requests have it: its words are a preamble. */
static ie_status caller_add(file_reader *r, const json_t *calls, ie_chat_message *m) {
  if (strcmp(m->role, "assistant") != 0)
    return ie_error_set(r->error, IE_FORMAT, "%s: messages[%zu]: tool_calls: only an assistant calls tools",
                        r->path, r->i);
  if (!m->channel) m->channel = "commentary";
  ie_status status = m->text_size ? ie_conversation_add(r->to, m, r->error) : IE_OK;
  for (size_t k = 0; status == IE_OK && k < json_array_size(calls); k++)
    status = call_add(r, json_array_get(calls, k));
  r->calls = calls;
  r->answers = 0;
  return status;
}

/* What a request calls reasoning. */
static ie_status reasoning_add(const file_reader *r, const json_t *object, const ie_chat_message *m) {
  const json_t *text = member(object, "reasoning_content");
  if (!text) text = member(object, "thinking");
  if (!text || strcmp(m->role, "assistant") != 0) return IE_OK;
  if (!json_is_string(text)) return type_refuse(r, "reasoning_content", "a string", text);
  if (!json_string_length(text)) return IE_OK;
  return ie_conversation_add(r->to,
                             &(ie_chat_message){.role = m->role,
                                                .channel = "analysis",
                                                .text = json_string_value(text),
                                                .text_size = json_string_length(text)},
                             r->error);
}

static ie_status message_take(file_reader *r, const json_t *object) {
  ie_chat_message m;
  if (!json_is_object(object))
    return ie_error_set(r->error, IE_FORMAT, "%s: messages[%zu]: expected an object, found %s", r->path, r->i,
                        ie_json_type_name(object));
  const json_t *calls = member(object, "tool_calls");
  if (calls && !json_is_array(calls)) return type_refuse(r, "tool_calls", "an array", calls);
  bool calling = json_array_size(calls) > 0;
  ie_status status = message_read(r, object, calling, &m);
  if (status == IE_OK) status = reasoning_add(r, object, &m);
  if (status != IE_OK) return status;
  if (calling) return caller_add(r, calls, &m);
  if (!strcmp(m.role, "tool") && !m.name && r->calls) return answer_add(r, object, &m);
  return ie_conversation_add(r->to, &m, r->error);
}

static ie_status messages_read(ie_conversation *c, const json_t *root, const char *path, ie_error *error) {
  ie_json_reader fields = {.object = root, .where = path, .error = error};
  (void)ie_json_array(&fields,
                      "tools"); /* of requests: they have their types, and tell a conversation nothing */
  (void)ie_json_object(&fields, "kwargs");
  (void)ie_json_bool(&fields, "add_generation_prompt", false);
  if (fields.status != IE_OK) return fields.status;
  const json_t *list = json_object_get(root, "messages");
  if (!json_is_array(list))
    return ie_error_set(error, IE_FORMAT, "%s: messages: expected an array, found %s", path,
                        ie_json_type_name(list));
  file_reader r = {.to = c, .path = path, .error = error};
  ie_status status = IE_OK;
  for (; status == IE_OK && r.i < json_array_size(list); r.i++)
    status = message_take(&r, json_array_get(list, r.i));
  return status;
}

/* root.chat_format, which may be absent. */
static ie_status format_read(ie_conversation *c, const json_t *root, const char *path, ie_error *error) {
  const json_t *name = json_object_get(root, "chat_format");
  if (!name || json_is_null(name)) return IE_OK;
  if (!json_is_string(name))
    return ie_error_set(error, IE_FORMAT, "%s: chat_format: expected a string, found %s", path,
                        ie_json_type_name(name));
  c->saved_format = strdup(json_string_value(name));
  return c->saved_format ? IE_OK : ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
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
  if (status == IE_OK) status = format_read(fresh, root, path, error);
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

const char *ie_conversation_saved_format(const ie_conversation *c) {
  return c->saved_format;
}
