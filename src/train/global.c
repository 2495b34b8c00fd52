#include "train/global.h"

#include "base/size.h"
#include "train/param_class.h"

#include <stdlib.h>
#include <string.h>

/* Gradients that are summed together, side by side in the block. */
typedef struct bucket {
  real *first;
  size_t count;
  int64_t params, waits; /* how many parameters, and those of them whose gradients are not ready */
} bucket;

struct ie_global {
  ie_gradients *gradients;
  const ie_param_list *params;
  bucket *bucket;     /* (buckets) in the order in which gradients become ready; NULL: one process */
  int64_t *bucket_of; /* (params) */
  int64_t buckets,
      begun;  /* begun: sums of this step that were begun, in the order of buckets in all processes */
  bool flows; /* the last forward runs: what becomes ready may be summed */
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

/* --- Sums beside the backward ---------------------------------------------------------------------------------- */

/* Numbers of a bucket: 4 MB; of small models a sixteenth. */
enum { BUCKET_MOST = 1 << 20, BUCKETS = 16 };

/* Buckets of embeddings, or of all other parameters, from the end of the block on: neighbours of one kind share one. */
static void buckets_of_kind(ie_global *g, bool embeddings, size_t enough) {
  const ie_param_list *params = g->params;
  real *end = g->block + g->count;
  bool open = false;
  for (int64_t i = params->count; i-- > 0;) {
    ie_param *param = params->item[i];
    if ((ie_param_class_of(param) == IE_PARAM_EMBEDDING) == embeddings) {
      bucket *b = &g->bucket[g->buckets];
      b->first = param->grad;
      b->count = (size_t)(end - b->first);
      b->params++;
      g->bucket_of[i] = g->buckets;
      open = true;
      if (b->count < enough) continue;
    }
    if (open) g->buckets++;
    open = false;
    end = param->grad;
  }
  if (open) g->buckets++;
}

/* False when memory is out. */
static bool buckets_make(ie_global *g) {
  size_t params = (size_t)g->params->count + 1;
  g->bucket = calloc(params, sizeof *g->bucket);
  g->bucket_of = calloc(params, sizeof *g->bucket_of);
  if (!g->bucket || !g->bucket_of) return false;
  size_t enough = g->count / BUCKETS < BUCKET_MOST ? g->count / BUCKETS : BUCKET_MOST;
  buckets_of_kind(g, /*embeddings=*/false, enough);
  buckets_of_kind(g, /*embeddings=*/true, enough); /* complete last, wherever they lie */
  return true;
}

/* Begins what is complete and next in order; all: whatever is left. */
static void buckets_begin(ie_global *g, bool all) {
  for (; g->begun < g->buckets && (all || g->bucket[g->begun].waits == 0); g->begun++)
    ie_ranks_sum_begin(g->options.ranks, g->bucket[g->begun].first, g->bucket[g->begun].count);
}

/* on_grad_ready */
static void param_ready(void *arg, ie_param *param) {
  ie_global *g = arg;
  if (!g->flows) return;
  for (int64_t i = 0; i < g->params->count; i++)
    if (g->params->item[i] == param) g->bucket[g->bucket_of[i]].waits--;
  buckets_begin(g, /*all=*/false);
  ie_ranks_sum_poll(g->options.ranks);
}

static void flow_begin(ie_global *g) {
  g->begun = 0;
  for (int64_t i = 0; i < g->buckets; i++) g->bucket[i].waits = g->bucket[i].params;
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
  g->params = ie_gradients_params(gradients);
  g->width = 1 + ie_gradients_counter_count(gradients);
  size_t levels = (size_t)ie_global_levels(shares), bytes;
  bool ok = ie_size_mul(g->count * sizeof *g->level, levels, &g->level_bytes) &&
            ie_size_mul(g->width * sizeof *g->numbers, (size_t)shares, &bytes);
  if (ok && levels > 0) g->level = device->alloc(device, g->level_bytes);
  if (ok) g->numbers = malloc(bytes);
  bool flows = !fixed && ie_ranks_size(options->ranks) > 1;
  if (ok && flows) ok = buckets_make(g);
  if (ok && flows) ie_gradients_on_ready(gradients, param_ready, g);
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
  if (g->bucket) ie_gradients_on_ready(g->gradients, NULL, NULL);
  free(g->bucket);
  free(g->bucket_of);
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
  flow_begin(g);
  for (int64_t first = 0; first < b->rows && status == IE_OK; first += micro) {
    g->flows = first + micro >= b->rows;
    status = rows_add(g, b, first, ie_min_i64(micro, b->rows - first), /*at=*/0, error);
  }
  g->flows = false;
  ie_gradients_counters_take(g->gradients, g->numbers + 1);
  /* After a failure too: the other processes wait for these sums before they agree that there was one. */
  buckets_begin(g, /*all=*/true);
  ie_error lost = {0};
  ie_status summed = ie_ranks_sum_end(g->options.ranks, &lost);
  if (status == IE_OK && summed != IE_OK) status = ie_error_set(error, summed, "%s", lost.message);
  return ie_ranks_agree(g->options.ranks, status, error);
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
