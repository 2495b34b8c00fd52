/* Chat: messages into the ids of a prompt, and the ids that a model wrote back into messages.
 *
 * A chat format is what a family of models was trained on: which special tokens open and close a message, where
 * its author, channel and recipient stand, how tools are declared. Formats are entries of a fixed table; a format
 * is found by name, or recognised from a model directory's tokenizer and chat template.
 *
 *   ie_chat_format_select(NULL, dir, tokenizer, &format, &error);
 *   ie_chat_render_messages(format, tokenizer, messages, count, NULL, &prompt, &error);   prompt.ids -> the model
 *   ie_chat_parser_new(format, tokenizer, "assistant", &parser, &error);
 *   for each id that the model wrote:
 *     ie_chat_parser_push(parser, id, &event, &error);                       event.text may be shown at once
 *   ie_chat_parser_finish(parser, &event, &error);
 *   ie_chat_parser_at(parser, i)->message                                     goes back into the next prompt
 *
 * Texts of messages are plain text: `<|end|>` typed by a user never becomes a special token.
 *
 * Harmony (gpt-oss): https://github.com/openai/harmony, docs/format.md; where library and document differ, this
 * follows the library (0.0.8). Requests are JSON texts, described at ie_chat_render.
 *
 * The other formats render what their published chat templates do (nanochat: what its own code does), to the id, and are
 * written in C: no template is run. Where a template prints nonsense or fails, the request is refused.
 *
 * Ownership: formats are constants. Prompts and parsers belong to the caller.
 * Thread safety: formats may be used by any number of threads; a parser belongs to one. */
#ifndef CLOCHER_CHAT_H
#define CLOCHER_CHAT_H

#include "clocher/status.h"
#include "clocher/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* ---- formats ---- */

typedef struct ie_chat_format ie_chat_format;

/* The table: harmony, qwen2.5, qwen3, llama3.1, llama3.2, nanochat, c2c. 0 <= i < count. */
size_t ie_chat_format_count(void);
const ie_chat_format *ie_chat_format_at(size_t i);
const char *ie_chat_format_name(const ie_chat_format *format);
/* False: the name is known, rendering and parsing are not implemented. (Today all are.) */
bool ie_chat_format_built(const ie_chat_format *format);
/* The format of that name. IE_INVALID_ARGUMENT lists the names. */
ie_status ie_chat_format_find(const char *name, const ie_chat_format **out, ie_error *error);

/* The format that this tokenizer's special tokens and this chat template (size bytes of Jinja source; NULL: there
 * is none) belong to, or NULL. Never an error: an unknown format is an answer. A template is known by its special
 * tokens and by the sentences it puts into prompts, whatever its layout:
 *   qwen2.5   Instruct and Coder; base, Math and Qwen 2 models have another default system message and are unknown
 *   qwen3     thinking that can be switched off, or none; models that always think (their prompt opens <think>) and
 *             Coder models (calls in XML) are unknown
 *   llama3.1  3.1 and 3.3; and any tokenizer of Llama 3.1 to 3.3 without a template. Llama 3.0 is unknown.
 *   llama3.2  the date comes from the clock
 *   nanochat  by its special tokens
 *   c2c       by its template only */
const ie_chat_format *ie_chat_format_recognise(const ie_tokenizer *tokenizer, const char *template_text,
                                               size_t size);
/* The same for a model directory: the template is read from chat_template.jinja, or from tokenizer_config.json.
 * tokenizer may be NULL (then *out = NULL). *out = NULL and IE_OK when the format is unknown; IE_FORMAT or IE_IO
 * when one of the files cannot be read. */
ie_status ie_chat_format_detect(const char *dir, const ie_tokenizer *tokenizer, const ie_chat_format **out,
                                ie_error *error);
/* name, or where that is NULL the directory's own format. A directory whose format is unknown is refused with
 * IE_UNSUPPORTED and the list of names. */
ie_status ie_chat_format_select(const char *name, const char *dir, const ie_tokenizer *tokenizer,
                                const ie_chat_format **out, ie_error *error);

/* Appends the ids after which generation ends. Harmony: <|return|> and <|call|> (not <|end|>: several messages
 * may follow each other in one turn). Qwen: <|im_end|>, <|endoftext|>. Llama: <|eot_id|>, <|eom_id|>, <|end_of_text|>.
 * nanochat: <|assistant_end|>, <|bos|>. c2c: <|endoftext|>; "### Human:" is plain text and a stop string for whoever
 * generates. */
ie_status ie_chat_format_stop_ids(const ie_chat_format *format, const ie_tokenizer *tokenizer, ie_ids *out,
                                  ie_error *error);

/* The reasoning efforts that the format has, a NULL-terminated list, empty where it has none. "none" is
 * ie_chat_options.no_thinking, any other is its reasoning_effort. */
const char *const *ie_chat_format_efforts(const ie_chat_format *format);

/* ---- messages to a prompt ---- */

/* One message, given to ie_chat_render_messages or found by a parser. Strings are borrowed, NUL-terminated UTF-8;
 * NULL where the message has none. */
typedef struct ie_chat_message {
  const char *role;    /* "system", "developer", "user", "assistant" or "tool"; never NULL */
  const char *name;    /* of a user, an assistant or (in Harmony always) of a tool: "functions.get_weather" */
  const char *channel; /* "analysis", "commentary", "final" */
  const char *recipient;    /* who is addressed: the tool of a call, "assistant" for a tool's answer */
  const char *content_type; /* of a call's text: "<|constrain|>json", "json", "code" */
  const char *text;         /* (text_size) bytes; may hold U+0000 */
  size_t text_size;
} ie_chat_message;

/* All-zero is the default. */
typedef struct ie_chat_options {
  const char *date;             /* YYYY-MM-DD; NULL: today's, in UTC */
  const char *reasoning_effort; /* "low", "medium", "high"; NULL: the format's default (Harmony: medium) */
  const char *identity;         /* replaces the format's first sentence about who the model is */
  const char *tools;            /* JSON array of tools as in a request, or NULL */
  size_t tools_size;            /* bytes */
  bool keep_analysis;           /* keep the reasoning of turns that are already answered */
  bool no_generation_prompt;    /* do not open the assistant's next message at the end */
  bool no_thinking;             /* qwen3: answer without reasoning (kwargs: enable_thinking false) */
} ie_chat_options;

typedef struct ie_chat_prompt {
  ie_ids ids;
  ie_bytes text; /* what the ids stand for, special tokens by their names */
  uint8_t *mask; /* (ids.count) 1 where a training target stands; NULL for formats without a mask */
} ie_chat_prompt;

void ie_chat_prompt_free(ie_chat_prompt *prompt);

/* Renders a conversation. System and developer messages at its start (without channel or recipient) are the
 * instructions; Harmony joins them by a blank line and puts its own system message before them. Assistant
 * messages without channel are final answers. Analysis before the last final answer is left out unless
 * keep_analysis is set. In the other formats the assistant's messages with a channel or a recipient (what a parser gave)
 * are put together to turns: reasoning, text, calls; see ie_chat_render for what each format does with them. options may
 * be NULL. *out is all zero on failure.
 * IE_FORMAT: a role or reasoning effort that the format has not. */
ie_status ie_chat_render_messages(const ie_chat_format *format, const ie_tokenizer *tokenizer,
                                  const ie_chat_message *messages, size_t count,
                                  const ie_chat_options *options, ie_chat_prompt *out, ie_error *error);

/* Renders a request: `size` bytes of JSON, an object of one of two forms. Unknown keys are ignored.
 *
 * 1. Any format: {"messages": [...], "tools": [...] | null, "kwargs": {...}, "add_generation_prompt": bool}, as
 *    chat templates and OpenAI's API have them. A message: "role", "content" (a string, a list of {"type":
 *    "text", "text"}, or null), "name"?; an assistant's also "reasoning_content" or "thinking", and "tool_calls"
 *    ([{"id"?, "function": {"name", "arguments": a string or an object}}]); a tool's "tool_call_id"?. A tool:
 *    {"type": "function", "function": {"name", "description"?, "parameters"?: a JSON schema}}.
 *    Harmony: kwargs are reasoning_effort, model_identity, knowledge_cutoff, conversation_start_date or
 *    date_string, keep_analysis. A tool call becomes a commentary message to functions.NAME with the arguments
 *    as they are (an object as compact JSON); content beside tool calls is a preamble on the commentary channel;
 *    a tool's answer is a message of functions.NAME to the assistant. A message may say its own "channel",
 *    "recipient" and "content_type" and is then taken as it is.
 *    The other formats: roles are system (or developer), user, assistant, tool (or ipython). null and an absent content
 *    are "". kwargs, all optional; what a format does not name here it ignores:
 *      qwen2.5   model_identity: the system message where the conversation has none (the template's: "You are Qwen, ...").
 *      qwen3     enable_thinking (true; false opens an empty <think></think>), keep_analysis. Reasoning is
 *                reasoning_content, thinking, or <think>...</think> in the content; that before the last question is left
 *                out unless keep_analysis is set.
 *      llama3.1  date_string ("26 Jul 2024", as the template has it: options->date does not count), builtin_tools (array
 *                of names), custom_tools (in place of tools), tools_in_user_message (true). One call a message.
 *      llama3.2  date_string (options->date as "01 Feb 2026"), custom_tools, tools_in_user_message.
 *      nanochat  no kwargs, no tools; user and assistant take turns. A call goes to python and is its code.
 *      c2c       no kwargs, no tools; system messages vanish, as in its template.
 *    Arguments of a call are an object, or a string that holds one (Qwen 3 writes any string as it is). JSON in prompts is
 *    that of Python's json.dumps(ensure_ascii=False).
 * 2. Harmony: {"conversation": {"messages": [...]}, "auto_drop_analysis": bool (default true), "next_role": role
 *    | null, "training": bool}: the JSON of the openai_harmony library, rendered as that library does, to the id.
 *    "training": the <|end|> of a last final message is <|return|>.
 *
 * 3. nanochat: {"conversation": {"messages": [...]}, "max_tokens": n (default 2048), "completion": bool}: its own
 *    conversations, rendered as its render_conversation does and cut after max_tokens ids; an assistant's content may be a
 *    list of {"type": "text" | "python" | "python_output", "text"}. completion: the last message, an assistant's, is left
 *    out and <|assistant_start|> follows, as in render_for_completion. prompt.mask is 1 where the assistant speaks.
 *
 * Dates that a request of form 1 does not name are options->date; form 2 shows what it says and nothing else. Of
 * the options only `date` counts here: all else is in the request. options may be NULL. *out is all zero on
 * failure. IE_FORMAT: not such a request, the message names the place as the caller wrote it (messages[2].content);
 * IE_UNSUPPORTED: the format has no such thing; IE_LIMIT: a tool schema nested deeper
 * than 200 levels. Integers beyond 64 bits (signed) are refused. */
ie_status ie_chat_render(const ie_chat_format *format, const ie_tokenizer *tokenizer, const char *request,
                         size_t size, const ie_chat_options *options, ie_chat_prompt *out, ie_error *error);

/* ---- what a model wrote, back to messages ---- */

/* A parser takes ids one by one and never fails on what a model can write: whatever does not follow the format is
 * repaired, and the messages that are affected say `malformed`. The only errors are IE_OUT_OF_MEMORY and wrong
 * use. No id and no text is lost:
 *   - message 0 owns the ids [0, end_id), message i those from the end_id of message i-1 to its own; what
 *     follows the last message is the rest. Markers between messages belong to the message that follows.
 *   - each run of ordinary text is found in a field of a message: text, the header's fields, or `stray`.
 * A message comes with the id that tells what it is: its first text can be shown then. One that was stopped before it
 * said anything comes with the id after it, or with the finish.
 *
 * Formats other than Harmony. An answer is on channel final, reasoning (<think>) on analysis, calls on commentary:
 *   - A call in JSON ({"name", "arguments" or "parameters"}, in <tool_call> for Qwen, alone or behind <|python_tag|> for
 *     Llama) goes to functions.NAME with content_type "json"; its text is the arguments as the model wrote them. It comes
 *     when it is complete. What is no such JSON stays text, malformed where a token had announced a call (where none had,
 *     other members than "type" make it an answer in JSON).
 *   - Code (nanochat's <|python_start|>; Llama's <|python_tag|> otherwise) goes to python with content_type "code", a
 *     built-in tool's NAME.call(...) to NAME. What nanochat's Python printed is a message of role tool, name python.
 *   - Line feeds around reasoning and before a call are markup in Qwen's formats, one space behind a marker is in c2c.
 *   - </think> without <think> (a prompt may have opened it): what was said until there is analysis, malformed; the
 *     channel of its message changes with that id.
 *   - Special tokens count by id. The same characters spelled with other tokens are text. c2c's markers are text. */
typedef struct ie_chat_parser ie_chat_parser;

enum { IE_CHAT_NO_MESSAGE = -1 };

/* What one id did. */
typedef struct ie_chat_event {
  int64_t message; /* index of the message that the id opened, extended or closed, or IE_CHAT_NO_MESSAGE */
  bool opened;     /* its header is now known */
  bool closed;     /* it is now complete */
  const char
      *text; /* (text_size) what this id added to its text: whole UTF-8 characters; borrowed until the */
  size_t text_size; /*   next call. The pieces of a message, in order, are its text. */
} ie_chat_event;

typedef struct ie_chat_parsed {
  ie_chat_message message; /* text is UTF-8, each ill-formed part replaced by U+FFFD */
  const char *stray; /* words of the header that fit nowhere, joined by spaces; NULL where there are none */
  bool closed;       /* false: the message is still open, or was when the stream ended */
  bool malformed;    /* something was repaired */
  size_t first_id;   /* its range of ids starts here, */
  size_t content_id; /* its text starts here (a text found in a header: the header does), */
  size_t content_end_id; /* ends here, */
  size_t end_id;         /* and the range ends here, after the id that closed it */
} ie_chat_parsed;

/* role: whose header the prompt has already opened ("assistant" after a generation prompt), or NULL when the
 * stream begins with the token that starts a message. IE_INVALID_ARGUMENT: an unknown role; IE_UNSUPPORTED: the
 * tokenizer lacks the format's special tokens. The tokenizer must outlive the parser. */
ie_status ie_chat_parser_new(const ie_chat_format *format, const ie_tokenizer *tokenizer, const char *role,
                             ie_chat_parser **out, ie_error *error);
void ie_chat_parser_free(ie_chat_parser *parser);

/* Takes one id. Ids that no token has give U+FFFD. event may be NULL. */
ie_status ie_chat_parser_push(ie_chat_parser *parser, int32_t id, ie_chat_event *event, ie_error *error);
/* Ends the stream: an open message is given what was held back, an open header becomes a message as far as it
 * goes. Further ids are IE_INVALID_ARGUMENT; a second finish does nothing. event may be NULL. */
ie_status ie_chat_parser_finish(ie_chat_parser *parser, ie_chat_event *event, ie_error *error);

/* The messages so far, the open one included. Borrowed until the next push, finish or free. */
size_t ie_chat_parser_count(const ie_chat_parser *parser);
const ie_chat_parsed *ie_chat_parser_at(const ie_chat_parser *parser, size_t i);
/* All ids that were pushed. Borrowed until the next push. */
const ie_ids *ie_chat_parser_ids(const ie_chat_parser *parser);
/* No message and no header is open: the stream ended (or stands) where a message may begin. */
bool ie_chat_parser_complete(const ie_chat_parser *parser);
/* Something did not follow the format. A message that is merely cut off is not malformed; a header is. */
bool ie_chat_parser_malformed(const ie_chat_parser *parser);

/* All at once: a new parser that was pushed all ids and finished. */
ie_status ie_chat_parse(const ie_chat_format *format, const ie_tokenizer *tokenizer, const char *role,
                        const int32_t *ids, size_t count, ie_chat_parser **out, ie_error *error);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
