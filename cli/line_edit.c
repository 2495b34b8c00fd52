#include "line_edit.h"

#include "out.h"

#ifdef CLOCHER_WITH_EDIT

#include <histedit.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

enum { HISTORY_LINES = 1000 };

struct line_edit {
  EditLine *el;
  History *history;
  FILE *prompts;
  int32_t (*key)(void *arg);
  void *arg;
  const char *const *words;
  const char *prompt; /* of the read under way */
  const char *typed;  /* (typed_count) ASCII keys that come before those of the owner */
  size_t typed_count;
  bool pastes; /* the terminal is told to mark what is pasted */
};

static line_edit *owner(EditLine *el) {
  line_edit *edit = NULL;
  el_get(el, EL_CLIENTDATA, &edit);
  return edit;
}

static char *prompt_get(EditLine *el) {
  return (char *)(uintptr_t)owner(el)->prompt;
}

/* What Tab adds to the line: the rest of a command of the list, as far as there is no choice. False: the line is not the
 * beginning of one. (No function of the editor's own: libedit never frees what EL_ADDFN copies.) */
static bool line_complete(line_edit *edit) {
  const LineInfo *line = el_line(edit->el);
  size_t n = (size_t)(line->cursor - line->buffer), common = 0;
  const char *found = NULL;
  for (size_t i = 0; edit->words && n > 0 && edit->words[i]; i++) {
    const char *word = edit->words[i];
    if (strncmp(word, line->buffer, n) != 0) continue;
    if (!found) common = strlen(word);
    for (size_t k = n; found && k < common; k++)
      if (found[k] != word[k]) common = k;
    found = word;
  }
  if (found) {
    edit->typed = found + n;
    edit->typed_count = common > n ? common - n : 0;
  }
  return found != NULL;
}

static int key_get(EditLine *el, wchar_t *out) {
  line_edit *edit = owner(el);
  int32_t key;
  do {
    if (edit->typed_count > 0) {
      edit->typed_count--;
      *out = (wchar_t)*edit->typed++;
      return 1;
    }
    key = edit->key(edit->arg);
  } while (key == '\t' && line_complete(edit));
  if (key < 0) return key == LINE_KEY_END ? 0 : -1;
  *out = (wchar_t)key;
  return 1;
}

line_edit *line_edit_open(FILE *prompts, int32_t (*key)(void *arg), void *arg, const char *const *words) {
  line_edit *edit = calloc(1, sizeof *edit);
  HistEvent event;
  const char *terminal = NULL;
  if (!edit) return NULL;
  *edit = (line_edit){.prompts = prompts, .key = key, .arg = arg, .words = words, .prompt = ""};
  /* The terminal is taken to speak UTF-8, as the texts of models do; libedit converts by the locale. */
  setlocale(LC_CTYPE, "C.UTF-8");
  edit->history = history_init();
  edit->el = edit->history ? el_init("clocher", stdin, prompts, stderr) : NULL;
  if (!edit->el) {
    line_edit_close(edit);
    return NULL;
  }
  history(edit->history, &event, H_SETSIZE, HISTORY_LINES);
  history(edit->history, &event, H_SETUNIQUE, 1);
  el_set(edit->el, EL_CLIENTDATA, edit);
  el_set(edit->el, EL_PROMPT, prompt_get);
  el_set(edit->el, EL_EDITOR, "emacs");
  el_set(edit->el, EL_HIST, history, edit->history);
  el_set(edit->el, EL_GETCFN, key_get);
  /* Both line ends come as they are: \r\n in a pasted text is one; also between two lines, when libedit leaves its mode
   * for a moment (-x). */
  el_set(edit->el, EL_SETTY, "-d", "-inlcr", "-icrnl", NULL);
  el_set(edit->el, EL_SETTY, "-x", "-inlcr", "-icrnl", NULL);
  el_set(edit->el, EL_BIND, "^I", "ed-insert", NULL);
  el_set(edit->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
  el_source(edit->el, NULL); /* the user's ~/.editrc */
  el_get(edit->el, EL_TERMINAL, &terminal);
  edit->pastes = terminal && strcmp(terminal, "dumb") != 0;
  return edit;
}

void line_edit_close(line_edit *edit) {
  if (!edit) return;
  if (edit->el) el_end(edit->el);
  if (edit->history) history_end(edit->history);
  free(edit);
}

bool line_edit_read(line_edit *edit, const char *prompt, ie_bytes *line) {
  int count = 0;
  edit->prompt = prompt;
  if (edit->pastes) fputs("\033[?2004h", edit->prompts);
  fflush(edit->prompts);
  const char *text = el_gets(edit->el, &count);
  if (edit->pastes) fputs("\033[?2004l", edit->prompts);
  fflush(edit->prompts);
  if (!text || count <= 0) return false;
  size_t n = strlen(text);
  if (n > 0 && text[n - 1] == '\n') n--;
  return cli_bytes_append(line, text, n);
}

void line_edit_remember(line_edit *edit, const char *line) {
  HistEvent event;
  if (edit) history(edit->history, &event, H_ENTER, line);
}

void line_edit_refresh(line_edit *edit, cli_signal_news news) {
  if (news.continued) {
    el_set(edit->el, EL_PREP_TERM, 1);
    fputc('\r', edit->prompts); /* the cursor may stand where it stood, or behind what a shell wrote */
  }
  if (news.resized) el_resize(edit->el);
  if (news.continued || news.resized) el_set(edit->el, EL_REFRESH);
}

#else

line_edit *line_edit_open(FILE *prompts, int32_t (*key)(void *arg), void *arg, const char *const *words) {
  (void)prompts;
  (void)key;
  (void)arg;
  (void)words;
  return NULL;
}

void line_edit_close(line_edit *edit) {
  (void)edit;
}

bool line_edit_read(line_edit *edit, const char *prompt, ie_bytes *line) {
  (void)edit;
  (void)prompt;
  (void)line;
  return false;
}

void line_edit_remember(line_edit *edit, const char *line) {
  (void)edit;
  (void)line;
}

void line_edit_refresh(line_edit *edit, cli_signal_news news) {
  (void)edit;
  (void)news;
}

#endif
