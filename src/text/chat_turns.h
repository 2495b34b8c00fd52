/* The messages of a request (form 1 of ie_chat_render) as turns: what every template but Harmony's works on. Roles are
 * checked, contents are joined to one text, and messages of the assistant that say their place (a channel or a
 * recipient: what a parser gave back) are put together to the turn that the model wrote: reasoning, text, calls.
 *
 * Owner: whoever declared the list; it borrows from the request. */
#ifndef CLOCHER_TEXT_CHAT_TURNS_H
#define CLOCHER_TEXT_CHAT_TURNS_H

#include "base/buf.h"
#include "clocher/chat.h"
#include "text/chat_role.h"

#include <jansson.h>

typedef struct chat_call {
  const char *name; /* (name_size) without the namespace "functions." */
  size_t name_size;
  const json_t *arguments; /* or NULL */
  const char *text;        /* (text_size) of a placed call: its arguments as the model wrote them, or NULL */
  size_t text_size;
  bool code; /* of a placed call: its text is code, not JSON */
} chat_call;

typedef struct chat_turn {
  chat_role role;
  size_t index;        /* of its (first) message in the request */
  const json_t *raw;   /* that message's content, or NULL */
  ie_buf text;         /* its content; empty where there is none */
  ie_buf reasoning;    /* empty where there is none */
  bool reasoned;       /* it says its reasoning apart, even if that is empty */
  bool placed, spoken; /* made of placed messages; one of them was an answer */
  chat_call *calls;
  size_t call_count, call_capacity;
} chat_turn;

typedef struct chat_turns {
  chat_turn *turns;
  size_t count, capacity;
} chat_turns;

/* Reads request.messages. raw_tools: the content of a tool's message may be any JSON value, which the caller reads
 * from `raw`; text is then empty unless it is a string. IE_FORMAT names the place as messages[2].content. */
ie_status chat_turns_read(const json_t *request, bool raw_tools, chat_turns *out, ie_error *error);
void chat_turns_free(chat_turns *turns);

/* What the requests of these formats share beside their messages. Borrowed from the request. */
typedef struct chat_request {
  const json_t *tools;  /* an array, or NULL */
  const json_t *kwargs; /* an object, or NULL */
  bool generate;        /* add_generation_prompt */
  bool keep_analysis;
} chat_request;

ie_status chat_request_read(const json_t *request, chat_request *out, ie_error *error);

/* The string kwargs[key] in *text and *size; NULL where it is absent or null. */
ie_status chat_request_string(const json_t *kwargs, const char *key, const char **text, size_t *size,
                              ie_error *error);

/* Writes the arguments of a call as Python's json.dumps does. A string that holds a JSON object is taken as that object
 * (OpenAI's API has arguments as such strings), unless verbatim_text is set: then any string is written as it is.
 * What a model wrote itself is always written as it is. Absent arguments are {}. */
void chat_call_arguments(ie_buf *out, const chat_call *call, bool verbatim_text);

/* Text between start and end without white space as Python's str.strip() sees it. */
void chat_strip(const char **text, size_t *size);
/* Without line feeds at its start, at its end. */
void chat_lstrip_lines(const char **text, size_t *size);
void chat_rstrip_lines(const char **text, size_t *size);

#endif
