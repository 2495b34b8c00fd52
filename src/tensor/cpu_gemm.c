#include "tensor/cpu_gemm.h"

#include "base/size.h"

enum {
  PANEL_BYTES = 4 << 20,    /* of packed B at once: stays in the last cache, and a pass takes some 10 ms */
  THREAD_BYTES = 1 << 20,   /* .. and at least this much a thread */
  SERIAL_BYTES = 512 << 10, /* .. of a serial product */
  SLABS_MAX = 64,           /* of a pass */
  SLAB_COLUMNS =
      1024, /* a slab is cut in depth before it gets narrower: A is packed once for each range of columns */
  TASKS_A_THREAD = 4, /* so that a thread that others disturb holds up nobody for long */
  TASK_ROWS_MIN =
      112, /* of thin tasks, while the columns can be cut: a panel of B is used for so many rows */
  TASK_COLUMNS_MIN = 256
};

/* Where a walk over all slabs of n products stands. */
typedef struct cursor {
  const ie_gemm *gemm;
  int64_t n, i, j, k; /* the next slab begins at (j, k) of product i */
} cursor;

/* A slab and its shares of the pass. */
typedef struct entry {
  ie_gemm_slab slab;
  int64_t first_group, first_task;
  int64_t panels, groups;           /* of mr rows of C; of columns */
  int64_t tasks_down, tasks_across; /* they share them evenly */
} entry;

typedef struct pass {
  const ie_kernels *kernels;
  entry entries[SLABS_MAX];
  int n;
  int64_t groups, tasks;
  real *packed, *scratch; /* of the pass; of thread 0 */
  int64_t capacity;       /* numbers of packed */
} pass;

/* The extent of the next slab for panels of `capacity` numbers. */
static ie_gemm_slab slab_next(const cursor *c, int64_t capacity) {
  const ie_gemm *g = &c->gemm[c->i];
  int64_t step = ie_gemm_depth(g->K), columns = g->N, depth = g->K;
  if (ie_gemm_slab_count(columns, depth) > capacity) {
    int64_t whole =
        capacity / ie_gemm_slab_count(1, depth) * IE_GEMM_GROUP; /* columns that fit with all of K */
    int64_t least = ie_min_i64(SLAB_COLUMNS, capacity / step / IE_GEMM_GROUP * IE_GEMM_GROUP);
    columns = ie_min_i64(ie_max_i64(whole, least), g->N);
    if (ie_gemm_slab_count(columns, depth) > capacity)
      depth = capacity / ie_gemm_slab_count(columns, step) * step;
  }
  return (ie_gemm_slab){.gemm = g,
                        .j0 = c->j,
                        .j1 = ie_min_i64(c->j + columns, g->N),
                        .k0 = c->k,
                        .k1 = ie_min_i64(c->k + depth, g->K)};
}

/* Moves behind a slab. */
static void cursor_step(cursor *c, const ie_gemm_slab *slab) {
  c->k = slab->k1;
  if (c->k < slab->gemm->K) return;
  c->k = 0;
  c->j = slab->j1;
  if (c->j < slab->gemm->N) return;
  c->j = 0;
  c->i++;
}

/* Takes slabs from the walk until the panels are full. A slab that does not begin at k = 0 begins a pass, as it
 * adds to what an earlier one stored. False at the end. */
static bool pass_fill(pass *p, cursor *c) {
  int64_t used = 0;
  p->n = 0;
  p->groups = 0;
  while (c->i < c->n && p->n < SLABS_MAX) {
    const ie_gemm *g = &c->gemm[c->i];
    if (g->M == 0 || g->N == 0) {
      c->i++;
      continue;
    }
    if (c->k > 0 && p->n > 0) break;
    ie_gemm_slab slab = slab_next(c, p->capacity);
    int64_t count = ie_gemm_slab_count(slab.j1 - slab.j0, slab.k1 - slab.k0);
    if (used + count > p->capacity) break;
    slab.packed = p->packed + used;
    used += count;
    p->entries[p->n++] = (entry){.slab = slab, .first_group = p->groups};
    p->groups += ie_div_up(slab.j1 - slab.j0, IE_GEMM_GROUP);
    cursor_step(c, &slab);
  }
  return p->n > 0;
}

/* Parts of at most `most`; from one for each thread on, as many for every thread. */
static int64_t parts(int64_t n, int64_t most, int threads) {
  int64_t count = ie_div_up(n, most);
  if (count >= threads) count = ie_div_up(count, threads) * threads;
  return ie_min_i64(count, n);
}

/* Cuts the C of every slab into rectangles of about one size: full width first, so that A is packed once. */
static void pass_cut(pass *p, int threads) {
  int64_t area = 0;
  for (int i = 0; i < p->n; i++)
    area += p->entries[i].slab.gemm->M * (p->entries[i].slab.j1 - p->entries[i].slab.j0);
  area = ie_div_up(area, (int64_t)threads * TASKS_A_THREAD);
  p->tasks = 0;
  for (int i = 0; i < p->n; i++) {
    entry *e = &p->entries[i];
    int64_t columns = e->slab.j1 - e->slab.j0, mr = ie_gemm_kernel_of(p->kernels, e->slab.gemm)->mr;
    int64_t rows = ie_max_i64(TASK_ROWS_MIN, ie_min_i64(area / columns, IE_GEMM_ROWS_MAX));
    e->panels = ie_div_up(e->slab.gemm->M, mr);
    e->groups = ie_div_up(columns, IE_GEMM_GROUP);
    e->tasks_down = parts(e->panels, rows / mr, threads);
    rows = ie_div_up(e->slab.gemm->M, e->tasks_down);
    columns = ie_max_i64(TASK_COLUMNS_MIN, area / rows);
    e->tasks_across = parts(e->groups, ie_div_up(columns, IE_GEMM_GROUP), threads);
    e->first_task = p->tasks;
    p->tasks += e->tasks_down * e->tasks_across;
  }
}

static real *thread_scratch(const pass *p, int thread) {
  return p->scratch + thread * ie_gemm_scratch_count();
}

/* Groups of columns begin .. end of the pass. */
static void pass_pack(void *arg, int thread, int64_t begin, int64_t end) {
  const pass *p = arg;
  for (int i = 0; i < p->n; i++) {
    const entry *e = &p->entries[i];
    int64_t j0 = e->slab.j0 + ie_max_i64(begin - e->first_group, 0) * IE_GEMM_GROUP;
    int64_t j1 = ie_min_i64(e->slab.j0 + (end - e->first_group) * IE_GEMM_GROUP, e->slab.j1);
    if (j0 < j1) ie_gemm_slab_pack(p->kernels, &e->slab, j0, j1, thread_scratch(p, thread));
  }
}

/* Where part i of `count` even ones begins. */
static int64_t part_begin(int64_t n, int64_t i, int64_t count) {
  return n * i / count;
}

static void pass_run(void *arg, int thread, int64_t begin, int64_t end) {
  const pass *p = arg;
  int i = 0;
  for (int64_t t = begin; t < end; t++) {
    while (i + 1 < p->n && p->entries[i + 1].first_task <= t) i++;
    const entry *e = &p->entries[i];
    int64_t down = (t - e->first_task) / e->tasks_across, across = (t - e->first_task) % e->tasks_across;
    int64_t mr = ie_gemm_kernel_of(p->kernels, e->slab.gemm)->mr;
    ie_gemm_task task = {.i0 = part_begin(e->panels, down, e->tasks_down) * mr,
                         .i1 = part_begin(e->panels, down + 1, e->tasks_down) * mr,
                         .j0 = e->slab.j0 + part_begin(e->groups, across, e->tasks_across) * IE_GEMM_GROUP,
                         .j1 =
                             e->slab.j0 + part_begin(e->groups, across + 1, e->tasks_across) * IE_GEMM_GROUP};
    task.i1 = ie_min_i64(task.i1, e->slab.gemm->M);
    task.j1 = ie_min_i64(task.j1, e->slab.j1);
    ie_gemm_slab_run(p->kernels, &e->slab, task, thread_scratch(p, thread));
  }
}

/* What a product reads of an encoded weight. */
static uint64_t weight_bytes(const ie_wview *w) {
  uint64_t bytes = 0;
  for (int part = 0; w != NULL && part < 2; part++)
    if (w->part[part] != NULL) bytes += (uint64_t)w->rows * ie_wformat_row_bytes(w->format, part, w->cols);
  return bytes;
}

void ie_cpu_gemm(ie_ctx *ctx, const ie_gemm *gemm, int64_t n) {
  ie_team *team = ctx->device->team;
  int threads = ie_team_size(team);
  size_t panels = (size_t)ie_max_i64(PANEL_BYTES, (int64_t)threads * THREAD_BYTES);
  void *packed, *scratch;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  bool taken =
      ie_ctx_scratch(ctx, panels, &packed) &&
      ie_ctx_scratch(ctx, (size_t)threads * (size_t)ie_gemm_scratch_count() * sizeof(real), &scratch);
  if (taken && !ctx->dry) {
    pass p = {.kernels = &ctx->device->kernels, .packed = packed, .scratch = scratch};
    p.capacity = (int64_t)(panels / sizeof(real));
    cursor c = {.gemm = gemm, .n = n};
    while (pass_fill(&p, &c)) {
      pass_cut(&p, threads);
      ie_team_for(team, p.groups, /*chunk=*/1, pass_pack, &p);
      ie_team_for(team, p.tasks, /*chunk=*/1, pass_run, &p);
    }
    for (int64_t i = 0; i < n; i++) {
      ctx->work.flop += 2u * (uint64_t)(gemm[i].M * gemm[i].N * gemm[i].K);
      if (gemm[i].M > 0) ctx->work.weight_bytes += weight_bytes(gemm[i].b.weight);
    }
  }
  ie_ctx_reset(ctx, mark);
}

size_t ie_cpu_gemm_serial_bytes(void) {
  return SERIAL_BYTES + (size_t)ie_gemm_scratch_count() * sizeof(real);
}

void ie_cpu_gemm_serial(const ie_kernels *kernels, const ie_gemm *gemm, void *scratch) {
  pass p = {.kernels = kernels, .packed = scratch, .capacity = SERIAL_BYTES / sizeof(real)};
  p.scratch = p.packed + p.capacity;
  cursor c = {.gemm = gemm, .n = 1};
  while (pass_fill(&p, &c)) {
    pass_cut(&p, /*threads=*/1);
    pass_pack(&p, 0, 0, p.groups);
    pass_run(&p, 0, 0, p.tasks);
  }
}
