/* Runs the program on a pseudo-terminal, as a user in a terminal does: types keys, and waits for what is shown. Every
 * wait fails the test after a minute, with the screen's last bytes. */
#ifndef CLOCHER_TESTS_SUPPORT_PTY_H
#define CLOCHER_TESTS_SUPPORT_PTY_H

#include <stddef.h>
#include <sys/types.h>

typedef struct pty {
  pid_t pid;
  int fd;
  char *text; /* (size) all that was shown, NUL-terminated */
  size_t size;
  size_t seen; /* pty_wait looks behind this */
} pty;

/* Starts it in a window of so many columns, HOME and XDG folders in `home`, TERM=xterm. Arguments as for program_run. */
__attribute__((format(printf, 3, 4))) pty pty_start(int columns, const char *home, const char *format, ...);
/* Types. */
void pty_type(pty *p, const char *keys);
/* Waits until `text` is shown behind what was waited for before. */
void pty_wait(pty *p, const char *text);
/* Fails when `text` was shown since byte `from`. */
void pty_not_shown(const pty *p, size_t from, const char *text);
/* Waits for the end, and returns the exit status (128 + the signal that ended it). Frees p. */
int pty_end(pty *p);

#endif
