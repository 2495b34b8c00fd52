/* Runs the program (CLOCHER_BIN, or build/clocher) as a user does, and keeps what it wrote. Failures of the helper
 * itself fail the test. */
#ifndef CLOCHER_TESTS_SUPPORT_PROGRAM_H
#define CLOCHER_TESTS_SUPPORT_PROGRAM_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct program_result {
  int code;        /* exit status, or 128 + the signal that ended it */
  char *out, *err; /* NUL-terminated */
  size_t out_size;
  size_t peak_bytes; /* of memory that was resident at a time */
} program_result;

/* Space between arguments; 'single quotes' keep spaces together, and '' is an empty argument. `%s` and the like are
 * filled in first. stdin is empty. The caller frees the result. */
__attribute__((format(printf, 1, 2))) program_result program_run(const char *format, ...);
/* The same with bytes on stdin. */
__attribute__((format(printf, 3, 4))) program_result program_run_input(const char *input, size_t size,
                                                                       const char *format, ...);
void program_free(program_result *result);

/* Runs it, requires the exit code, and requires that stderr holds `message` (NULL: anything). */
__attribute__((format(printf, 3, 4))) void program_expect(int code, const char *message, const char *format,
                                                          ...);

/* Runs it, requires exit 0 and one JSON object on stdout. The caller's reference. */
__attribute__((format(printf, 1, 2))) json_t *program_json(const char *format, ...);

/* Splits text in place as described above, behind the path of the program; the last one is followed by NULL. */
enum { PROGRAM_ARGS_MAX = 96 };
void program_args(char *text, const char **args);

/* In the background, stdout and stderr to pipes. */
typedef struct program_child {
  pid_t pid;
  int out, err; /* ends to read; -1 once closed */
} program_child;
__attribute__((format(printf, 1, 2))) program_child program_start(const char *format, ...);
/* Reads until `bytes` bytes of stdout came (or its end). */
void program_wait_output(program_child *child, size_t bytes);
/* Reads both to their ends and waits. */
program_result program_end(program_child *child);

#endif
