/* Harmony, the chat format of gpt-oss (https://github.com/openai/harmony, docs/format.md). A message is
 *
 *   <|start|> author [ to=recipient] [<|channel|> channel] [ content type] <|message|> text <|end|>
 *
 * author: a role, role:name, or the name of a tool. <|call|> ends a message that calls a tool, <|return|> the last
 * of a turn. The rules follow the library, version 0.0.8: it defines the format.
 *
 * Files: harmony_render.c (a conversation to parts), harmony_tools.c (tool declarations in TypeScript form),
 * harmony_messages.c (chat-template messages to a conversation), harmony_header.c and harmony_parse.c (ids to
 * messages). */
#ifndef CLOCHER_TEXT_HARMONY_H
#define CLOCHER_TEXT_HARMONY_H

#include "base/buf.h"
#include "clocher/chat.h"
#include "text/chat_format.h"
#include "text/chat_parts.h"

#include <jansson.h>

#define HARMONY_START     "<|start|>"
#define HARMONY_MESSAGE   "<|message|>"
#define HARMONY_END       "<|end|>"
#define HARMONY_RETURN    "<|return|>"
#define HARMONY_CALL      "<|call|>"
#define HARMONY_CHANNEL   "<|channel|>"
#define HARMONY_CONSTRAIN "<|constrain|>"

/* "system", "developer", "user", "assistant" or "tool" as a constant for these `size` bytes, or NULL. */
const char *harmony_role(const char *text, size_t size);

/* A string of a request: `text` is NULL where it is absent or null. Borrowed from the JSON value. */
typedef struct harmony_str {
  const char *text;
  size_t size;
} harmony_str;

/* object[key] into *out; IE_FORMAT with `where` and key when it is not a string. */
ie_status harmony_get(const json_t *object, const char *key, const char *where, harmony_str *out,
                      ie_error *error);
bool harmony_is(harmony_str s, const char *text);

/* Appends the section "# Tools" for an object {namespace: {"name", "description"?, "tools": [{"name",
 * "description"?, "parameters"?}]}}, namespaces in byte order of their keys. where names the object in messages; own: it
 * was made from an array of tools, which `where` names. */
ie_status harmony_tools_write(ie_buf *out, const json_t *namespaces, bool own, const char *where,
                              ie_error *error);
/* The namespaces have a function that can be called. */
bool harmony_tools_callable(const json_t *namespaces);

/* A key of a content in such a conversation: what of the request it was made from, for messages. */
#define HARMONY_FROM "\x01from"

/* A conversation {"messages": [...]} (new reference) for the chat-template form of a request: see
 * ie_chat_render in clocher/chat.h. */
ie_status harmony_conversation_from_messages(const json_t *request, const char *date, json_t **out,
                                             ie_error *error);

ie_status harmony_render(const json_t *request, const char *date, chat_parts *parts, ie_error *error);

extern const chat_parser_ops harmony_parser_ops;

/* ---- headers ---- */

/* A piece of a header: a run of text, or a special token. */
typedef enum harmony_item_kind {
  HARMONY_TEXT,
  HARMONY_CHANNEL_MARK,
  HARMONY_CONSTRAIN_MARK,
  HARMONY_OTHER,
  HARMONY_UNKNOWN /* an id that no token has: U+FFFD */
} harmony_item_kind;

typedef struct harmony_item {
  harmony_item_kind kind;
  size_t start, size; /* bytes of harmony_items.raw: text, or the token's name */
} harmony_item;

/* What stands between <|start|> and <|message|>. All-zero is empty. */
typedef struct harmony_items {
  ie_buf raw; /* ill-formed UTF-8 is kept */
  harmony_item *items;
  size_t count, capacity;
} harmony_items;

/* Neighbouring texts become one item. False when memory is out. */
bool harmony_items_add(harmony_items *items, harmony_item_kind kind, const char *bytes, size_t size);
/* Nothing but white space. */
bool harmony_items_blank(const harmony_items *items);
void harmony_items_clear(harmony_items *items);
void harmony_items_free(harmony_items *items);

/* A header that was read. Fields are empty where it has none; no field holds white space, control characters or
 * ill-formed UTF-8. Owner: whoever declared it. */
typedef struct harmony_header {
  const char *role; /* a constant */
  ie_buf name, channel, recipient, content_type, stray;
  ie_buf text;    /* harmony_header_recover: what was said in the header; raw bytes */
  bool malformed; /* something was repaired */
} harmony_header;

/* Reads a header that <|message|> ended. given: the role that the prompt has opened, or NULL. started: false when
 * no <|start|> stands before it, so that a first word may be speech. False when memory is out. */
bool harmony_header_read(const harmony_items *items, const char *given, bool started, harmony_header *out);
/* Reads a header that never saw its <|message|>: channel, recipient and content type as far as they go, all else
 * is text. */
bool harmony_header_recover(const harmony_items *items, const char *given, bool started, harmony_header *out);
void harmony_header_free(harmony_header *header);

#endif
