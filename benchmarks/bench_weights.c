/* What arithmetic classes and quantised weights cost in quality: the Kullback-Leibler divergence of the next-token
 * distribution from that of class bf16 with published weights, in nats a token (mean, and the largest of one token), how
 * often the most probable token is the same, and the mean next-token loss.
 *
 *   bench_weights MODEL_DIR [TEXT_FILE] [rows of 256 tokens]
 *
 * Without a text (or a tokenizer) the tokens are pseudo-random: then the loss says nothing. */
#include "clocher/clocher.h"

#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_TOK = 256 };

typedef struct setting {
  const char *name;
  ie_precision precision;
  ie_weights weights;
} setting;

static const setting settings[] = {
    {"bf16, published", IE_PRECISION_BF16, IE_WEIGHTS_PUBLISHED}, /* the reference */
    {"fp32, published", IE_PRECISION_FP32, IE_WEIGHTS_PUBLISHED},
    {"int8, published", IE_PRECISION_INT8, IE_WEIGHTS_PUBLISHED},
    {"bf16, int8 weights", IE_PRECISION_BF16, IE_WEIGHTS_INT8},
    {"int8, int8 weights", IE_PRECISION_INT8, IE_WEIGHTS_INT8},
    {"bf16, int4 weights", IE_PRECISION_BF16, IE_WEIGHTS_INT4},
    {"int8, int4 weights", IE_PRECISION_INT8, IE_WEIGHTS_INT4},
};
enum { SETTINGS = sizeof settings / sizeof settings[0] };

typedef struct subject {
  ie_model *model;
  ie_state *state;
  float *logits; /* (ROW_TOK, V) of the current row */
  double kl, kl_most, loss;
  int64_t same, count;
} subject;

static void check(ie_status status, const ie_error *error) {
  if (status == IE_OK) return;
  fprintf(stderr, "%s\n", error->message);
  exit(1);
}

typedef struct keeper {
  float *out;
  int64_t vocab;
} keeper;

static ie_status keep(void *arg, int64_t position, int64_t count, const float *logits, ie_error *error) {
  (void)error;
  keeper *k = arg;
  memcpy(k->out + position * k->vocab, logits, (size_t)(count * k->vocab) * sizeof *logits);
  return IE_OK;
}

/* log sum exp of one row, in double. */
static double log_sum(const float *x, int64_t n, int64_t *best) {
  *best = 0;
  for (int64_t i = 1; i < n; i++)
    if (x[i] > x[*best]) *best = i;
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - (double)x[*best]);
  return log(sum) + (double)x[*best];
}

static void compare(subject *s, const float *reference, int64_t V, const int32_t *ids) {
  for (int64_t t = 0; t + 1 < ROW_TOK; t++) {
    const float *p = reference + t * V, *q = s->logits + t * V;
    int64_t best_p, best_q;
    double zp = log_sum(p, V, &best_p), zq = log_sum(q, V, &best_q), kl = 0;
    for (int64_t i = 0; i < V; i++) {
      double lp = (double)p[i] - zp;
      kl += exp(lp) * (lp - ((double)q[i] - zq));
    }
    s->kl += kl;
    s->kl_most = fmax(s->kl_most, kl);
    s->loss += zq - (double)q[ids[t + 1]];
    s->same += best_p == best_q;
    s->count++;
  }
}

static char *text_read(const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  char *text = malloc(1 << 20);
  if (!f || !text) exit(1);
  *size = fread(text, 1, 1 << 20, f);
  while (*size > 0 && ((unsigned char)text[*size - 1] & 0xC0) == 0x80) --*size; /* not within a character */
  if (*size == 1 << 20) --*size;
  fclose(f);
  return text;
}

static ie_ids ids_read(const char *dir, const char *path) {
  ie_error error = {0};
  ie_tokenizer *tokenizer;
  ie_ids ids = {0};
  size_t size;
  char *text = text_read(path, &size);
  check(ie_tokenizer_open_dir(dir, NULL, &tokenizer, &error), &error);
  if (!tokenizer) exit(1);
  check(ie_tokenizer_encode(tokenizer, text, size, NULL, &ids, &error), &error);
  ie_tokenizer_free(tokenizer);
  free(text);
  return ids;
}

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  int64_t rows = argc > 3 ? atoll(argv[3]) : 32;
  ie_error error = {0};
  ie_device *device;
  ie_ids text = {0};
  subject subjects[SETTINGS] = {0};
  check(ie_device_open(NULL, &device, &error), &error);
  if (argc > 2) text = ids_read(argv[1], argv[2]);
  if (argc > 2 && (int64_t)text.count / ROW_TOK < rows) rows = (int64_t)text.count / ROW_TOK;
  for (int i = 0; i < SETTINGS; i++) {
    ie_model_options o = {.precision = settings[i].precision, .dense_weights = settings[i].weights};
    check(ie_model_open(device, argv[1], &o, &subjects[i].model, &error), &error);
    check(ie_state_new(subjects[i].model, &(ie_state_options){.context_tok = ROW_TOK}, &subjects[i].state,
                       &error),
          &error);
    int64_t V = ie_model_describe(subjects[i].model)->vocab;
    subjects[i].logits = malloc((size_t)(ROW_TOK * V) * sizeof(float));
    if (!subjects[i].logits) return 1;
  }
  int64_t V = ie_model_describe(subjects[0].model)->vocab;
  for (int64_t row = 0; row < rows; row++) {
    int32_t ids[ROW_TOK];
    for (int64_t i = 0; i < ROW_TOK; i++)
      ids[i] = text.count ? text.ids[row * ROW_TOK + i]
                          : (int32_t)(ie_rng_u64(1, (uint64_t)row, (uint64_t)i) % (uint64_t)V);
    for (int i = 0; i < SETTINGS; i++) {
      subject *s = &subjects[i];
      keeper k = {s->logits, V};
      check(ie_state_rollback(s->state, 0, 0, &error), &error);
      check(ie_state_append(s->state, 0, ids, ROW_TOK,
                            &(ie_append_options){.all_logits = true, .logits = keep, .arg = &k}, &error),
            &error);
      compare(s, subjects[0].logits, V, ids);
    }
  }
  printf("%s, %lld tokens of %s\n", argv[1], (long long)subjects[0].count, argc > 2 ? argv[2] : "random ids");
  for (int i = 0; i < SETTINGS; i++) {
    subject *s = &subjects[i];
    double n = (double)s->count;
    printf("%-20s KL %.6f (most %.4f)  same token %.2f%%  loss %.4f\n", settings[i].name, s->kl / n,
           s->kl_most, 100 * (double)s->same / n, s->loss / n);
    ie_state_free(s->state);
    ie_model_free(s->model);
    free(s->logits);
  }
  ie_ids_free(&text);
  ie_device_free(device);
  return 0;
}
