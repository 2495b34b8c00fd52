#include "out.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void cli_out_init(void) {
  /* Not writable in the place of stdout: what is written there is lost, and that is an error. */
  for (int fd = 0; fd <= 2; fd++)
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) (void)!open("/dev/null", fd < 2 ? O_RDONLY : O_WRONLY);
  signal(SIGPIPE, SIG_IGN);
}

static bool out_note(cli_context *context, bool ok) {
  if (!ok && !context->exit_on_write_error) context->exit_on_write_error = errno ? errno : EIO;
  return ok && !context->exit_on_write_error;
}

bool cli_out_ok(const cli_context *context) {
  return !context->exit_on_write_error && !ferror(stdout);
}

bool cli_out_write(cli_context *context, const void *bytes, size_t size) {
  errno = 0;
  return out_note(context, fwrite(bytes, 1, size, stdout) == size);
}

bool cli_out_printf(cli_context *context, const char *format, ...) {
  va_list args;
  va_start(args, format);
  errno = 0;
  bool ok = out_note(context, vfprintf(stdout, format, args) >= 0);
  va_end(args);
  return ok;
}

bool cli_out_flush(cli_context *context) {
  errno = 0;
  return out_note(context, fflush(stdout) == 0);
}

/* True when stdout is a pipe or socket that nobody reads: for commands that used stdio and lost errno. */
static bool reader_gone(void) {
  struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
  return poll(&p, 1, 0) == 1 && (p.revents & (POLLERR | POLLHUP));
}

int cli_out_finish(cli_context *context, int code) {
  bool failed_before = ferror(stdout) != 0;
  cli_out_flush(context);
  if (failed_before && !context->exit_on_write_error) context->exit_on_write_error = EIO;
  if (!context->exit_on_write_error) return code;
  if (context->exit_on_write_error == EPIPE || reader_gone()) return code;
  cli_failf(context, "cannot write to standard output: %s", strerror(context->exit_on_write_error));
  return code == CLI_OK ? CLI_FAILED : code;
}

bool cli_bytes_append(ie_bytes *bytes, const void *data, size_t size) {
  size_t need;
  if (__builtin_add_overflow(bytes->size, size, &need) || __builtin_add_overflow(need, (size_t)1, &need))
    return false;
  if (need > bytes->capacity) {
    size_t capacity = bytes->capacity + bytes->capacity / 2;
    if (capacity < need) capacity = need;
    char *grown = realloc(bytes->data, capacity);
    if (!grown) return false;
    bytes->data = grown;
    bytes->capacity = capacity;
  }
  if (size) memcpy(bytes->data + bytes->size, data, size);
  bytes->size += size;
  bytes->data[bytes->size] = '\0';
  return true;
}

static ie_status stream_read(FILE *stream, const char *where, size_t max_bytes, ie_bytes *out,
                             ie_error *error) {
  char *block = malloc(1 << 16);
  if (!block || !cli_bytes_append(out, "", 0)) {
    free(block);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory while reading", where);
  }
  size_t n, total = 0;
  ie_status status = IE_OK;
  /* Not asked again at its end: a terminal would wait for a second Ctrl-D. */
  while (status == IE_OK && !feof(stream) && (n = fread(block, 1, 1 << 16, stream)) > 0) {
    total += n;
    if (total > max_bytes)
      status = ie_error_set(error, IE_LIMIT, "%s: larger than %zu bytes", where, max_bytes);
    else if (!cli_bytes_append(out, block, n))
      status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory after %zu bytes", where, out->size);
  }
  if (status == IE_OK && ferror(stream))
    status = ie_error_set(error, IE_IO, "%s: cannot read: %s", where, strerror(errno));
  free(block);
  return status;
}

bool cli_is_jsonl(const char *path) {
  static const char ending[] = ".jsonl";
  size_t n = path ? strlen(path) : 0, m = strlen(ending);
  return n > m && !strcmp(path + n - m, ending);
}

char *cli_path_join(const char *dir, const char *name) {
  char *path;
  return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

ie_status cli_read(const char *path, size_t max_bytes, ie_bytes *out, ie_error *error) {
  if (!strcmp(path, "-")) return stream_read(stdin, "standard input", max_bytes, out, error);
  FILE *stream = fopen(path, "rbe");
  if (!stream) return ie_error_set(error, IE_IO, "%s: cannot open: %s", path, strerror(errno));
  ie_status status = stream_read(stream, path, max_bytes, out, error);
  fclose(stream);
  return status;
}

int cli_out_file_check(const cli_context *context, const char *flag, const char *path, bool replaced) {
  struct stat info;
  size_t n = strlen(path);
  if (!n) return cli_usage(context, "%s: expected a file, found an empty path", flag);
  bool there = stat(path, &info) == 0;
  if (path[n - 1] == '/' || (there && S_ISDIR(info.st_mode)))
    return cli_usage(context, "%s: expected a file, found the folder %s", flag, path);
  if (there && !S_ISREG(info.st_mode) && !replaced) return -1; /* whoever opens it knows */
  if (there && !S_ISREG(info.st_mode))
    return cli_failf(context, "%s %s: expected a file, found a device, pipe or socket", flag, path);
  if (there && access(path, W_OK) != 0) return cli_failf(context, "%s %s: %s", flag, path, strerror(errno));
  char *copy = there ? realpath(path, NULL) : strdup(path); /* a link is followed when it is written */
  if (!copy) return cli_failf(context, "%s %s: %s", flag, path, strerror(errno));
  const char *folder = dirname(copy);
  int code = -1;
  if (stat(folder, &info) != 0)
    code = cli_failf(context, "%s %s: the folder %s: %s", flag, path, folder, strerror(errno));
  else if (!S_ISDIR(info.st_mode))
    code = cli_failf(context, "%s %s: %s is not a folder", flag, path, folder);
  else if (access(folder, W_OK | X_OK) != 0)
    code =
        cli_failf(context, "%s %s: the folder %s cannot be written: %s", flag, path, folder, strerror(errno));
  free(copy);
  return code;
}

int cli_out_folder_check(const cli_context *context, const char *flag, const char *path) {
  struct stat info;
  if (stat(path, &info) != 0 || S_ISDIR(info.st_mode)) return -1;
  return cli_usage(context, "%s %s: expected a folder, found a file", flag, path);
}
