/* One parser for the formats in which special tokens open and close everything: ChatML, Llama 3, nanochat. A format
 * gives a table of its tokens; the rules are those of clocher/chat.h and these:
 *
 *   - A turn is a run of segments: plain text (a message on channel final where the assistant speaks), reasoning
 *     (analysis), a call of a tool (commentary, to functions.NAME), code for the format's own Python tool
 *     (commentary, to python) and what that answered (role tool).
 *   - Text is streamed; calls are held until they are complete, since only then it is known to whom they go.
 *   - A token that makes no sense where it stands is text by its name.
 *   - In the turns of others than the assistant there are no segments: all is text. */
#ifndef CLOCHER_TEXT_CHAT_TAGGED_H
#define CLOCHER_TEXT_CHAT_TAGGED_H

#include "text/chat_format.h"

typedef enum chat_tag_kind {
  CHAT_TAG_HEADER = 1, /* opens a header: a role as text */
  CHAT_TAG_HEADER_END,
  CHAT_TAG_ROLE, /* opens a turn of a role */
  CHAT_TAG_END,  /* ends a turn */
  CHAT_TAG_STOP, /* the same; between turns it means nothing */
  CHAT_TAG_OPEN, /* a segment */
  CHAT_TAG_CLOSE
} chat_tag_kind;

typedef enum chat_segment {
  CHAT_PLAIN,
  CHAT_THINK,
  CHAT_CALL,   /* a call in JSON */
  CHAT_PYTHON, /* Llama's <|python_tag|>: a call in JSON, NAME.call(...) of a built-in tool, or code */
  CHAT_CODE,
  CHAT_OUTPUT
} chat_segment;

typedef struct chat_tag {
  const char *name;
  chat_tag_kind kind;
  chat_segment segment; /* of OPEN and CLOSE */
  const char *role;     /* of ROLE */
} chat_tag;

enum { CHAT_TAGS_MAX = 16 };

struct chat_grammar {
  const chat_tag *tags; /* ends with a name NULL */
  bool line_header;     /* a header is a line */
  bool trim_lines;      /* line feeds around reasoning and before a call are markup */
  bool json_calls;      /* a turn that is a call in JSON is one, without any token */
  size_t header_lines;  /* line feeds between a header and its text */
};

extern const chat_parser_ops chat_tagged_ops;

#endif
