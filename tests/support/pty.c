#include "support/pty.h"

#include "support/program.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

pty pty_start(int columns, const char *home, const char *format, ...) {
  va_list values;
  va_start(values, format);
  char *text;
  const char *args[PROGRAM_ARGS_MAX + 1];
  assert_true(vasprintf(&text, format, values) >= 0);
  va_end(values);
  program_args(text, args);
  pty p = {0};
  struct winsize size = {.ws_row = 24, .ws_col = (unsigned short)columns};
  p.pid = forkpty(&p.fd, NULL, NULL, &size);
  assert_true(p.pid >= 0);
  if (p.pid == 0) {
    setenv("HOME", home, 1);
    setenv("TERM", "xterm", 1);
    unsetenv("XDG_STATE_HOME");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("NO_COLOR");
    execv(args[0], (char *const *)(uintptr_t)args);
    _exit(127);
  }
  free(text);
  p.text = calloc(1, 1);
  assert_non_null(p.text);
  return p;
}

void pty_type(pty *p, const char *keys) {
  size_t n = strlen(keys);
  assert_int_equal(write(p->fd, keys, n), n);
}

/* Reads what is there within a minute; false at the end. */
static bool more_read(pty *p) {
  struct pollfd ready = {.fd = p->fd, .events = POLLIN};
  if (poll(&ready, 1, 60000) <= 0)
    fail_msg("nothing came for a minute; the last of %zu bytes: '%s'", p->size,
             p->text + (p->size > 600 ? p->size - 600 : 0));
  p->text = realloc(p->text, p->size + 65537);
  assert_non_null(p->text);
  ssize_t n = read(p->fd, p->text + p->size, 65536);
  if (n > 0) p->size += (size_t)n;
  p->text[p->size] = '\0';
  return n > 0;
}

void pty_wait(pty *p, const char *text) {
  const char *at;
  while (!(at = memmem(p->text + p->seen, p->size - p->seen, text, strlen(text))))
    if (!more_read(p))
      fail_msg("the program ended, expected '%s'; shown: '%s'", text,
               p->text + (p->size > 600 ? p->size - 600 : 0));
  p->seen = (size_t)(at - p->text) + strlen(text);
}

void pty_not_shown(const pty *p, size_t from, const char *text) {
  if (memmem(p->text + from, p->size - from, text, strlen(text)))
    fail_msg("'%s' was shown: '%s'", text, p->text + from);
}

int pty_end(pty *p) {
  int status;
  while (more_read(p)) {
  }
  assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
  close(p->fd);
  free(p->text);
  *p = (pty){0};
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
