#include "train/distributed.h"

#include <stdlib.h>
#include <string.h>

struct ie_ranks {
  const ie_ranks_backend *backend;
  void *self;
  int rank, size, local;
  bool lost;
  int code;      /* what the backend said when they were lost */
  double flag[]; /* (size) scratch: agreeing allocates nothing */
};

ie_status ie_ranks_new(const ie_ranks_backend *backend, void *self, int rank, int size, int local,
                       ie_ranks **out, ie_error *error) {
  ie_ranks *r = calloc(1, sizeof *r + (size_t)size * sizeof *r->flag);
  *out = r;
  if (!r) {
    backend->close(self, /*lost=*/true);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for ranks");
  }
  r->backend = backend;
  r->self = self;
  r->rank = rank;
  r->size = size;
  r->local = local;
  return IE_OK;
}

void ie_ranks_close(ie_ranks *r) {
  if (!r) return;
  r->backend->close(r->self, r->lost);
  free(r);
}

int ie_ranks_rank(const ie_ranks *r) {
  return r ? r->rank : 0;
}

int ie_ranks_size(const ie_ranks *r) {
  return r ? r->size : 1;
}

int ie_ranks_local(const ie_ranks *r) {
  return r ? r->local : 1;
}

bool ie_ranks_reports(const ie_ranks *r) {
  return !r || r->rank == 0 || r->lost;
}

/* --- Arrays of any length ---------------------------------------------------------------------------------------- */

typedef enum action { SUM, BROADCAST, SEND, RECEIVE } action;

static int part_exchange(ie_ranks *r, action what, char *x, int count, ie_rank_type type, int peer) {
  switch (what) {
  case SUM: return r->backend->sum(r->self, x, count, type);
  case BROADCAST: return r->backend->broadcast(r->self, x, count, type, peer);
  case SEND: return r->backend->send(r->self, x, count, type, peer);
  case RECEIVE: break;
  }
  return r->backend->receive(r->self, x, count, type, peer);
}

/* A code of the backend: the first failure is what is told. */
static void note(ie_ranks *r, int code) {
  if (code == 0 || r->lost) return;
  r->lost = true;
  r->code = code;
}

static ie_status lost_error(const ie_ranks *r, ie_error *error) {
  return ie_error_set(error, IE_DEVICE, "process %d of %d has lost the others (%s error %d)", r->rank,
                      r->size, r->backend->name, r->code);
}

static ie_status exchange(ie_ranks *r, action what, void *x, size_t count, ie_rank_type type, int peer,
                          ie_error *error) {
  static const size_t sizes[] = {
      [IE_RANK_REAL] = sizeof(real), [IE_RANK_DOUBLE] = sizeof(double), [IE_RANK_BYTE] = 1};
  if (!r || r->size == 1) return IE_OK;
  char *at = x;
  while (count > 0 && !r->lost) {
    size_t part = count < IE_RANK_MOST ? count : IE_RANK_MOST;
    note(r, part_exchange(r, what, at, (int)part, type, peer));
    at += part * sizes[type];
    count -= part;
  }
  return r->lost ? lost_error(r, error) : IE_OK;
}

ie_status ie_ranks_sum(ie_ranks *r, real *x, size_t count, ie_error *error) {
  return exchange(r, SUM, x, count, IE_RANK_REAL, 0, error);
}

/* A backend may hold a copy of what it sums: so the parts are small, and it takes few of them at a time. */
enum { SUM_PART = 1 << 20 };

void ie_ranks_sum_begin(ie_ranks *r, real *x, size_t count) {
  if (!r || r->size == 1) return;
  while (count > 0 && !r->lost) {
    size_t part = count < SUM_PART ? count : SUM_PART;
    note(r, r->backend->sum_begin(r->self, x, (int)part));
    x += part;
    count -= part;
  }
}

void ie_ranks_sum_poll(ie_ranks *r) {
  if (r && r->size > 1 && !r->lost) note(r, r->backend->sum_poll(r->self, /*wait=*/false));
}

ie_status ie_ranks_sum_end(ie_ranks *r, ie_error *error) {
  if (!r || r->size == 1) return IE_OK;
  if (!r->lost) note(r, r->backend->sum_poll(r->self, /*wait=*/true));
  return r->lost ? lost_error(r, error) : IE_OK;
}

ie_status ie_ranks_sum_doubles(ie_ranks *r, double *x, size_t count, ie_error *error) {
  return exchange(r, SUM, x, count, IE_RANK_DOUBLE, 0, error);
}

ie_status ie_ranks_broadcast(ie_ranks *r, real *x, size_t count, int root, ie_error *error) {
  return exchange(r, BROADCAST, x, count, IE_RANK_REAL, root, error);
}

ie_status ie_ranks_send(ie_ranks *r, const real *x, size_t count, int to, ie_error *error) {
  return exchange(r, SEND, (void *)(uintptr_t)x, count, IE_RANK_REAL, to, error);
}

ie_status ie_ranks_receive(ie_ranks *r, real *x, size_t count, int from, ie_error *error) {
  return exchange(r, RECEIVE, x, count, IE_RANK_REAL, from, error);
}

/* --- Agreement ------------------------------------------------------------------------------------------------------ */

/* The lowest rank that comes with true, or size when none does. */
static ie_status first_true(ie_ranks *r, bool value, int *first, ie_error *error) {
  for (int i = 0; i < r->size; i++) r->flag[i] = i == r->rank && value;
  ie_status status = ie_ranks_sum_doubles(r, r->flag, (size_t)r->size, error);
  for (*first = 0; *first < r->size && r->flag[*first] == 0;) ++*first;
  return status;
}

ie_status ie_ranks_agree(ie_ranks *r, ie_status status, ie_error *error) {
  if (!r || r->size == 1 || (r->lost && status != IE_OK)) return status;
  struct {
    int32_t status;
    char message[IE_ERROR_BYTES];
  } said = {.status = (int32_t)status};
  int first;
  if (error && status != IE_OK) memcpy(said.message, error->message, sizeof said.message);
  ie_status agreed = first_true(r, status != IE_OK, &first, error);
  if (agreed != IE_OK || first == r->size) return agreed;
  agreed = exchange(r, BROADCAST, &said, sizeof said, IE_RANK_BYTE, first, error);
  if (agreed != IE_OK) return agreed;
  said.message[sizeof said.message - 1] = '\0';
  if (first == 0) return ie_error_set(error, (ie_status)said.status, "%s", said.message);
  return ie_error_set(error, (ie_status)said.status, "process %d of %d: %s", first, r->size, said.message);
}

bool ie_ranks_any(ie_ranks *r, bool value) {
  int first;
  if (!r || r->size == 1 || r->lost) return value;
  return first_true(r, value, &first, NULL) == IE_OK ? first < r->size : value;
}

ie_status ie_ranks_equal(ie_ranks *r, const void *bytes, size_t size, const char *what, ie_error *error) {
  uint8_t first[64] = {0};
  if (!r || r->size == 1) return IE_OK;
  if (size > sizeof first) return ie_error_set(error, IE_INTERNAL, "%zu bytes to compare", size);
  memcpy(first, bytes, size);
  ie_status status = exchange(r, BROADCAST, first, size, IE_RANK_BYTE, 0, error);
  if (status == IE_OK && memcmp(first, bytes, size) != 0)
    status = ie_error_set(error, IE_INTERNAL, "%s: not those of process 0", what);
  return ie_ranks_agree(r, status, error);
}
