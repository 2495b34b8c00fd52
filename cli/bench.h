/* What the parts of `clocher bench` share: settings, lists of numbers, and who else used the machine. */
#ifndef CLOCHER_CLI_BENCH_H
#define CLOCHER_CLI_BENCH_H

#include "cli.h"
#include "clocher/bench.h"
#include "out.h"

typedef struct bench_settings {
  const char *model_dir, *phase, *prompt, *depth, *batch, *neighbour, *path, *tokenizer, *encoding, *text;
  int64_t runs, tokens, chunk, vocab;
  uint64_t buffer, probe_read;
  int kv, fill, pretranspose;
  bool json;
} bench_settings;

enum { BENCH_FILL_RANDOM, BENCH_FILL_PREFILL }; /* --fill */

enum { BENCH_LIST_MAX = 32 };

typedef struct bench_list {
  int64_t item[BENCH_LIST_MAX];
  int count;
} bench_list;

/* "0,2048": integers of at least min. -1, or the exit code of a usage error that names the flag. */
int bench_list_parse(const cli_context *context, const char *flag, const char *text, int64_t min,
                     bench_list *out);

/* Others used at most 5% of the processors since the mark, the hypervisor's share included. */
bool bench_quiet(const ie_load *load);

/* Median, smallest and largest of `count` > 0 values. */
typedef struct bench_spread {
  double median, min, max;
} bench_spread;
bench_spread bench_spread_of(const double *values, size_t count);

/* The same pseudo-random id below vocab for the same place. */
int32_t bench_id(int64_t place, int64_t vocab);

/* A foreign process that spins on one processor (bench_neighbour.c); all zero: none. */
typedef struct bench_neighbour {
  int pid;
} bench_neighbour;

/* Starts it and waits until it runs there. It ends with this process at the latest. */
ie_status bench_neighbour_start(int64_t cpu, bench_neighbour *out, ie_error *error);
/* Ends it, if there is one; the processor seconds that it took. */
double bench_neighbour_stop(bench_neighbour *n);

/* The commands: each returns an exit code. */
int bench_engine(cli_context *context, const bench_settings *s);
int bench_memory(cli_context *context, const bench_settings *s);
int bench_matrix(cli_context *context, const bench_settings *s);
int bench_disk(cli_context *context, const bench_settings *s);
int bench_tokenizer(cli_context *context, const bench_settings *s);
int bench_sampler(cli_context *context, const bench_settings *s);

#endif
