/* Threads that a library starts leave signals to the program's own threads. */
#ifndef CLOCHER_BASE_SIGNALS_H
#define CLOCHER_BASE_SIGNALS_H

#include <pthread.h>
#include <signal.h>
#include <stddef.h>

/* Blocks all signals but those that a thread raises itself; what is started now inherits that. The caller puts *old back
 * with pthread_sigmask. */
static inline void ie_signals_block(sigset_t *old) {
  static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
  sigset_t blocked;
  sigfillset(&blocked);
  for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) sigdelset(&blocked, own[i]);
  pthread_sigmask(SIG_SETMASK, &blocked, old);
}

#endif
