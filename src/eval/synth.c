/* Draws the tensors of a plan and writes them. A file is cut into pieces of a few MB, which the threads take in
 * turn; what stands in a piece depends on its place alone. */
#include "eval/synth.h"

#include "base/file.h"
#include "base/float.h"
#include "base/rng.h"
#include "formats/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { PIECE_BYTES = 4 << 20, MAX_THREADS = 256, QUANTILES = 4096, CODES = 256 };

/* Values by their quantile, so that drawing one is a look-up: 4096 equally likely values of N(0, 1), and 256 FP4
 * codes and scale bytes. */
typedef struct quantile_tables {
  double normal[QUANTILES];
  uint8_t fp4[CODES];
  uint8_t scale[CODES];
} quantile_tables;

/* The x with P(N(0,1) < x) = p, by bisection. */
static double normal_quantile(double p) {
  double low = -8, high = 8;
  for (int i = 0; i < 60; i++) {
    double middle = 0.5 * (low + high);
    if (0.5 * erfc(-middle / sqrt(2.0)) < p)
      low = middle;
    else
      high = middle;
  }
  return 0.5 * (low + high);
}

/* The E2M1 code nearest to x; codes 0 to 7 are 0, 0.5, 1, 1.5, 2, 3, 4, 6, bit 3 is the sign. */
static uint8_t fp4_nearest(double x) {
  static const double values[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  uint8_t best = 0;
  for (uint8_t code = 1; code < 8; code++)
    if (fabs(fabs(x) - values[code]) < fabs(fabs(x) - values[best])) best = code;
  return (uint8_t)(best | (x < 0 && best ? 8 : 0));
}

static void tables_make(quantile_tables *tables, double fp4_std) {
  for (int i = 0; i < QUANTILES; i++) tables->normal[i] = normal_quantile((i + 0.5) / QUANTILES);
  for (int i = 0; i < CODES; i++) {
    const double *middle = &tables->normal[i * (QUANTILES / CODES) + QUANTILES / CODES / 2];
    tables->fp4[i] = fp4_nearest(fp4_std * 0.5 * (middle[-1] + middle[0])); /* symmetric about 0 */
    /* of 256: 64 times 2^-8, 172 times 2^-7, 18 times 2^-6, 2 times 2^-5 (E8M0: exponent + 127) */
    tables->scale[i] = i < 64 ? 119 : i < 236 ? 120 : i < 254 ? 121 : 122;
  }
}

/* Elements [first, first + count) of a stream of 16-bit values, four to a random word. */
static void draw_16bit(const uint16_t table[QUANTILES], uint64_t seed, uint64_t stream, int64_t first,
                       int64_t count, uint16_t *out) {
  int64_t i = 0;
  for (; i < count && (first + i) % 4 != 0; i++) {
    uint64_t word = ie_rng_u64(seed, stream, (uint64_t)(first + i) / 4);
    out[i] = table[(word >> (16 * ((first + i) % 4))) % QUANTILES];
  }
  for (; i + 4 <= count; i += 4) {
    uint64_t word = ie_rng_u64(seed, stream, (uint64_t)(first + i) / 4);
    for (int k = 0; k < 4; k++) out[i + k] = table[(word >> (16 * k)) % QUANTILES];
  }
  for (; i < count; i++) {
    uint64_t word = ie_rng_u64(seed, stream, (uint64_t)(first + i) / 4);
    out[i] = table[(word >> (16 * ((first + i) % 4))) % QUANTILES];
  }
}

/* Bytes [first, first + count): two FP4 codes each, four bytes to a random word. */
static void draw_blocks(const uint8_t fp4[CODES], uint64_t seed, uint64_t stream, int64_t first,
                        int64_t count, uint8_t *out) {
  uint64_t word = ie_rng_u64(seed, stream, (uint64_t)first / 4);
  for (int64_t i = 0; i < count; i++) {
    int64_t at = first + i;
    if (at % 4 == 0) word = ie_rng_u64(seed, stream, (uint64_t)at / 4);
    unsigned pair = (unsigned)(word >> (16 * (at % 4)));
    out[i] = (uint8_t)(fp4[pair & 255] | fp4[(pair >> 8) & 255] << 4);
  }
}

static void draw_scales(const uint8_t scale[CODES], uint64_t seed, uint64_t stream, int64_t first,
                        int64_t count, uint8_t *out) {
  for (int64_t i = 0; i < count; i++)
    out[i] = scale[(ie_rng_u64(seed, stream, (uint64_t)(first + i) / 8) >> (8 * ((first + i) % 8))) & 255];
}

static void store_f32(uint8_t *out, float x) {
  memcpy(out, &x, sizeof x);
}

/* The buffers of GPT-NeoX, which are not random. */
static void draw_buffer(const synth_tensor *t, int64_t first, int64_t count, uint8_t *out) {
  int64_t n = t->out.rank ? t->out.shape[t->out.rank - 1] : 1;
  for (int64_t i = 0; i < count; i++) {
    int64_t at = first + i;
    if (t->draw.kind == SYNTH_CAUSAL)
      out[i] = at % n <= at / n;
    else if (t->draw.kind == SYNTH_ROPE)
      store_f32(out + 4 * i, (float)pow(10000, -(double)at / (double)n));
    else
      store_f32(out + 4 * i, t->draw.mean);
  }
}

/* What all threads of one file share. */
typedef struct file_job {
  const synth_plan *plan;
  const quantile_tables *tables;
  const size_t *piece_start; /* (tensor_count + 1) number of the first piece of each tensor of this file */
  const uint64_t *offset;    /* (tensor_count) in the file */
  size_t tensor_first, tensor_count;
  uint64_t seed;
  int fd;
  atomic_size_t next; /* the next piece nobody has taken */
  atomic_ullong done_bytes;
  atomic_bool stop;
  atomic_int failed_errno; /* of the first write that failed */
} file_job;

static int64_t piece_elements(const synth_tensor *t) {
  return PIECE_BYTES / (int64_t)ie_dtype_bytes(t->out.dtype);
}

static size_t piece_count(const synth_tensor *t) {
  int64_t n = 0;
  for (int i = 0; i < t->part_count; i++) n += t->parts[i].elements;
  return (size_t)((n + piece_elements(t) - 1) / piece_elements(t));
}

/* One thread: its buffer, and the table of the tensor that it drew last (a tensor has many pieces). */
typedef struct worker {
  file_job *job;
  uint8_t *buffer;            /* (PIECE_BYTES) */
  uint16_t *values;           /* (QUANTILES) */
  size_t values_of;           /* the tensor; SIZE_MAX: none yet */
  ie_synth_progress progress; /* of the calling thread only */
  void *user;
  uint64_t done_before;
} worker;

static void worker_set_values(worker *w, size_t index) {
  if (w->values_of == index) return;
  const synth_tensor *t = &w->job->plan->tensors[index];
  for (int i = 0; i < QUANTILES; i++) {
    float x = (float)(t->draw.mean + t->draw.std * w->job->tables->normal[i]);
    w->values[i] = t->out.dtype == IE_F16 ? ie_f32_to_f16(x) : ie_f32_to_bf16(x);
  }
  w->values_of = index;
}

/* Elements [first, first + count) of a tensor into w->buffer, part by part. */
static void worker_draw(worker *w, size_t index, int64_t first, int64_t count) {
  const file_job *job = w->job;
  const synth_tensor *t = &job->plan->tensors[index];
  size_t width = ie_dtype_bytes(t->out.dtype);
  uint8_t *out = w->buffer;
  if (t->draw.kind == SYNTH_NORMAL) worker_set_values(w, index);
  for (int p = 0; p < t->part_count && count > 0; p++) {
    const synth_part *part = &t->parts[p];
    if (first >= part->elements) {
      first -= part->elements;
      continue;
    }
    int64_t n = count < part->elements - first ? count : part->elements - first;
    switch (t->draw.kind) {
    case SYNTH_NORMAL:
      draw_16bit(w->values, job->seed, part->stream, first, n, (uint16_t *)(void *)out);
      break;
    case SYNTH_MXFP4_BLOCKS: draw_blocks(job->tables->fp4, job->seed, part->stream, first, n, out); break;
    case SYNTH_MXFP4_SCALES: draw_scales(job->tables->scale, job->seed, part->stream, first, n, out); break;
    case SYNTH_CAUSAL:
    case SYNTH_CONSTANT:
    case SYNTH_ROPE: draw_buffer(t, first, n, out); break;
    }
    out += (size_t)n * width;
    count -= n;
    first = 0;
  }
}

/* 0, or errno. */
static int write_at(int fd, const uint8_t *bytes, size_t size, uint64_t offset) {
  while (size > 0) {
    ssize_t n = pwrite(fd, bytes, size, (off_t)offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    bytes += n;
    size -= (size_t)n;
    offset += (uint64_t)n;
  }
  return 0;
}

static void worker_piece(worker *w, size_t piece) {
  file_job *job = w->job;
  size_t low = 0, high = job->tensor_count; /* the last tensor whose first piece is not after this one */
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    if (job->piece_start[middle] <= piece)
      low = middle;
    else
      high = middle;
  }
  const synth_tensor *t = &job->plan->tensors[job->tensor_first + low];
  size_t width = ie_dtype_bytes(t->out.dtype);
  int64_t first = (int64_t)(piece - job->piece_start[low]) * piece_elements(t);
  int64_t left = (int64_t)(t->bytes / width) - first;
  int64_t count = left < piece_elements(t) ? left : piece_elements(t);
  worker_draw(w, job->tensor_first + low, first, count);
  uint64_t offset = job->offset[low] + (uint64_t)first * width;
  size_t bytes = (size_t)count * width;
  int failed = write_at(job->fd, w->buffer, bytes, offset);
  if (failed) {
    int none = 0;
    atomic_compare_exchange_strong(&job->failed_errno, &none, failed);
    atomic_store(&job->stop, true);
    return;
  }
  /* Starts the transfer to the disk now, so that the flush at the end of the file has little left to do. */
  (void)sync_file_range(job->fd, (off_t)offset, (off_t)bytes, SYNC_FILE_RANGE_WRITE);
  atomic_fetch_add(&job->done_bytes, bytes);
}

static void *worker_run(void *opaque) {
  worker *w = opaque;
  file_job *job = w->job;
  size_t pieces = job->piece_start[job->tensor_count];
  while (!atomic_load(&job->stop)) {
    size_t piece = atomic_fetch_add(&job->next, 1);
    if (piece >= pieces) break;
    worker_piece(w, piece);
    if (w->progress &&
        !w->progress(w->user, w->done_before + atomic_load(&job->done_bytes), job->plan->total_bytes))
      atomic_store(&job->stop, true);
  }
  return NULL;
}

/* Threads and their memory, kept over all files. */
typedef struct crew {
  worker *workers;    /* (count) */
  pthread_t *threads; /* (count), the first unused: the calling thread works too */
  int count;
} crew;

static void crew_free(crew *c) {
  for (int i = 0; c->workers && i < c->count; i++) {
    free(c->workers[i].buffer);
    free(c->workers[i].values);
  }
  free(c->workers);
  free(c->threads);
}

static ie_status crew_make(crew *c, const ie_synth_options *options, ie_error *error) {
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  int count = options->threads > 0 ? options->threads : cores > 0 ? (int)cores : 1;
  *c = (crew){.count = count > MAX_THREADS ? MAX_THREADS : count};
  c->workers = calloc((size_t)c->count, sizeof *c->workers);
  c->threads = calloc((size_t)c->count, sizeof *c->threads);
  bool ok = c->workers && c->threads;
  for (int i = 0; ok && i < c->count; i++) {
    worker *w = &c->workers[i];
    w->buffer = malloc(PIECE_BYTES);
    w->values = malloc(QUANTILES * sizeof *w->values);
    w->values_of = SIZE_MAX;
    ok = w->buffer && w->values;
  }
  if (!ok) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %d threads", c->count);
  c->workers[0].progress = options->progress;
  c->workers[0].user = options->user;
  return IE_OK;
}

/* Runs the job on all threads and waits. A thread that cannot be started is done without. */
static void crew_run(crew *c, file_job *job, uint64_t done_before) {
  int started = 1;
  for (int i = 0; i < c->count; i++) {
    c->workers[i].job = job;
    c->workers[i].done_before = done_before;
  }
  while (started < c->count &&
         pthread_create(&c->threads[started], NULL, worker_run, &c->workers[started]) == 0)
    started++;
  worker_run(&c->workers[0]);
  for (int i = 1; i < started; i++) pthread_join(c->threads[i], NULL);
}

/* Writes one shard: header, then all its tensors. */
static ie_status file_fill(const file_job *base, crew *c, ie_writer *writer, uint64_t *done,
                           ie_error *error) {
  size_t n = base->tensor_count;
  const synth_tensor *tensors = base->plan->tensors + base->tensor_first;
  ie_tensor_out *outs = calloc(n, sizeof *outs);
  size_t *piece_start = calloc(n + 1, sizeof *piece_start);
  uint64_t *offset = calloc(n, sizeof *offset);
  ie_buf header = {0};
  ie_status status = IE_OK;
  if (!outs || !piece_start || !offset) {
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for %zu tensors", writer->path, n);
    goto cleanup;
  }
  for (size_t i = 0; i < n; i++) outs[i] = tensors[i].out;
  status = ie_safetensors_header(outs, n, NULL, &header, NULL, error);
  if (status != IE_OK) goto cleanup;
  uint64_t at = header.size;
  for (size_t i = 0; i < n; i++) {
    offset[i] = at;
    at += tensors[i].bytes;
    piece_start[i + 1] = piece_start[i] + piece_count(&tensors[i]);
  }
  file_job job = *base;
  job.piece_start = piece_start;
  job.offset = offset;
  job.fd = fileno(writer->stream);
  int failed = write_at(job.fd, (const uint8_t *)header.data, header.size, 0);
  if (!failed) {
    crew_run(c, &job, *done);
    failed = atomic_load(&job.failed_errno);
  }
  *done += atomic_load(&job.done_bytes);
  if (failed)
    status = ie_error_set(error, IE_IO, "%s: cannot write: %s", writer->path, strerror(failed));
  else if (atomic_load(&job.stop))
    status = ie_error_set(error, IE_CANCELLED, "%s: stopped", writer->path);
cleanup:
  ie_buf_free(&header);
  free(outs);
  free(piece_start);
  free(offset);
  return status;
}

static ie_status file_write(const file_job *base, crew *c, const char *path, uint64_t *done,
                            ie_error *error) {
  ie_writer writer;
  ie_status status = ie_writer_open(path, &writer, error);
  if (status != IE_OK) return status;
  status = file_fill(base, c, &writer, done, error);
  if (status == IE_OK) return ie_writer_commit(&writer, error);
  ie_writer_abandon(&writer);
  return status;
}

static ie_status shards_write(const ie_synth_options *options, const synth_plan *plan,
                              const quantile_tables *tables, ie_error *error) {
  crew c;
  uint64_t done = 0;
  size_t first = 0;
  ie_status status = crew_make(&c, options, error);
  for (size_t file = 0; file < plan->file_count && status == IE_OK; file++) {
    file_job job = {.plan = plan, .tables = tables, .seed = options->seed, .tensor_first = first};
    while (first < plan->count && plan->tensors[first].file == file) first++;
    job.tensor_count = first - job.tensor_first;
    char name[64];
    ie_synth_file_name(plan, file, name, sizeof name);
    char *path = ie_path_join(options->dir, name);
    status = path ? file_write(&job, &c, path, &done, error)
                  : ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", options->dir);
    free(path);
  }
  crew_free(&c);
  return status;
}

/* A small file beside the weights; empty text removes one that an earlier checkpoint left there. */
static ie_status side_file(const char *dir, const char *name, const ie_buf *text, ie_error *error) {
  char *path = ie_path_join(dir, name);
  ie_status status = IE_OK;
  if (!path)
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", dir);
  else if (text && text->size)
    status = ie_file_write(path, text->data, text->size, error);
  else if (unlink(path) != 0 && errno != ENOENT)
    status = ie_error_set(error, IE_IO, "%s: cannot remove: %s", path, strerror(errno));
  free(path);
  return status;
}

static ie_status disk_check(const char *dir, uint64_t needed, ie_error *error) {
  struct statvfs fs;
  if (statvfs(dir, &fs) != 0) return IE_OK; /* then the writes will tell */
  uint64_t there = (uint64_t)fs.f_bavail * fs.f_frsize;
  if (there >= needed) return IE_OK;
  return ie_error_set(error, IE_LIMIT, "%s: the checkpoint takes %.2f GB, the disk has room for %.2f GB", dir,
                      1e-9 * (double)needed, 1e-9 * (double)there);
}

ie_status ie_synth_plan_write(const synth_plan *plan, const ie_synth_options *options, ie_error *error) {
  ie_buf index = {0};
  if (!options->dir || !options->dir[0])
    return ie_error_set(error, IE_INVALID_ARGUMENT, "no folder to write the checkpoint to");
  quantile_tables *tables = malloc(sizeof *tables);
  if (!tables) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the tables of quantiles");
  tables_make(tables, synth_block_std);
  ie_status status = ie_synth_index_make(plan, &index, error);
  if (status == IE_OK) status = ie_folder_make(options->dir, error);
  if (status == IE_OK) status = disk_check(options->dir, plan->total_bytes + (64u << 20), error);
  /* What would make half of a checkpoint look whole goes first and comes last. */
  if (status == IE_OK) status = side_file(options->dir, "config.json", NULL, error);
  if (status == IE_OK) status = side_file(options->dir, "model.safetensors.index.json", NULL, error);
  if (status == IE_OK) status = shards_write(options, plan, tables, error);
  if (status == IE_OK && index.size)
    status = side_file(options->dir, "model.safetensors.index.json", &index, error);
  if (status == IE_OK)
    status = side_file(options->dir, "generation_config.json", &plan->generation_config, error);
  if (status == IE_OK) status = side_file(options->dir, "config.json", &plan->config, error);
  free(tables);
  ie_buf_free(&index);
  return status;
}

ie_status ie_synth_write(const ie_synth_options *options, ie_error *error) {
  synth_plan plan;
  ie_status status = ie_synth_plan_make(options, &plan, error);
  if (status == IE_OK) status = ie_synth_plan_write(&plan, options, error);
  ie_synth_plan_free(&plan);
  return status;
}
