/* Walking over JSON text without building it: for the two parts of a tokenizer.json that are 99% of it, the
 * vocabulary and the merges. Building those with a JSON library costs most of the time and memory of opening one.
 *
 * A walk borrows its text; the string that was read last lies in the text, or in the walk's own buffer when it has
 * escapes. The first failure stays in *error and the function returns it. */
#ifndef CLOCHER_TEXT_JSON_WALK_H
#define CLOCHER_TEXT_JSON_WALK_H

#include "base/buf.h"
#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ie_json_walk {
  const char *p; /* (size) */
  size_t size, at;
  const char *where;  /* for messages */
  const char *string; /* (string_size) what was read last; not terminated */
  size_t string_size;
  ie_buf buffer; /* owned: ie_json_walk_free */
  ie_error *error;
} ie_json_walk;

void ie_json_walk_free(ie_json_walk *walk);

/* The character of the next token, which is not taken; 0 at the end. */
char ie_json_walk_peek(ie_json_walk *walk);
/* Takes one punctuation character. */
ie_status ie_json_walk_take(ie_json_walk *walk, char c);
/* Takes `,`, or the closing character of a list: *more says which. */
ie_status ie_json_walk_next(ie_json_walk *walk, char close, bool *more);
/* Reads a string of valid UTF-8. */
ie_status ie_json_walk_string(ie_json_walk *walk);
/* Reads an integer; one beyond 18 digits is refused. */
ie_status ie_json_walk_int(ie_json_walk *walk, int64_t *out);
/* Goes over any value. Only strings and brackets are looked at: what is skipped is not checked. */
ie_status ie_json_walk_skip(ie_json_walk *walk);

#endif
