/* What the parts of `clocher bench` share: settings, lists of numbers, and who else used the machine. */
#ifndef CLOCHER_CLI_BENCH_H
#define CLOCHER_CLI_BENCH_H

#include "cli.h"
#include "clocher/bench.h"
#include "out.h"

typedef struct bench_settings {
  const char *model_dir, *phase, *prompt, *depth, *batch, *path, *tokenizer, *encoding, *text;
  int64_t runs, tokens, chunk, vocab;
  uint64_t buffer;
  int kv;
  bool json;
} bench_settings;

enum { BENCH_LIST_MAX = 32 };

typedef struct bench_list {
  int64_t item[BENCH_LIST_MAX];
  int count;
} bench_list;

/* "0,2048": integers of at least min. -1, or the exit code of a usage error that names the flag. */
int bench_list_parse(const cli_context *context, const char *flag, const char *text, int64_t min,
                     bench_list *out);

/* CPU time of the whole machine and of this process. */
typedef struct bench_load {
  double time_s, busy_s, steal_s, own_s;
} bench_load;

bench_load bench_load_read(void);

/* Between two readings: seconds of processors that others used and that the hypervisor kept. */
typedef struct bench_foreign {
  double cpu_s, steal_s;
  bool quiet; /* others used at most 5% of the processors */
} bench_foreign;

bench_foreign bench_foreign_between(const bench_load *before, const bench_load *after);

/* Median, smallest and largest of `count` > 0 values. */
typedef struct bench_spread {
  double median, min, max;
} bench_spread;
bench_spread bench_spread_of(const double *values, size_t count);

/* "4 streams + prefetch 1 KB". */
const char *bench_pattern_name(const ie_read_pattern *pattern, char *out, size_t size);

/* The same pseudo-random id below vocab for the same place. */
int32_t bench_id(int64_t place, int64_t vocab);

/* The commands: each returns an exit code. */
int bench_engine(cli_context *context, const bench_settings *s);
int bench_memory(cli_context *context, const bench_settings *s);
int bench_matrix(cli_context *context, const bench_settings *s);
int bench_disk(cli_context *context, const bench_settings *s);
int bench_tokenizer(cli_context *context, const bench_settings *s);
int bench_sampler(cli_context *context, const bench_settings *s);

#endif
