/* A neighbour for clocher bench: a process that takes one processor as a foreign program would. */
#include "bench.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* The child. Only what a signal handler may call: other threads were running when it was made. */
static _Noreturn void neighbour_spin(int64_t cpu, int ready, int parent) {
  unsigned char mask[1024] = {0};
  mask[cpu / 8] = (unsigned char)(1u << (cpu % 8));
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  int failed = sched_setaffinity(0, sizeof mask, (const cpu_set_t *)(const void *)mask) != 0 ? errno : 0;
  if (write(ready, &failed, sizeof failed) != (ssize_t)sizeof failed || failed) _exit(1);
  for (;;) __asm__ volatile("");
}

ie_status bench_neighbour_start(int64_t cpu, bench_neighbour *out, ie_error *error) {
  *out = (bench_neighbour){0};
  int ends[2], failed = 0, parent = (int)getpid();
  if (cpu >= 8192)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "--neighbour %lld: no such processor", (long long)cpu);
  if (pipe(ends) != 0) return ie_error_set(error, IE_IO, "neighbour: pipe: %s", strerror(errno));
  pid_t pid = fork();
  if (pid == 0) neighbour_spin(cpu, ends[1], parent);
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    return ie_error_set(error, IE_LIMIT, "neighbour: fork: %s", strerror(errno));
  }
  ssize_t n;
  do n = read(ends[0], &failed, sizeof failed);
  while (n < 0 && errno == EINTR);
  close(ends[0]);
  *out = (bench_neighbour){.pid = (int)pid};
  if (n == (ssize_t)sizeof failed && !failed) return IE_OK;
  bench_neighbour_stop(out);
  return ie_error_set(error, IE_INVALID_ARGUMENT, "--neighbour %lld: no such processor for this process%s%s",
                      (long long)cpu, failed ? ": " : "", failed ? strerror(failed) : "");
}

double bench_neighbour_stop(bench_neighbour *n) {
  if (!n->pid) return 0;
  struct rusage usage = {0};
  kill(n->pid, SIGKILL);
  while (wait4(n->pid, NULL, 0, &usage) < 0 && errno == EINTR) continue;
  *n = (bench_neighbour){0};
  return (double)usage.ru_utime.tv_sec + 1e-6 * (double)usage.ru_utime.tv_usec +
         (double)usage.ru_stime.tv_sec + 1e-6 * (double)usage.ru_stime.tv_usec;
}
