#include "text/chat_template.h"

#include <string.h>

/* The next character that counts, or 0 at the end; *p moves behind it. */
static char next_char(const char **p, const char *end) {
  while (*p < end) {
    char c = *(*p)++;
    if (c == '\\' && *p < end && **p == 'n') {
      ++*p;
      continue;
    }
    if (c != ' ' && c != '\t' && c != '\r' && c != '\n' && c != '\'' && c != '"' && c != '\\') return c;
  }
  return 0;
}

static bool matches_at(const char *p, const char *end, const char *words) {
  const char *w = words, *words_end = words + strlen(words);
  for (;;) {
    char wanted = next_char(&w, words_end);
    if (!wanted) return true;
    if (next_char(&p, end) != wanted) return false;
  }
}

bool chat_template_has(const char *text, size_t size, const char *words) {
  const char *end = text + size;
  for (const char *p = text; p < end; p++)
    if (matches_at(p, end, words)) return true;
  return false;
}

bool chat_tokens_exist(const ie_tokenizer *tokenizer, const char *const *names) {
  for (; *names; names++)
    if (ie_tokenizer_special_id(tokenizer, *names) < 0) return false;
  return true;
}
