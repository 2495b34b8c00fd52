#include "train/global.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

struct ie_global {
  ie_gradients *gradients;
  ie_device *device;
  ie_global_options options;
  real *block; /* (count) the gradients */
  size_t count;
  real *level; /* (levels, count) sums of parts of the tree; NULL: none are needed */
  size_t level_bytes;
  int64_t shares;
  double *numbers; /* (deterministic: shares, else 1; width) loss and counters of routers */
  size_t width;
};

int64_t ie_global_shares(int64_t rows, int64_t micro_rows) {
  return ie_div_up(rows, ie_max_i64(1, micro_rows));
}

int ie_global_levels(int64_t shares) {
  int levels = 0;
  while ((int64_t)1 << levels < shares) levels++;
  return levels;
}

ie_status ie_global_new(ie_gradients *gradients, ie_device *device, const ie_global_options *options,
                        ie_global **out, ie_error *error) {
  *out = NULL;
  bool fixed = options->deterministic;
  int64_t shares = fixed ? ie_global_shares(options->rows, options->micro_rows) : 1;
  if (fixed && shares < ie_ranks_size(options->ranks))
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "%lld rows in shares of %lld, expected a share for each of %d processes",
                        (long long)options->rows, (long long)ie_max_i64(1, options->micro_rows),
                        ie_ranks_size(options->ranks));
  ie_global *g = calloc(1, sizeof *g);
  if (!g) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a step");
  g->gradients = gradients;
  g->device = device;
  g->options = *options;
  g->shares = shares;
  g->block = ie_gradients_block(gradients, &g->count);
  g->width = 1 + ie_gradients_counter_count(gradients);
  size_t levels = (size_t)ie_global_levels(shares), bytes;
  bool ok = ie_size_mul(g->count * sizeof *g->level, levels, &g->level_bytes) &&
            ie_size_mul(g->width * sizeof *g->numbers, (size_t)shares, &bytes);
  if (ok && levels > 0) g->level = device->alloc(device, g->level_bytes);
  if (ok) g->numbers = malloc(bytes);
  if (ok && g->numbers && (g->level || levels == 0)) {
    *out = g;
    return IE_OK;
  }
  ie_global_free(g);
  return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu copies of the gradients", levels);
}

void ie_global_free(ie_global *g) {
  if (!g) return;
  if (g->level) g->device->dealloc(g->device, g->level, g->level_bytes);
  free(g->numbers);
  free(g);
}

/* Gradients of some rows are added to the block, their loss and counters to the numbers of row `at`. */
static ie_status rows_add(ie_global *g, const ie_data_batch *b, int64_t first, int64_t count, int64_t at,
                          ie_error *error) {
  double share = (double)count / (double)g->options.rows;
  const ie_token_rows rows = ie_data_rows(b, first, count);
  if (rows.tokens == 0) return IE_OK; /* padding alone */
  ie_gradients_balance(g->gradients, g->options.balance * share);
  return ie_gradients_add(g->gradients, &rows, 1.0 / (double)b->global_targets,
                          &g->numbers[(size_t)at * g->width], error);
}

static ie_status as_it_comes(ie_global *g, const ie_data_batch *b, ie_error *error) {
  int64_t micro = g->options.micro_rows > 0 ? g->options.micro_rows : b->rows;
  ie_status status = IE_OK;
  ie_gradients_zero(g->gradients);
  for (int64_t first = 0; first < b->rows && status == IE_OK; first += micro)
    status = rows_add(g, b, first, ie_min_i64(micro, b->rows - first), /*at=*/0, error);
  ie_gradients_counters_take(g->gradients, g->numbers + 1);
  status = ie_ranks_agree(g->options.ranks, status, error);
  return status == IE_OK ? ie_ranks_sum(g->options.ranks, g->block, g->count, error) : status;
}

/* --- The tree --------------------------------------------------------------------------------------------------------- */

/* The process that computes a share: rank r has those from r shares / ranks on. */
static int share_owner(const ie_global *g, int64_t share) {
  return (int)(ie_div_up((share + 1) * ie_ranks_size(g->options.ranks), g->shares) - 1);
}

typedef struct add_run {
  real *to;
  const real *from;
} add_run;

static void add_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const add_run *run = arg;
  for (int64_t i = begin; i < end; i++) run->to[i] += run->from[i];
}

typedef struct tree {
  ie_global *g;
  const ie_data_batch *batch;
  ie_status status; /* of the first failure here: from then on nothing is computed, but messages go on */
  ie_error *error;
} tree;

static void note(tree *t, ie_status status) {
  if (t->status == IE_OK) t->status = status;
}

/* The gradient of one share, in the block. */
static void share_compute(tree *t, int64_t share) {
  ie_global *g = t->g;
  int64_t rows = ie_max_i64(1, g->options.micro_rows), first = share * rows;
  if (t->status != IE_OK) return;
  ie_gradients_zero(g->gradients);
  note(t, rows_add(g, t->batch, first, ie_min_i64(rows, t->batch->rows - first), share, t->error));
  ie_gradients_counters_take(g->gradients, &g->numbers[(size_t)share * g->width + 1]);
}

/* Sums shares first .. end - 1 at the owner of the first one, and returns where the sum is: in the block (a single share)
 * or in the level. NULL at the others. Recursion: as deep as the tree. */
static real *shares_sum(tree *t, int64_t first, int64_t end, int depth) {
  ie_global *g = t->g;
  ie_ranks *ranks = g->options.ranks;
  int me = ie_ranks_rank(ranks), left = share_owner(g, first);
  if (me < left || me > share_owner(g, end - 1)) return NULL;
  if (end - first == 1) {
    share_compute(t, first);
    return g->block;
  }
  int64_t middle = first + ((int64_t)1 << (ie_global_levels(end - first) - 1));
  int right = share_owner(g, middle);
  real *sum = g->level + (size_t)depth * g->count, *other;
  real *found = shares_sum(t, first, middle, depth);
  if (found == g->block) memcpy(sum, found, g->count * sizeof *sum);
  other = shares_sum(t, middle, end, depth + 1);
  if (me == right && me != left) note(t, ie_ranks_send(ranks, other, g->count, left, t->error));
  if (me != left) return NULL;
  if (me != right) {
    other = g->block;
    note(t, ie_ranks_receive(ranks, other, g->count, right, t->error));
  }
  add_run run = {sum, other};
  ie_team_for(g->device->team, (int64_t)g->count, 1 << 14, add_part, &run);
  return sum;
}

static ie_status in_order(ie_global *g, const ie_data_batch *b, ie_error *error) {
  tree t = {.g = g, .batch = b, .error = error};
  const real *sum = shares_sum(&t, 0, g->shares, 0);
  ie_status status = ie_ranks_agree(g->options.ranks, t.status, error);
  if (status != IE_OK) return status;
  if (sum && sum != g->block) memcpy(g->block, sum, g->count * sizeof *sum);
  return ie_ranks_broadcast(g->options.ranks, g->block, g->count, /*root=*/0, error);
}

ie_status ie_global_compute(ie_global *g, const ie_data_batch *b, double *loss, ie_error *error) {
  bool fixed = g->options.deterministic;
  size_t numbers = (size_t)g->shares * g->width;
  *loss = 0;
  memset(g->numbers, 0, numbers * sizeof *g->numbers);
  ie_status status = fixed ? in_order(g, b, error) : as_it_comes(g, b, error);
  /* Of each share one process has numbers and the others zeros, so that any order gives the same sum. */
  if (status == IE_OK) status = ie_ranks_sum_doubles(g->options.ranks, g->numbers, numbers, error);
  if (status != IE_OK) return status;
  for (int64_t i = 0; i < g->shares; i++) {
    *loss += g->numbers[(size_t)i * g->width];
    ie_gradients_counters_add(g->gradients, &g->numbers[(size_t)i * g->width + 1]);
  }
  return IE_OK;
}
