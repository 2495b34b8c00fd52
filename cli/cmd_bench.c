/* clocher bench: what to measure. bench_engine.c and bench_machine.c measure. */
#include "bench.h"
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const fills[] = {"random", "prefill", NULL};

static const cli_option options[] = {
    {"--model-dir", CLI_AS_PATH(bench_settings, model_dir), .argument = "D",
     .meaning = "Model to measure: decode and prefill, or its tokenizer."},
    {"--phase", CLI_AS_STRING(bench_settings, phase), .argument = "LIST", .fallback = "decode,prefill",
     .meaning = "What of the model: decode, prefill, or both."},
    {"--prompt", CLI_AS_STRING(bench_settings, prompt), .argument = "LIST", .fallback = "512",
     .meaning = "Prompt lengths of prefill."},
    {"--depth", CLI_AS_STRING(bench_settings, depth), .argument = "LIST", .fallback = "0",
     .meaning = "Tokens that each sequence holds before what is measured."},
    {"--fill", CLI_AS_CHOICE(bench_settings, fill), .argument = "F", .fallback = "random", .choices = fills,
     .meaning = "How --depth is reached: random keys and values, or a real prefill, which may take long."},
    {"--batch", CLI_AS_STRING(bench_settings, batch), .argument = "LIST", .fallback = "1",
     .meaning = "Sequences decoded together. Prefill reads one."},
    {"--neighbour", CLI_AS_STRING(bench_settings, neighbour), .argument = "LIST",
     .meaning = "Processors: each case again while a foreign process spins on one of them."},
    {"--runs", CLI_AS_INT(bench_settings, runs), .argument = "N", .fallback = "5", .min = 1, .max = 1000,
     .meaning = "Runs of each case; the median is the result."},
    {"--tokens", CLI_AS_INT(bench_settings, tokens), .argument = "N", .fallback = "32", .min = 1,
     .max = 65536, .meaning = "Tokens of each decode run."},
    {"--chunk", CLI_AS_INT(bench_settings, chunk), .argument = "N", .fallback = "512", .min = 1,
     .max = 1 << 20, .meaning = "Prompt tokens per forward."},
    {"--kv", CLI_AS_CHOICE(bench_settings, kv), .argument = "T", .fallback = "auto", .choices = cli_kv_names,
     .meaning = "Type of cached keys and values. auto: f32 for --precision fp32, else f16."},
    {"--pretranspose", CLI_AS_CHOICE(bench_settings, pretranspose), .argument = "V", .fallback = "none",
     .choices = cli_pretranspose_names, .meaning = "Ignored: weights are computed where they lie."},
    {"--probe-buffer", CLI_AS_SIZE(bench_settings, buffer), .argument = "SIZE",
     .meaning = "Memory that the read ceiling is measured on; default: 2GiB, less where there is less."},
    {"--probe-read", CLI_AS_SIZE(bench_settings, probe_read), .argument = "SIZE",
     .meaning =
         "Bytes to read for each pattern of the read ceiling; default: 4GiB. Less is quicker and says less."},
    {"--path", CLI_AS_PATH(bench_settings, path), .argument = "F",
     .meaning = "disk: a file to read, or a folder: its largest file, or, when that has less than 1 MiB, a "
                "temporary one."},
    {"--tokenizer", CLI_AS_PATH(bench_settings, tokenizer), .argument = "FILE",
     .meaning = "tokenizer: a tokenizer file instead of a model directory."},
    {"--encoding", CLI_AS_STRING(bench_settings, encoding), .argument = "NAME",
     .meaning = "tokenizer: what a .tiktoken file is (o200k_harmony, qwen2.5, qwen3, nanochat, llama3)."},
    {"--text", CLI_AS_PATH(bench_settings, text), .argument = "F",
     .meaning = "tokenizer: the text to encode."},
    {"--vocab", CLI_AS_INT(bench_settings, vocab), .argument = "N", .fallback = "201088", .min = 1,
     .max = 1 << 28, .meaning = "sampler: logits in a row."},
    {"--json", CLI_AS_FLAG(bench_settings, json), .meaning = "One JSON object a line and case."},
    {0},
};

int bench_list_parse(const cli_context *context, const char *flag, const char *text, int64_t min,
                     bench_list *out) {
  *out = (bench_list){0};
  for (const char *at = text;;) {
    size_t length = strcspn(at, ",");
    char item[24];
    snprintf(item, sizeof item, "%.*s", (int)length, at);
    if (out->count == BENCH_LIST_MAX || length >= sizeof item ||
        !cli_parse_int(item, min, INT64_C(1) << 30, &out->item[out->count++]))
      return cli_usage(context,
                       "%s: expected up to %d integers of at least %lld, such as 512,2048; found '%s'", flag,
                       BENCH_LIST_MAX, (long long)min, text);
    if (!at[length]) return -1;
    at += length + 1;
  }
}

bool bench_quiet(const ie_load *load) {
  double processors = (double)sysconf(_SC_NPROCESSORS_ONLN);
  return load->foreign_cpu_s + load->steal_s <= 0.05 * load->wall_s * processors;
}

bench_spread bench_spread_of(const double *values, size_t count) {
  return (bench_spread){cli_quantile(values, count, 0.5), cli_quantile(values, count, 0),
                        cli_quantile(values, count, 1)};
}

/* The finaliser of SplitMix64: neighbours get unrelated ids, so experts are routed as in real text. */
int32_t bench_id(int64_t place, int64_t vocab) {
  uint64_t z = (uint64_t)place * 0x9E3779B97F4A7C15u + 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return (int32_t)((z ^ (z >> 31)) % (uint64_t)vocab);
}

/* What can be measured, and the flags that act on it. */
typedef struct part {
  const char *name;
  int (*run)(cli_context *context, const bench_settings *s);
  unsigned common;
  const char *flags[16];
} part;

static const part parts[] = {
    {"a bench of a model",
     bench_engine,
     CLI_USES_MODEL,
     {"--model-dir", "--phase", "--prompt", "--depth", "--fill", "--batch", "--neighbour", "--pretranspose",
      "--runs", "--tokens", "--chunk", "--kv", "--probe-buffer", "--probe-read"}},
    {"memory", bench_memory, CLI_USES_TEAM, {"--probe-buffer", "--probe-read"}},
    {"matrix", bench_matrix, CLI_USES_TEAM, {NULL}},
    {"disk", bench_disk, 0, {"--path", "--model-dir"}},
    {"tokenizer",
     bench_tokenizer,
     CLI_USES_CACHE,
     {"--model-dir", "--tokenizer", "--encoding", "--text", "--runs"}},
    {"sampler", bench_sampler, 0, {"--vocab", "--runs"}},
};

/* Says of each flag that was given whether it does nothing here. */
static void unused_log(const cli_context *context, const part *p) {
  cli_unused_log(context, p->name, p->common);
  for (const cli_option *o = options; o->name; o++) {
    bool used = !strcmp(o->name, "--json");
    for (size_t i = 0; !used && i < 16 && p->flags[i]; i++) used = !strcmp(o->name, p->flags[i]);
    if (!used && cli_given(context, o->name))
      cli_log(context, "clocher: %s is ignored: %s does not use it", o->name, p->name);
  }
}

static int bench_run(cli_context *context, void *opaque) {
  const bench_settings *s = opaque;
  if (context->arg_count == 0) {
    if (!s->model_dir)
      return cli_usage(context, "give --model-dir D, or one of memory, matrix, disk, tokenizer, sampler");
    unused_log(context, &parts[0]);
    return bench_engine(context, s);
  }
  for (size_t i = 1; i < sizeof parts / sizeof *parts; i++)
    if (!strcmp(context->args[0], parts[i].name)) {
      unused_log(context, &parts[i]);
      return parts[i].run(context, s);
    }
  const char *names[] = {"memory", "matrix", "disk", "tokenizer", "sampler", NULL};
  const char *nearest = cli_nearest(context->args[0], names);
  return cli_usage(context, "unknown benchmark '%s'%s%s", context->args[0],
                   nearest ? "; the nearest is " : ": expected memory, matrix, disk, tokenizer or sampler",
                   nearest ? nearest : "");
}

const cli_command cmd_bench = {
    .name = "bench",
    .summary = "Measure, beside the machine's own ceilings",
    .usage = "(--model-dir D | memory | matrix | disk | tokenizer | sampler) [flags]",
    .help = "Each case is measured between two probes of its ceiling, by the same pinned threads. "
            "`ratio` is the\n"
            "speed reached over the ceiling that binds (memory or matrix units) for the bytes and operations "
            "that were\n"
            "counted. `valid` is false when others used more than 5% of the processors meanwhile, or the two "
            "probes\n"
            "of that ceiling differ by more than 5%: repeat such a case.",
    .options = options,
    .settings_bytes = sizeof(bench_settings),
    .common = CLI_USES_MODEL | CLI_USES_CACHE,
    .args_max = 1,
    .run = bench_run,
};
