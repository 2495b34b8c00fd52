/* Regular expressions of tokenizers, as Oniguruma and the Rust crates read them, run by PCRE2.
 *
 * A pattern is read construct by construct and rewritten, never passed through: what is written differently or
 * means something else in PCRE2 is translated, what is not known is refused by name. Property classes become those
 * of Unicode 16 whatever PCRE2 knows: its own class plus the code points that came later, or the full list. */
#ifndef CLOCHER_TEXT_PATTERN_H
#define CLOCHER_TEXT_PATTERN_H

#include "base/buf.h"
#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>

struct ie_split_state;
struct ie_range;

/* Appends the pattern in PCRE2's language to *out. rust: written for the Rust crates (tiktoken), else for
 * Oniguruma. IE_UNSUPPORTED names the construct and its place. */
ie_status ie_pattern_translate(const char *pattern, size_t size, bool rust, ie_buf *out, ie_error *error);
/* Translates and compiles, with the JIT where it is there. *out is a pcre2_code for ie_pattern_free. */
ie_status ie_pattern_compile(const char *pattern, size_t size, bool rust, void **out, ie_error *error);
void ie_pattern_free(void *regex);

/* See ie_split_match (text/split.h). */
ie_status ie_pattern_match(const void *regex, struct ie_split_state *state, const char *text, size_t size,
                           size_t from, struct ie_range *out, ie_error *error);
void ie_pattern_state_free(struct ie_split_state *state);

#endif
