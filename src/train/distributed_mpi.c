/* Ranks over MPI. The library is loaded when it is asked for: linked, its twelve shared objects would cost every start
 * of the program a millisecond, and the program would not run where MPI is not installed.
 *
 * Types and handles are those of the mpi.h that this file was compiled with, so only that implementation is loaded. Its
 * handles are addresses of objects in the library, which are looked up like functions. */
#include "train/distributed.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#ifdef CLOCHER_WITH_MPI
#include <mpi.h>
#endif

#if defined(CLOCHER_WITH_MPI) && defined(OPEN_MPI)

bool ie_ranks_mpi_built(void) {
  return true;
}

#define FUNCTIONS(F)                                                                                         \
  F(Init_thread);                                                                                            \
  F(Initialized);                                                                                            \
  F(Finalize);                                                                                               \
  F(Finalized);                                                                                              \
  F(Comm_rank);                                                                                              \
  F(Comm_size);                                                                                              \
  F(Comm_dup);                                                                                               \
  F(Comm_split_type);                                                                                        \
  F(Comm_free);                                                                                              \
  F(Comm_set_errhandler);                                                                                    \
  F(Reduce);                                                                                                 \
  F(Ireduce);                                                                                                \
  F(Ibcast);                                                                                                 \
  F(Test);                                                                                                   \
  F(Wait);                                                                                                   \
  F(Bcast);                                                                                                  \
  F(Send);                                                                                                   \
  F(Recv);

/* A sum that was begun: a reduction to rank 0, then a broadcast. */
typedef struct begun_sum {
  void *x;
  int count;
  MPI_Request request; /* of the one that runs */
} begun_sum;

enum { SUMS_MOST = 16 }; /* rank 0 holds a copy of each */

typedef struct mpi {
  void *library;
  bool begun; /* by us: we finalise it */
  MPI_Comm world, comm;
  /* Sums that were begun, in their order. Each rank sends its reductions on one communicator and its broadcasts on another,
   * so that their order is the same everywhere whenever a reduction ends. */
  MPI_Comm sums_comm[2];
  begun_sum sum_of[SUMS_MOST]; /* (sums): the first `done` are done, `reduced` are reduced */
  int sums, reduced, done;
  MPI_Datatype type[3];
  MPI_Op sum;
  MPI_Errhandler returns;
#define DECLARE(name) __typeof__(MPI_##name) *name
  FUNCTIONS(DECLARE)
} mpi;

static void mpi_free(mpi *m) {
  free(m); /* the library stays: MPI cannot be unloaded */
}

/* Stores a function's address in the pointer at `out`, which ISO C has no cast for. */
static bool function_find(const mpi *m, const char *name, void *out) {
  void *address = dlsym(m->library, name);
  memcpy(out, &address, sizeof address);
  return address != NULL;
}

static bool symbols_find(mpi *m) {
  bool found = true;
#define FIND(name) found = function_find(m, "MPI_" #name, &m->name) && found
  FUNCTIONS(FIND)
  m->world = dlsym(m->library, "ompi_mpi_comm_world");
  m->type[IE_RANK_REAL] =
      dlsym(m->library, sizeof(real) == sizeof(float) ? "ompi_mpi_float" : "ompi_mpi_double");
  m->type[IE_RANK_DOUBLE] = dlsym(m->library, "ompi_mpi_double");
  m->type[IE_RANK_BYTE] = dlsym(m->library, "ompi_mpi_byte");
  m->sum = dlsym(m->library, "ompi_mpi_op_sum");
  m->returns = dlsym(m->library, "ompi_mpi_errors_return");
  return found && m->world && m->type[0] && m->type[1] && m->type[2] && m->sum && m->returns;
}

/* --- The backend ------------------------------------------------------------------------------------------------ */

/* A sum at one rank that is sent to all, rather than MPI_Allreduce, which may give ranks different bits. */
static int mpi_sum(void *self, void *x, int count, ie_rank_type type) {
  mpi *m = self;
  int rank = 0, code = m->Comm_rank(m->comm, &rank);
  if (code == MPI_SUCCESS)
    code = m->Reduce(rank == 0 ? MPI_IN_PLACE : x, x, count, m->type[type], m->sum, 0, m->comm);
  return code == MPI_SUCCESS ? m->Bcast(x, count, m->type[type], 0, m->comm) : code;
}

/* Whether the request of a sum has ended. */
static int request_end(mpi *m, begun_sum *sum, bool wait, bool *ended) {
  int flag = 1, code;
  code = wait ? m->Wait(&sum->request, MPI_STATUS_IGNORE) : m->Test(&sum->request, &flag, MPI_STATUS_IGNORE);
  *ended = flag != 0;
  return code;
}

static int mpi_sum_poll(void *self, bool wait) {
  mpi *m = self;
  int code = MPI_SUCCESS;
  bool ended = true;
  for (; code == MPI_SUCCESS && m->reduced < m->sums; m->reduced++) {
    begun_sum *sum = &m->sum_of[m->reduced];
    code = request_end(m, sum, wait, &ended);
    if (code != MPI_SUCCESS || !ended) break;
    code = m->Ibcast(sum->x, sum->count, m->type[IE_RANK_REAL], 0, m->sums_comm[1], &sum->request);
  }
  for (; code == MPI_SUCCESS && m->done < m->reduced; m->done++) {
    code = request_end(m, &m->sum_of[m->done], wait, &ended);
    if (!ended) break;
  }
  if (m->done == m->sums) m->sums = m->reduced = m->done = 0;
  return code;
}

static int mpi_sum_begin(void *self, void *x, int count) {
  mpi *m = self;
  int code = MPI_SUCCESS, rank = 0;
  if (m->sums == SUMS_MOST) code = mpi_sum_poll(m, /*wait=*/true);
  if (code == MPI_SUCCESS) code = m->Comm_rank(m->comm, &rank);
  if (code != MPI_SUCCESS) return code;
  begun_sum *sum = &m->sum_of[m->sums++];
  *sum = (begun_sum){.x = x, .count = count};
  return m->Ireduce(rank == 0 ? MPI_IN_PLACE : x, x, count, m->type[IE_RANK_REAL], m->sum, 0, m->sums_comm[0],
                    &sum->request);
}

static int mpi_broadcast(void *self, void *x, int count, ie_rank_type type, int root) {
  mpi *m = self;
  return m->Bcast(x, count, m->type[type], root, m->comm);
}

static int mpi_send(void *self, const void *x, int count, ie_rank_type type, int to) {
  mpi *m = self;
  return m->Send(x, count, m->type[type], to, /*tag=*/0, m->comm);
}

static int mpi_receive(void *self, void *x, int count, ie_rank_type type, int from) {
  mpi *m = self;
  return m->Recv(x, count, m->type[type], from, /*tag=*/0, m->comm, MPI_STATUS_IGNORE);
}

static void mpi_close(void *self, bool lost) {
  mpi *m = self;
  if (!lost) { /* else the end would wait for a process that is not there */
    m->Comm_free(&m->comm);
    for (int i = 0; i < 2; i++) m->Comm_free(&m->sums_comm[i]);
    if (m->begun) m->Finalize();
  }
  mpi_free(m);
}

/* --- Opening ------------------------------------------------------------------------------------------------------ */

static ie_status library_load(mpi *m, ie_error *error) {
  static const char *const names[] = {"libmpi.so.40", "libmpi.so"};
  for (size_t i = 0; i < sizeof names / sizeof names[0] && !m->library; i++)
    m->library = dlopen(names[i], RTLD_NOW | RTLD_GLOBAL); /* its plugins look for its symbols */
  if (!m->library) {
    const char *why = dlerror();
    return ie_error_set(error, IE_DEVICE, "the library of Open MPI cannot be loaded: %s",
                        why ? why : "unknown reason");
  }
  if (symbols_find(m)) return IE_OK;
  return ie_error_set(error, IE_DEVICE,
                      "the MPI library is not the Open MPI that this program was built for");
}

static ie_status mpi_begin(mpi *m, ie_error *error) {
  int begun = 0, ended = 0, level = 0, code = m->Finalized(&ended);
  if (code == MPI_SUCCESS && ended)
    return ie_error_set(error, IE_DEVICE, "MPI was ended before in this process");
  if (code == MPI_SUCCESS) code = m->Initialized(&begun);
  if (code == MPI_SUCCESS && !begun) {
    code = m->Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
    m->begun = code == MPI_SUCCESS;
  }
  return code == MPI_SUCCESS ? IE_OK
                             : ie_error_set(error, IE_DEVICE, "MPI cannot be initialised (error %d)", code);
}

ie_status ie_ranks_open_mpi(ie_ranks **out, ie_error *error) {
  *out = NULL;
  mpi *m = calloc(1, sizeof *m);
  if (!m) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for ranks");
  ie_status status = library_load(m, error);
  if (status == IE_OK) status = mpi_begin(m, error);
  if (status != IE_OK) {
    mpi_free(m);
    return status;
  }
  static const ie_ranks_backend backend = {.name = "MPI",
                                           .sum = mpi_sum,
                                           .sum_begin = mpi_sum_begin,
                                           .sum_poll = mpi_sum_poll,
                                           .broadcast = mpi_broadcast,
                                           .send = mpi_send,
                                           .receive = mpi_receive,
                                           .close = mpi_close};
  int rank = 0, size = 1, local = 1;
  MPI_Comm machine;
  int code = m->Comm_dup(m->world, &m->comm);
  for (int i = 0; i < 2 && code == MPI_SUCCESS; i++) code = m->Comm_dup(m->world, &m->sums_comm[i]);
  MPI_Comm *const all[] = {&m->comm, &m->sums_comm[0], &m->sums_comm[1]};
  for (int i = 0; i < 3 && code == MPI_SUCCESS; i++) code = m->Comm_set_errhandler(*all[i], m->returns);
  if (code == MPI_SUCCESS) code = m->Comm_rank(m->comm, &rank);
  if (code == MPI_SUCCESS) code = m->Comm_size(m->comm, &size);
  MPI_Info none = dlsym(m->library, "ompi_mpi_info_null");
  if (code == MPI_SUCCESS && none)
    code = m->Comm_split_type(m->comm, MPI_COMM_TYPE_SHARED, 0, none, &machine);
  if (code == MPI_SUCCESS && none) {
    code = m->Comm_size(machine, &local);
    m->Comm_free(&machine);
  }
  if (code == MPI_SUCCESS) return ie_ranks_new(&backend, m, rank, size, local, out, error);
  mpi_free(m);
  return ie_error_set(error, IE_DEVICE, "MPI: no connection to the other processes (error %d)", code);
}

#else

bool ie_ranks_mpi_built(void) {
  return false;
}

ie_status ie_ranks_open_mpi(ie_ranks **out, ie_error *error) {
  *out = NULL;
  return ie_error_set(error, IE_UNSUPPORTED,
                      "MPI: not built (Open MPI was not found when this program was built)");
}

#endif
