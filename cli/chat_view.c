#include "chat_view.h"

#include "out.h"

#include <string.h>

#define DIM_ON  "\033[2m"
#define DIM_OFF "\033[0m"

bool chat_view_clean(ie_bytes *out, const char *text, size_t size) {
  bool ok = true;
  for (size_t i = 0; ok && i < size; i++) {
    unsigned char c = (unsigned char)text[i], next = i + 1 < size ? (unsigned char)text[i + 1] : 0;
    if (c == '\r') continue; /* it would write over the line */
    if (c == 0xC2 && next >= 0x80 && next < 0xA0) {
      /* U+0080 to U+009F: the 8-bit forms of escape sequences */
      char shown[16];
      int n = snprintf(shown, sizeof shown, "<U+00%02X>", next);
      ok = cli_bytes_append(out, shown, (size_t)n);
      i++;
    } else if ((c < 32 && c != '\n' && c != '\t') || c == 127) {
      char shown[2] = {'^', (char)(c ^ 64)};
      ok = cli_bytes_append(out, shown, 2);
    } else {
      ok = cli_bytes_append(out, &text[i], 1);
    }
  }
  return ok;
}

static void text_write(chat_view *view, const char *text, size_t size) {
  ie_bytes clean = {0};
  if (size == 0) return;
  if (view->waiting) cli_progress_clear(&view->progress);
  view->waiting = false;
  if (view->context->env.out_terminal) {
    if (chat_view_clean(&clean, text, size)) {
      text = clean.data;
      size = clean.size;
    } else {
      size = 0; /* memory is out: rather nothing than raw bytes */
    }
  }
  if (size > 0) {
    cli_out_write(view->context, text, size);
    view->line_begun = text[size - 1] != '\n';
  }
  ie_bytes_free(&clean);
}

static void line_end(chat_view *view) {
  if (view->line_begun) cli_out_write(view->context, "\n", 1);
  view->line_begun = false;
}

/* Sequences of our own, past the cleaning. */
static void dim(chat_view *view, const char *sequence) {
  if (view->context->env.out_color) cli_out_write(view->context, sequence, strlen(sequence));
}

static void marker(chat_view *view, const char *text) {
  line_end(view);
  text_write(view, text, strlen(text));
}

static void part_open(chat_view *view, const ie_chat_message *m) {
  if (view->part == CHAT_PART_THOUGHT && view->show_thinking) {
    if (view->context->env.out_color) {
      cli_progress_clear(&view->progress);
      dim(view, DIM_ON);
    } else if (!view->marked) {
      marker(view, "[thinking]\n");
      view->marked = true;
    }
  } else if (view->part == CHAT_PART_THOUGHT && view->waiting) {
    cli_progress_clear(&view->progress);
    cli_progress_start(&view->progress, view->context, "thinking", /*total=*/0, "tok");
  } else if (view->marked) {
    marker(view, "[answer]\n");
    view->marked = false;
  }
  if (view->part == CHAT_PART_CALL) {
    line_end(view);
    text_write(view, "calls ", 6);
    text_write(view, m->recipient, strlen(m->recipient));
    text_write(view, "(", 1);
  }
}

static void part_close(chat_view *view) {
  if (view->part == CHAT_PART_THOUGHT && view->show_thinking) dim(view, DIM_OFF);
  if (view->part == CHAT_PART_CALL) text_write(view, ")\n", 2);
  if (view->part == CHAT_PART_THOUGHT && view->show_thinking) line_end(view);
  view->part = CHAT_PART_NONE;
  view->message = IE_CHAT_NO_MESSAGE;
}

static chat_part part_of(const ie_chat_message *m) {
  if (m->recipient) return CHAT_PART_CALL;
  return m->channel && !strcmp(m->channel, "analysis") ? CHAT_PART_THOUGHT : CHAT_PART_TEXT;
}

void chat_view_begin(chat_view *view, cli_context *context, bool show_thinking, int64_t prompt_tok) {
  *view = (chat_view){
      .context = context, .show_thinking = show_thinking, .message = IE_CHAT_NO_MESSAGE, .waiting = true};
  cli_progress_start(&view->progress, context, "prompt", (uint64_t)prompt_tok, "tok");
}

void chat_view_prompt(chat_view *view, int64_t done_tok) {
  if (view->waiting && view->tokens == 0) cli_progress_set(&view->progress, (uint64_t)done_tok);
}

bool chat_view_event(chat_view *view, const ie_chat_parser *parser, const ie_chat_event *event) {
  const ie_chat_message *m = &ie_chat_parser_at(parser, (size_t)event->message)->message;
  view->tokens++;
  if (event->message != view->message) {
    part_close(view);
    /* Messages that are shown one after the other begin on lines of their own. */
    line_end(view);
    view->message = event->message;
    view->part = part_of(m);
    part_open(view, m);
  }
  if (view->part != CHAT_PART_THOUGHT || view->show_thinking)
    text_write(view, event->text, event->text_size);
  else if (view->waiting)
    cli_progress_set(&view->progress, (uint64_t)view->tokens);
  if (event->closed) part_close(view);
  return cli_out_flush(view->context);
}

void chat_view_end(chat_view *view) {
  cli_progress_clear(&view->progress);
  part_close(view);
  line_end(view);
  cli_out_flush(view->context);
}
