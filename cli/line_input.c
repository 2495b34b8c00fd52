#include "line_input.h"

#include "line_edit.h"
#include "out.h"
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  LINE_MAX_BYTES = 64 << 20,
  HISTORY_KEEP = 1000, /* lines that are read, and kept when the file has twice as many */
  ESCAPE_MS = 50       /* the bytes of one key come within this time */
};

struct line_input {
  line_options options;
  line_edit *edit; /* NULL: plain lines */
  unsigned char bytes[4096];
  size_t begin, end; /* those that were read and not used */
  bool ended, interrupted;
  bool pasting;    /* between the terminal's marks of pasted text */
  bool more;       /* the line under way is not the last of its text */
  int read_errno;  /* why reading failed */
  bool complained; /* of the history file: once is enough */
};

/* --- Bytes and keys ------------------------------------------------------------------------------------------- */

/* Waits for bytes; false at the end, at an interrupt, or when the time is over (-1: never). */
static bool bytes_wait(line_input *in, int timeout_ms) {
  while (!in->ended && !in->interrupted) {
    struct pollfd p[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = in->options.wake, .events = POLLIN}};
    int ready = poll(p, 2, timeout_ms);
    if (ready < 0 && errno != EINTR) {
      in->read_errno = errno;
      in->ended = true;
    }
    if (in->options.wake >= 0 && (ready < 0 || p[1].revents)) {
      cli_signal_news news = cli_signals_take();
      in->interrupted = news.interrupts > 0;
      if (in->edit) line_edit_refresh(in->edit, news);
      continue;
    }
    if (in->options.wake < 0) in->interrupted = cli_interrupted();
    if (ready == 0) return false;
    if (ready > 0 && p[0].revents && !in->interrupted) return true;
  }
  return false;
}

/* Whether byte i behind the next one is there, or comes within the time. */
static bool byte_there(line_input *in, size_t i, int timeout_ms) {
  while (in->end - in->begin <= i) {
    if (in->begin == in->end) in->begin = in->end = 0;
    if (in->end == sizeof in->bytes) {
      memmove(in->bytes, in->bytes + in->begin, in->end - in->begin);
      in->end -= in->begin;
      in->begin = 0;
    }
    if (!bytes_wait(in, timeout_ms)) return false;
    ssize_t n = read(STDIN_FILENO, in->bytes + in->end, sizeof in->bytes - in->end);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    /* EIO: the terminal went away, which is an end like any other. */
    if (n < 0 && errno != EIO) in->read_errno = errno;
    if (n <= 0) in->ended = true;
    if (n > 0) in->end += (size_t)n;
  }
  return true;
}

/* The next byte, or LINE_KEY_... . */
static int byte_next(line_input *in) {
  if (byte_there(in, 0, /*timeout_ms=*/-1)) return in->bytes[in->begin++];
  return in->interrupted ? LINE_KEY_INTERRUPTED : LINE_KEY_END;
}

/* Takes `text` when it is what comes next. */
static bool bytes_take(line_input *in, const char *text) {
  size_t n = strlen(text);
  for (size_t i = 0; i < n; i++)
    if (!byte_there(in, i, ESCAPE_MS) || in->bytes[in->begin + i] != (unsigned char)text[i]) return false;
  in->begin += n;
  return true;
}

/* The character that begins with `lead`; U+FFFD for what is no UTF-8. */
static int32_t character_finish(line_input *in, int lead) {
  int extra = lead >= 0xF0 && lead < 0xF5 ? 3 : lead >= 0xE0 && lead < 0xF0 ? 2 : lead >= 0xC2 && lead < 0xE0;
  if (extra == 0) return 0xFFFD;
  int32_t c = lead & (0x3F >> extra);
  for (int i = 0; i < extra; i++) {
    if (!byte_there(in, 0, ESCAPE_MS) || (in->bytes[in->begin] & 0xC0) != 0x80) return 0xFFFD;
    c = c << 6 | (in->bytes[in->begin++] & 0x3F);
  }
  static const int32_t least[] = {0, 0x80, 0x800, 0x10000};
  return c < least[extra] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000) ? 0xFFFD : c;
}

/* A key for the editor: Alt-Enter and line ends within pasted text end a line that goes on; other control characters
 * within pasted text are no keys and are dropped. */
static int32_t key_next(void *arg) {
  line_input *in = arg;
  for (;;) {
    int b = byte_next(in);
    if (b < 0) return b;
    /* Ctrl-D that was typed while an answer ran, before the editor took the terminal, comes as NUL. */
    if (b == 0 && !in->pasting) return 4;
    if (b == 27 && bytes_take(in, "[200~")) {
      in->pasting = true;
    } else if (b == 27 && bytes_take(in, "[201~")) {
      in->pasting = false;
    } else if (b == 27 && !in->pasting && (bytes_take(in, "\r") || bytes_take(in, "\n"))) {
      in->more = true;
      return '\n';
    } else if (in->pasting && (b == '\r' || b == '\n')) {
      /* A line of a text from Windows ends in both. */
      if (b == '\r' && byte_there(in, 0, ESCAPE_MS) && in->bytes[in->begin] == '\n') in->begin++;
      in->more = true;
      return '\n';
    } else if (b >= 0x80) {
      return character_finish(in, b);
    } else if (!in->pasting || (b >= 32 && b != 127) || b == '\t') {
      return b;
    }
  }
}

/* --- The history file ----------------------------------------------------------------------------------------- */

static void history_complain(line_input *in, const char *what) {
  if (!in->complained)
    cli_log(in->options.context, "clocher: history %s: cannot %s: %s", in->options.history, what,
            strerror(errno));
  in->complained = true;
}

/* mkdir -p of the folder that holds the file, for its owner alone. */
static bool folder_make(const char *path) {
  char *copy = strdup(path);
  bool ok = copy != NULL;
  for (char *at = copy; ok && (at = strchr(at + 1, '/'));) {
    *at = '\0';
    ok = mkdir(copy, 0700) == 0 || errno == EEXIST;
    *at = '/';
  }
  free(copy);
  return ok;
}

static int history_open(line_input *in, int flags) {
  const char *path = in->options.history;
  int fd = open(path, flags | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
  if (fd < 0 && errno == ENOENT && folder_make(path)) fd = open(path, flags | O_CREAT | O_CLOEXEC, 0600);
  struct stat info;
  if (fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && (info.st_mode & 077))
    (void)!fchmod(fd, info.st_mode & 0700);
  return fd;
}

static bool all_write(int fd, const char *bytes, size_t size) {
  while (size > 0) {
    ssize_t n = write(fd, bytes, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes += n;
    size -= (size_t)n;
  }
  return true;
}

/* One write with O_APPEND, so that lines of several programs do not mix. */
static void history_append(line_input *in, const ie_bytes *line) {
  ie_bytes text = {0};
  if (!cli_bytes_append(&text, line->data, line->size) || !cli_bytes_append(&text, "\n", 1)) {
    ie_bytes_free(&text);
    return;
  }
  int fd = history_open(in, O_WRONLY | O_APPEND);
  if (fd < 0 || !all_write(fd, text.data, text.size)) history_complain(in, "write");
  if (fd >= 0) close(fd);
  ie_bytes_free(&text);
}

/* Puts the last `size` bytes in the place of the file. */
static void history_shorten(line_input *in, const char *bytes, size_t size) {
  char *path = NULL;
  if (asprintf(&path, "%s.%ld", in->options.history, (long)getpid()) < 0) return;
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  bool ok = fd >= 0 && all_write(fd, bytes, size);
  if (fd >= 0) ok = close(fd) == 0 && ok;
  if (!ok || rename(path, in->options.history) != 0) unlink(path);
  free(path);
}

/* Reads the newest lines; a file that has grown to twice of them is cut. */
static void history_read(line_input *in) {
  ie_bytes all = {0};
  ie_error error;
  if (access(in->options.history, F_OK) != 0) return;
  if (cli_read(in->options.history, LINE_MAX_BYTES, &all, &error) != IE_OK) {
    cli_log(in->options.context, "clocher: history %s", error.message);
    in->complained = true;
  }
  size_t lines = 0, begin = all.size;
  while (begin > 0 && (all.data[begin - 1] != '\n' || lines++ < HISTORY_KEEP)) begin--;
  size_t more = 0;
  for (size_t i = 0; i < begin; i++) more += all.data[i] == '\n';
  if (more >= HISTORY_KEEP) history_shorten(in, all.data + begin, all.size - begin);
  ie_bytes clean = {0};
  for (size_t at = begin; at < all.size;) {
    const char *end = memchr(all.data + at, '\n', all.size - at);
    size_t n = end ? (size_t)(end - all.data) - at : all.size - at;
    clean.size = 0;
    if (n > 0 && cli_utf8_append(&clean, all.data + at, n) && clean.size == strlen(clean.data))
      line_edit_remember(in->edit, clean.data);
    at += n + 1;
  }
  ie_bytes_free(&clean);
  ie_bytes_free(&all);
}

/* --- Lines ---------------------------------------------------------------------------------------------------- */

ie_status line_input_open(const line_options *options, line_input **out, ie_error *error) {
  line_input *in = *out = calloc(1, sizeof *in);
  if (!in) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory");
  in->options = *options;
  if (options->prompts) in->edit = line_edit_open(options->prompts, key_next, in, options->words);
  if (in->edit && options->history) history_read(in);
  return IE_OK;
}

void line_input_close(line_input *in) {
  if (in) line_edit_close(in->edit);
  free(in);
}

bool line_input_edits(const line_input *in) {
  return in->edit != NULL;
}

/* As it comes, to its end; false at the end of the input, and at an interrupt. */
static bool plain_read(line_input *in, const char *prompt, ie_bytes *line, ie_error *error) {
  if (in->options.prompts) {
    fputs(prompt, in->options.prompts);
    fflush(in->options.prompts);
  }
  ie_bytes raw = {0};
  int b = 0;
  bool ok = true;
  while (ok && (b = byte_next(in)) >= 0 && b != '\n') {
    char c = (char)b;
    ok = raw.size < LINE_MAX_BYTES && cli_bytes_append(&raw, &c, 1);
  }
  if (ok && raw.size > 0 && raw.data[raw.size - 1] == '\r') raw.size--;
  ok = ok && cli_utf8_append(line, raw.data, raw.size);
  if (!ok) ie_error_set(error, IE_LIMIT, "a line of more than %d bytes, or out of memory", LINE_MAX_BYTES);
  bool got = raw.size > 0 || b == '\n';
  ie_bytes_free(&raw);
  return ok && got && !in->interrupted;
}

line_result line_input_read(line_input *in, const char *prompt, ie_bytes *line, bool *more, ie_error *error) {
  line->size = 0;
  *error = (ie_error){0};
  in->interrupted = in->more = false;
  if (in->options.prompts) in->ended = false; /* Ctrl-D on a terminal ends one line */
  bool got = cli_bytes_append(line, "", 0) &&
             (in->edit ? line_edit_read(in->edit, prompt, line) : plain_read(in, prompt, line, error));
  *more = got && in->more;
  if (in->interrupted) return LINE_INTERRUPTED;
  if (error->status == IE_OK && in->read_errno)
    ie_error_set(error, IE_IO, "standard input: cannot read: %s", strerror(in->read_errno));
  if (error->status != IE_OK) return LINE_FAILED;
  if (!got) return LINE_END;
  if (in->options.prompts && line->size > 0) {
    line_edit_remember(in->edit, line->data);
    if (in->options.history) history_append(in, line);
  }
  return LINE_OK;
}
