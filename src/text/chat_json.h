/* JSON as it stands inside prompts, in two forms. Harmony's: compact, keys in their order, text unescaped beyond ASCII, numbers as Rust's
 * serde_json prints them (integers as they are, real numbers shortest with the form of the ryu library: 0.5,
 * 1e-7, 1.5e21, 3.0), since that is what the models' own renderers were written with. */
#ifndef CLOCHER_TEXT_CHAT_JSON_H
#define CLOCHER_TEXT_CHAT_JSON_H

#include "base/buf.h"

#include <jansson.h>

/* Appends the value; out->failed when memory is out. Nesting is that of a parsed text, which jansson bounds. */
void chat_json_write(ie_buf *out, const json_t *value);

/* The same as Python's json.dumps(value, ensure_ascii=False, indent=indent) writes it, which is what the filter
 * tojson of chat templates calls: ", " and ": ", numbers as repr prints them (1e-05, 1e+16); with indent > 0 one item
 * a line. */
void chat_json_write_python(ie_buf *out, const json_t *value, int indent);

#endif
