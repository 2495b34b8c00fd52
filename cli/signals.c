#include "signals.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

/* Touched by handlers, therefore lock-free atomics of this file alone. */
static atomic_int interrupts;
static atomic_bool polled;

static void interrupt_handle(int sig) {
  (void)sig;
  if (atomic_load(&polled) && atomic_fetch_add(&interrupts, 1) == 0) return;
  _exit(130);
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

void cli_signals_install(void) {
  struct sigaction interrupt = {.sa_handler = interrupt_handle, .sa_flags = SA_RESTART};
  struct sigaction bus = {.sa_sigaction = bus_handle, .sa_flags = SA_SIGINFO};
  sigemptyset(&interrupt.sa_mask);
  sigemptyset(&bus.sa_mask);
  struct sigaction old;
  /* nohup and `&` in scripts start programs with SIGINT ignored: that stays. */
  if (sigaction(SIGINT, NULL, &old) == 0 && old.sa_handler != SIG_IGN) sigaction(SIGINT, &interrupt, NULL);
  sigaction(SIGBUS, &bus, NULL);
}

void cli_signals_poll(void) {
  atomic_store(&polled, true);
}

bool cli_interrupted(void) {
  return atomic_load(&interrupts) > 0;
}
