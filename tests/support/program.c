#include "support/program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const char *program_path(void) {
  const char *path = getenv("CLOCHER_BIN");
  return path && *path ? path : "build/clocher";
}

void program_args(char *text, const char **args) {
  int n = 0;
  args[n++] = program_path();
  for (char *at = text; *at;) {
    while (*at == ' ') at++;
    if (!*at) break;
    assert_true(n < PROGRAM_ARGS_MAX);
    if (*at == '\'') {
      args[n++] = ++at;
      at += strcspn(at, "'");
    } else {
      args[n++] = at;
      at += strcspn(at, " ");
    }
    if (*at) *at++ = '\0';
  }
  args[n] = NULL;
}

static program_child child_start(int in, const char *format, va_list values) {
  int out[2], err[2];
  char *text;
  const char *args[PROGRAM_ARGS_MAX + 1];
  assert_true(vasprintf(&text, format, values) >= 0);
  program_args(text, args);
  assert_int_equal(pipe2(out, O_CLOEXEC), 0);
  assert_int_equal(pipe2(err, O_CLOEXEC), 0);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    if (dup2(in, 0) < 0 || dup2(out[1], 1) < 0 || dup2(err[1], 2) < 0) _exit(127);
    execv(args[0], (char *const *)(uintptr_t)args);
    _exit(127);
  }
  close(out[1]);
  close(err[1]);
  free(text);
  return (program_child){pid, out[0], err[0]};
}

program_child program_start(const char *format, ...) {
  va_list values;
  va_start(values, format);
  int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
  program_child child = child_start(in, format, values);
  close(in);
  va_end(values);
  return child;
}

void program_wait_output(program_child *child, size_t bytes) {
  char c;
  while (bytes-- > 0 && read(child->out, &c, 1) == 1) {
  }
}

typedef struct stream {
  int fd;
  char *data;
  size_t size;
} stream;

/* False at its end. */
static bool stream_read(stream *s) {
  s->data = realloc(s->data, s->size + 65537);
  assert_non_null(s->data);
  ssize_t n = s->fd < 0 ? 0 : read(s->fd, s->data + s->size, 65536);
  if (n > 0) s->size += (size_t)n;
  s->data[s->size] = '\0';
  if (n <= 0 && s->fd >= 0) {
    close(s->fd);
    s->fd = -1;
  }
  return n > 0;
}

program_result program_end(program_child *child) {
  stream out = {.fd = child->out}, err = {.fd = child->err};
  int status;
  while (out.fd >= 0 || err.fd >= 0) {
    struct pollfd p[2] = {{.fd = out.fd, .events = POLLIN}, {.fd = err.fd, .events = POLLIN}};
    assert_true(poll(p, 2, 120000) > 0);
    if (p[0].revents) stream_read(&out);
    if (p[1].revents) stream_read(&err);
  }
  stream_read(&out);
  stream_read(&err);
  struct rusage usage;
  assert_int_equal(wait4(child->pid, &status, 0, &usage), child->pid);
  int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  *child = (program_child){0, -1, -1};
  return (program_result){code, out.data, err.data, out.size, (size_t)usage.ru_maxrss << 10};
}

static program_result run_values(const char *input, size_t size, const char *format, va_list values) {
  FILE *in = tmpfile();
  assert_non_null(in);
  assert_true(fwrite(input, 1, size, in) == size);
  rewind(in);
  program_child child = child_start(fileno(in), format, values);
  fclose(in);
  return program_end(&child);
}

program_result program_run(const char *format, ...) {
  va_list values;
  va_start(values, format);
  program_result r = run_values("", 0, format, values);
  va_end(values);
  return r;
}

program_result program_run_input(const char *input, size_t size, const char *format, ...) {
  va_list values;
  va_start(values, format);
  program_result r = run_values(input, size, format, values);
  va_end(values);
  return r;
}

void program_free(program_result *r) {
  free(r->out);
  free(r->err);
  *r = (program_result){0};
}

void program_expect(int code, const char *message, const char *format, ...) {
  va_list values;
  va_start(values, format);
  program_result r = run_values("", 0, format, values);
  va_end(values);
  if (r.code != code || (message && !strstr(r.err, message)))
    fail_msg("'%s': exit %d, expected %d with '%s'; stderr: %s", format, r.code, code, message ? message : "",
             r.err);
  program_free(&r);
}

json_t *program_json(const char *format, ...) {
  va_list values;
  va_start(values, format);
  program_result r = run_values("", 0, format, values);
  va_end(values);
  json_t *value = json_loads(r.out, JSON_REJECT_DUPLICATES, NULL);
  if (r.code != 0 || !json_is_object(value) || !r.out_size || r.out[r.out_size - 1] != '\n')
    fail_msg("'%s': exit %d, stdout '%.200s', stderr '%s'", format, r.code, r.out, r.err);
  program_free(&r);
  return value;
}
