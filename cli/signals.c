#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

/* Touched by handlers, therefore lock-free atomics of this file alone. */
static atomic_int interrupts;
static atomic_int stopped_by; /* the signal that set the flag, 0: none */
static atomic_bool polled, collecting, resized, continued;
static atomic_int news_write = -1, news_read = -1; /* a pipe: a handler wakes up who waits in poll() */

/* The terminal as it was found, for who ends the program while a line is edited. Written before the handler that reads
 * them is installed. */
static struct termios terminal_found;
static int terminal_prompts = -1; /* where sequences of ours went, or -1 */

static void interrupt_handle(int sig) {
  if (atomic_load(&collecting)) {
    atomic_fetch_add(&interrupts, 1);
    int kept = errno;
    (void)!write(atomic_load(&news_write), "", 1);
    errno = kept;
    return;
  }
  if (atomic_load(&polled) && atomic_fetch_add(&interrupts, 1) == 0) {
    atomic_store(&stopped_by, sig);
    return;
  }
  _exit(128 + sig);
}

static void terminal_handle(int sig) {
  atomic_store(sig == SIGCONT ? &continued : &resized, true);
  int kept = errno;
  (void)!write(atomic_load(&news_write), "", 1);
  errno = kept;
}

/* The end, by a signal: gives the terminal back, if it is ours, and dies of that signal. Calls nothing but
 * async-signal-safe functions. */
static void end_handle(int sig) {
  if (tcgetpgrp(STDIN_FILENO) == getpgrp()) {
    static const char plain[] = "\033[?2004l\033[0m\r\n"; /* no marks around what is pasted, no dim text */
    if (terminal_prompts >= 0) (void)!write(terminal_prompts, plain, sizeof plain - 1);
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal_found);
  }
  signal(sig, SIG_DFL);
  raise(sig); /* blocked until this handler returns */
}

/* A signal that nohup or a script has told to be ignored stays ignored. */
static void handler_install(int sig, const struct sigaction *action) {
  struct sigaction old;
  if (sigaction(sig, NULL, &old) == 0 && old.sa_handler != SIG_IGN) sigaction(sig, action, NULL);
}

/* Reads lower-case hexadecimal digits. */
static const char *hex_read(const char *s, uintptr_t *out) {
  uintptr_t value = 0;
  for (;; s++) {
    if (*s >= '0' && *s <= '9')
      value = value * 16 + (uintptr_t)(*s - '0');
    else if (*s >= 'a' && *s <= 'f')
      value = value * 16 + (uintptr_t)(*s - 'a' + 10);
    else
      break;
  }
  *out = value;
  return s;
}

/* The file of a line "start-end perms offset dev inode   /path" that holds the address, or NULL. */
static const char *line_file(const char *line, uintptr_t address) {
  uintptr_t start, end;
  const char *s = hex_read(line, &start);
  if (*s != '-') return NULL;
  s = hex_read(s + 1, &end);
  if (address < start || address >= end) return NULL;
  return strchr(s, '/');
}

static void text_write(const char *text, size_t size) {
  while (size > 0) {
    ssize_t n = write(STDERR_FILENO, text, size);
    if (n <= 0) return;
    text += n;
    size -= (size_t)n;
  }
}

/* Looks the address up in /proc/self/maps with nothing but open and read, which are async-signal-safe. */
static void bus_handle(int sig, siginfo_t *info, void *machine) {
  (void)machine;
  static char line[4352]; /* PATH_MAX and the numbers in front */
  static atomic_flag taken = ATOMIC_FLAG_INIT;
  while (atomic_flag_test_and_set(&taken))
    pause(); /* several threads read the file: the first one ends the program */
  static const char before[] = "clocher: ", after[] = ": the file was truncated while in use\n";
  size_t used = 0;
  int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  char c;
  while (fd >= 0 && read(fd, &c, 1) == 1) {
    if (c != '\n') {
      if (used + 1 < sizeof line) line[used++] = c;
      continue;
    }
    line[used] = '\0';
    used = 0;
    const char *file = line_file(line, (uintptr_t)info->si_addr);
    if (!file) continue;
    text_write(before, sizeof before - 1);
    text_write(file, strlen(file));
    text_write(after, sizeof after - 1);
    _exit(1);
  }
  signal(sig, SIG_DFL); /* not a file: fault again, for the core dump */
}

static void interrupt_install(int sig) {
  struct sigaction interrupt = {.sa_handler = interrupt_handle, .sa_flags = SA_RESTART};
  sigemptyset(&interrupt.sa_mask);
  handler_install(sig, &interrupt);
}

void cli_signals_install(void) {
  struct sigaction bus = {.sa_sigaction = bus_handle, .sa_flags = SA_SIGINFO};
  sigemptyset(&bus.sa_mask);
  interrupt_install(SIGINT);
  sigaction(SIGBUS, &bus, NULL);
}

void cli_signals_poll(void) {
  atomic_store(&polled, true);
}

void cli_signals_poll_term(void) {
  cli_signals_poll();
  interrupt_install(SIGTERM);
}

int cli_signals_code(void) {
  int sig = atomic_load(&stopped_by);
  return 128 + (sig ? sig : SIGINT);
}

void cli_signals_terminal(int prompts) {
  struct sigaction end = {.sa_handler = end_handle};
  if (tcgetattr(STDIN_FILENO, &terminal_found) != 0) return;
  terminal_prompts = prompts;
  sigfillset(&end.sa_mask);
  handler_install(SIGTERM, &end);
  handler_install(SIGQUIT, &end);
  handler_install(SIGHUP, &end);
}

int cli_signals_collect(void) {
  int ends[2];
  if (atomic_load(&news_read) < 0 && pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0) {
    atomic_store(&news_read, ends[0]);
    atomic_store(&news_write, ends[1]);
  }
  atomic_store(&collecting, true);
  struct sigaction terminal = {.sa_handler = terminal_handle, .sa_flags = SA_RESTART};
  sigemptyset(&terminal.sa_mask);
  sigaction(SIGWINCH, &terminal, NULL);
  sigaction(SIGCONT, &terminal, NULL);
  return atomic_load(&news_read);
}

cli_signal_news cli_signals_take(void) {
  char drain[64];
  while (read(atomic_load(&news_read), drain, sizeof drain) > 0) {
  }
  return (cli_signal_news){atomic_exchange(&interrupts, 0), atomic_exchange(&resized, false),
                           atomic_exchange(&continued, false)};
}

bool cli_interrupted(void) {
  return atomic_load(&interrupts) > 0;
}
