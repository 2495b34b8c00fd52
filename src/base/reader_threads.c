/* Pieces read by threads that call pread. */
#include "base/reader_queue.h"
#include "base/signals.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_DEFAULT = 8, STACK_BYTES = 64 << 10 };

typedef struct reader_threads {
  pthread_mutex_t mutex;
  pthread_cond_t work, finished;
  bool stop;
  int count;
  pthread_t thread[];
} reader_threads;

static void *piece_loop(void *arg) {
  ie_reader *r = arg;
  reader_threads *t = r->state;
  pthread_mutex_lock(&t->mutex);
  while (true) {
    reader_piece piece;
    bool some = ie_reader_piece_take(r, &piece);
    if (r->done_count > 0) pthread_cond_signal(&t->finished);
    if (!some) {
      if (t->stop) break;
      pthread_cond_wait(&t->work, &t->mutex);
      continue;
    }
    bool more = true;
    while (more) {
      pthread_mutex_unlock(&t->mutex);
      ssize_t got = pread(piece.fd, piece.to, piece.bytes, (off_t)piece.offset);
      int64_t result = got < 0 ? -(int64_t)errno : got;
      ie_reader_piece_forget(&piece);
      pthread_mutex_lock(&t->mutex);
      more = ie_reader_piece_done(r, &piece, result);
    }
    if (r->done_count > 0) pthread_cond_signal(&t->finished);
  }
  pthread_mutex_unlock(&t->mutex);
  return NULL;
}

static void threads_close(ie_reader *r) {
  reader_threads *t = r->state;
  pthread_mutex_lock(&t->mutex);
  t->stop = true;
  pthread_cond_broadcast(&t->work);
  pthread_mutex_unlock(&t->mutex);
  for (int i = 0; i < t->count; i++) pthread_join(t->thread[i], NULL);
  pthread_cond_destroy(&t->work);
  pthread_cond_destroy(&t->finished);
  pthread_mutex_destroy(&t->mutex);
  free(t);
  r->state = NULL;
}

static ie_status threads_open(ie_reader *r, ie_error *error) {
  size_t depth = (size_t)r->options.depth;
  reader_threads *t = calloc(1, sizeof *t + depth * sizeof t->thread[0]);
  if (!t) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for threads that read");
  r->state = t;
  pthread_mutex_init(&t->mutex, NULL);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&t->work, NULL);
  pthread_cond_init(&t->finished, &monotonic);
  pthread_condattr_destroy(&monotonic);
  pthread_attr_t small;
  pthread_attr_init(&small);
  (void)pthread_attr_setstacksize(&small,
                                  STACK_BYTES); /* refused where a stack must be larger: the default then */
  int failed = 0;
  sigset_t old;
  ie_signals_block(&old);
  for (; !failed && t->count < r->options.depth; t->count += !failed)
    failed = pthread_create(&t->thread[t->count], &small, piece_loop, r);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  pthread_attr_destroy(&small);
  if (t->count > 0) return IE_OK; /* fewer read more slowly */
  threads_close(r);
  return ie_error_set(error, IE_LIMIT, "the system refused a thread that reads: %d", failed);
}

static void threads_lock(ie_reader *r) {
  reader_threads *t = r->state;
  pthread_mutex_lock(&t->mutex);
}
static void threads_unlock(ie_reader *r) {
  reader_threads *t = r->state;
  pthread_mutex_unlock(&t->mutex);
}
static void threads_kick(ie_reader *r) {
  reader_threads *t = r->state;
  pthread_cond_broadcast(&t->work);
}

static void threads_poll(ie_reader *r, int timeout_ms) {
  reader_threads *t = r->state;
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  long long ns = until.tv_nsec + (long long)timeout_ms * 1000000;
  until.tv_sec += (time_t)(ns / 1000000000);
  until.tv_nsec = (long)(ns % 1000000000);
  pthread_mutex_lock(&t->mutex);
  while (timeout_ms > 0 && r->done_count == 0)
    if (pthread_cond_timedwait(&t->finished, &t->mutex, &until) == ETIMEDOUT) break;
  pthread_mutex_unlock(&t->mutex);
}

const reader_way ie_reader_threads = {
    .kind = IE_READER_THREADS,
    .depth = THREADS_DEFAULT,
    .open = threads_open,
    .close = threads_close,
    .lock = threads_lock,
    .unlock = threads_unlock,
    .kick = threads_kick,
    .poll = threads_poll,
};
