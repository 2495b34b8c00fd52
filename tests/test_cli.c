/* The command line from outside: help, flags, exit codes, streams. */
#include "support/program.h"
#include "support/tempdir.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char model[] = "tests/data/models/gpt-oss-hf";

static void help_goes_to_stdout(void **state) {
  (void)state;
  static const char *const lines[] = {"",           "--help",       "-h",          "help",
                                      "help run",   "run --help",   "run -h",      "run --model-dir x --help",
                                      "help train", "train --help", "bench --help"};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    program_result r = program_run("%s", lines[i]);
    if (r.code != 0 || r.err[0] || r.out_size < 40) fail_msg("'%s': exit %d: %s", lines[i], r.code, r.err);
    program_free(&r);
  }
  program_result r = program_run("run --help");
  assert_non_null(strstr(r.out, "--max-new N"));
  assert_non_null(strstr(r.out, "[default: 128]"));
  assert_non_null(strstr(r.out, "[required]"));
  assert_non_null(strstr(r.out, "--threads N"));
  program_free(&r);
}

/* Every listed command explains itself, and refuses a flag that no command has. */
static void every_command_knows_its_flags(void **state) {
  (void)state;
  program_result all = program_run("--help");
  char *end = strstr(all.out, "\n\nNot built yet");
  assert_non_null(end);
  *end = '\0';
  int count = 0;
  for (char *line = strstr(all.out, "Commands:\n"); (line = strstr(line, "\n  ")); line++) {
    char name[32];
    assert_int_equal(sscanf(line, " %31s", name), 1);
    program_expect(0, NULL, "%s --help", name);
    program_expect(2, "unknown flag --thread; the nearest is --threads", "%s --thread 2", name);
    program_expect(2, "unknown flag --zzzz", "%s --zzzz=1", name);
    count++;
  }
  assert_true(count >= 10);
  program_free(&all);
}

static void wrong_words_are_refused_with_the_nearest(void **state) {
  (void)state;
  program_expect(2, "the nearest command is run", "rum");
  program_expect(2, "the nearest command is tokenize", "tokenise");
  program_expect(2, "the nearest command is version", "--verison");
  program_expect(2, "the nearest command is logits", "help logit");
  program_expect(2, "--temperature", "run --model-dir x --ids 1 --temp 3");
  program_expect(2, "--max-new", "run --model-dir x --ids 1 --maxnew 3");
  program_expect(2, "the nearest is tokenizer", "train tokeniser --vocab 300");
  program_expect(1, "not built yet", "serve");
  program_expect(2, "unexpected argument 'x'", "version x");
  program_expect(2, "the nearest is memory", "bench memroy");
  /* nothing is suggested that is not near */
  static const char *const far[] = {"run --model-dir x --zzzzzz", "zzzzzzzz", "bench zzzzzz"};
  for (size_t i = 0; i < sizeof far / sizeof *far; i++) {
    program_result r = program_run("%s", far[i]);
    if (r.code != 2 || !strstr(r.err, "unknown") || strstr(r.err, "nearest"))
      fail_msg("%s: %s", far[i], r.err);
    program_free(&r);
  }
}

static void values_are_checked(void **state) {
  (void)state;
  static const struct {
    const char *flags, *message;
  } bad[] = {
      {"--threads 0", "from 1 to 1024"},
      {"--threads 1025", "from 1 to 1024"},
      {"--threads two", "'two'"},
      {"--threads 2x", "'2x'"},
      {"--threads ' 2'", "' 2'"},
      {"--threads 2.0", "'2.0'"},
      {"--threads=", "found ''"},
      {"--threads", "needs a value"},
      {"--threads --quiet", "needs a value, found the flag --quiet"},
      {"--threads 99999999999999999999", "99999999999999999999"},
      {"--precision fp8", "fp32, bf16, fp16, int8"},
      {"--precision BF16", "found 'BF16'"},
      {"--memory 4gib", "found '4gib'"},
      {"--memory 4 GiB", NULL},
      {"--memory -1", "found '-1'"},
      {"--memory 99999999999GiB", "found"},
      {"--memory 1.5GiB", "found"},
      {"--quiet=1", "takes no value"},
      {"--device gpu", "auto, cpu, cuda, cuda:N, ze"},
      {"--device cuda:", "found 'cuda:'"},
      {"--device cuda:1x", "found 'cuda:1x'"},
      {"--affinity all", "auto, none, compact, scatter"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    program_expect(2, bad[i].message, "version %s", bad[i].flags);
  program_expect(2, "from 0 to 9007199254740992", "run --model-dir %s --ids 1 --seed 9007199254740993",
                 model);
  static const char *const good[] = {"--threads 2",     "--threads=2",
                                     "--memory 512MiB", "--memory=4GB",
                                     "--memory 1000",   "--precision int8 --deterministic",
                                     "--quiet --quiet", "--",
                                     "--device cpu"};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) program_expect(0, NULL, "version %s", good[i]);
  program_expect(0, "given more than once", "version --threads 2 --threads 3");
  program_expect(1, "not built", "version --device cuda");
  program_expect(1, "not built", "version --device cuda:1");
  program_expect(1, "not built", "version --device ze");
  static const char *const floats[] = {"nan", "inf", "0x1", "1e", "", "-1", "1,5", "1e999"};
  for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
    program_expect(2, "--temperature", "run --model-dir x --ids 1 --temperature '%s'", floats[i]);
}

/* A flag that does nothing says so, unless --quiet; one that acts does not. */
static void idle_flags_are_named(void **state) {
  (void)state;
  program_expect(0, "--memory is ignored: version does not use it", "version --memory 4GiB");
  program_expect(0, "--precision is ignored: sampler does not use it",
                 "bench sampler --vocab 100 --runs 1 --precision fp32");
  program_expect(0, "--batch is ignored: sampler does not use it",
                 "bench sampler --vocab 100 --runs 1 --batch 2");
  program_expect(0, "--top-k is ignored: --temperature 0",
                 "run --model-dir %s --ids 1 --max-new 1 --temperature 0 --top-k 5", model);
  static const char *const cached[] = {"tokenize",   "detokenize", "chat-format",
                                       "chat-parse", "inspect",    "run"};
  for (size_t i = 0; i < sizeof cached / sizeof *cached; i++) {
    program_result help = program_run("%s --help", cached[i]);
    assert_non_null(strstr(help.out, "\n  --no-cache "));
    program_free(&help);
  }
  program_expect(0, "--seed is ignored: --greedy", "run --model-dir %s --ids 1 --max-new 1 --greedy --seed 5",
                 model);
  static const char *const silent[] = {
      "version --memory 4GiB --quiet", "version --device cpu",
      "run --model-dir tests/data/models/gpt-oss-hf --ids 1 --max-new 1 --temperature 0 --top-k 5 --quiet"};
  for (size_t i = 0; i < sizeof silent / sizeof *silent; i++) {
    program_result r = program_run("%s", silent[i]);
    assert_int_equal(r.code, 0);
    assert_string_equal(r.err, "");
    program_free(&r);
  }
  program_result r = program_run("run --model-dir %s --ids 1 --max-new 1 --temperature 0 --threads 2 "
                                 "--affinity compact --precision fp32 "
                                 "--deterministic --memory 64GiB --device cpu --no-cache",
                                 model);
  assert_int_equal(r.code, 0);
  assert_null(strstr(r.err, "ignored"));
  program_free(&r);
  r = program_run("version --help");
  assert_non_null(strstr(r.out, "Ignored here: --threads, --affinity, --precision"));
  program_free(&r);
}

static void version_says_what_is_there(void **state) {
  (void)state;
  json_t *v = program_json("version --json");
  const char *version, *commit, *used;
  json_t *isa, *features;
  assert_int_equal(json_unpack(v, "{s:s, s:s, s:o, s:s, s:o}", "version", &version, "commit", &commit, "isa",
                               &isa, "isa_used", &used, "features", &features),
                   0);
  assert_true(json_array_size(isa) >= 1);
  assert_string_equal(json_string_value(json_array_get(isa, 0)), "scalar");
  static const char *const keys[] = {"cuda", "mpi", "nccl", "uring", "curl"};
  for (size_t i = 0; i < 5; i++) assert_true(json_is_boolean(json_object_get(features, keys[i])));
  const char *forced = getenv("CLOCHER_ISA");
  if (forced && *forced) assert_string_equal(used, forced);
  char name[32];
  snprintf(name, sizeof name, "%s", json_string_value(json_array_get(isa, json_array_size(isa) - 1)));
  json_decref(v);
  /* each that is listed can be forced; one that is not, and nonsense, are refused */
  char *saved = forced ? strdup(forced) : NULL;
  setenv("CLOCHER_ISA", name, 1);
  program_expect(0, NULL, "version");
  if (strcmp(name, "amx") != 0) {
    setenv("CLOCHER_ISA", "amx", 1);
    program_expect(2, "amx", "version");
    program_expect(2, "amx", "run --model-dir %s --ids 1 --max-new 1", model);
  }
  setenv("CLOCHER_ISA", "sse9", 1);
  program_expect(2, "sse9", "version");
  if (saved)
    setenv("CLOCHER_ISA", saved, 1);
  else
    unsetenv("CLOCHER_ISA");
  free(saved);
}

/* The shell does what a pipe or a file descriptor cannot express here. */
static int shell(const char *script, char *out, size_t size) {
  const char *program = getenv("CLOCHER_BIN");
  char *command;
  assert_true(asprintf(&command, "exec 2>&1; C='%s'; %s", program && *program ? program : "build/clocher",
                       script) > 0);
  FILE *stream = popen(command, "r");
  assert_non_null(stream);
  size_t n = fread(out, 1, size - 1, stream);
  out[n] = '\0';
  free(command);
  int status = pclose(stream);
  return status < 0 ? -1 : status >> 8;
}

static void write_errors_are_reported(void **state) {
  (void)state;
  char out[4096];
  assert_int_equal(shell("$C version >/dev/full; exit $?", out, sizeof out), 1);
  assert_non_null(strstr(out, "cannot write to standard output: No space left"));
  assert_int_equal(
      shell(
          "$C run --model-dir tests/data/models/gpt-oss-hf --ids 1,2 --max-new 2 --quiet >/dev/full; exit $?",
          out, sizeof out),
      1);
  assert_non_null(strstr(out, "cannot write"));
  /* nor does it count as written when there is no stdout at all */
  assert_int_equal(shell("$C version >&-; exit $?", out, sizeof out), 1);
  assert_non_null(strstr(out, "cannot write to standard output: Bad file descriptor"));
  assert_int_equal(
      shell("$C run --model-dir tests/data/models/gpt-oss-hf --ids 1,2 --max-new 2 --quiet >&-; exit $?", out,
            sizeof out),
      1);
  assert_non_null(strstr(out, "cannot write to standard output: Bad file descriptor"));
}

static void a_closed_stdout_ends_quietly(void **state) {
  (void)state;
  char out[4096];
  int ends[2];
  /* descriptor 9 is a pipe that nobody can read any more, before the program begins */
  assert_int_equal(pipe(ends), 0);
  assert_int_equal(close(ends[0]), 0);
  assert_int_equal(dup2(ends[1], 9), 9);
  assert_int_equal(shell("$C run --help >&9; echo code $?", out, sizeof out), 0);
  assert_string_equal(out, "code 0\n");
  assert_int_equal(shell("$C version --json >&9; echo code $?", out, sizeof out), 0);
  assert_string_equal(out, "code 0\n");
  if (ends[1] != 9) close(ends[1]);
  close(9);
  assert_int_equal(shell("$C version --json <&-; exit $?", out, sizeof out), 0);
  /* a reader that goes away in the middle: no message, no endless work. The pipe is smaller than what is written, so
   * that the program cannot be done before. */
  program_child child = program_start(
      "run --model-dir %s --ids '1,2;3,4;5,6;7,8' --max-new 500 --ignore-eos --print-ids", model);
  assert_true(fcntl(child.out, F_SETPIPE_SZ, 4096) >= 4096);
  program_wait_output(&child, 5);
  close(child.out);
  child.out = -1;
  program_result r = program_end(&child);
  assert_int_equal(r.code, 0);
  assert_string_equal(r.err, "");
  program_free(&r);
}

static void what_cannot_be_replaced_is_refused_at_once(void **state) {
  (void)state;
  char out[4096];
  assert_int_equal(
      shell("$C run --model-dir /nowhere --ids 1 --save-state /dev/full; exit $?", out, sizeof out), 1);
  assert_non_null(strstr(out, "--save-state /dev/full: expected a file, found a device"));
  assert_int_equal(shell("$C logits --model-dir /nowhere --ids 1 --out /dev/null; exit $?", out, sizeof out),
                   1);
  assert_non_null(strstr(out, "--out /dev/null: expected a file, found a device"));
}

static void an_empty_path_is_refused(void **state) {
  (void)state;
  static const char *const given[] = {"run --model-dir",
                                      "run --model-dir x --prompt-file",
                                      "run --model-dir x --prompts-file",
                                      "run --model-dir x --ids-file",
                                      "run --model-dir x --ids 1 --load-state",
                                      "run --model-dir x --ids 1 --save-state",
                                      "chat --model-dir",
                                      "chat --model-dir x --history",
                                      "logits --model-dir",
                                      "logits --model-dir x --ids 1 --out",
                                      "plan --model-dir",
                                      "tokenize --tokenizer",
                                      "tokenize --model-dir",
                                      "sample --logits",
                                      "sample --logits x --params",
                                      "sample --logits x --params y --out",
                                      "synth --out",
                                      "bench --model-dir",
                                      "bench --path"};
  for (size_t i = 0; i < sizeof given / sizeof *given; i++)
    program_expect(2, "found an empty path", "%s ''", given[i]);
}

static void ids_may_have_spaces_around_them(void **state) {
  (void)state;
  static const char *const given[] = {"1,2;3", " 1, 2 ; 3 "};
  char *shown[2];
  for (size_t i = 0; i < 2; i++) {
    program_result r = program_run(
        "run --model-dir tests/data/models/gpt-oss-hf --ids '%s' --max-new 2 --print-ids --quiet", given[i]);
    assert_int_equal(r.code, 0);
    shown[i] = strdup(r.out);
    program_free(&r);
  }
  assert_string_equal(shown[0], shown[1]);
  for (size_t i = 0; i < 2; i++) free(shown[i]);
  program_expect(2, "'1 2' is not a number", "run --model-dir tests/data/models/gpt-oss-hf --ids '1 2'");
  program_expect(2, "is an empty id", "run --model-dir tests/data/models/gpt-oss-hf --ids '1, '");
}

static void nothing_lands_in_a_closed_descriptor(void **state) {
  (void)state;
  char out[4096], script[512];
  char *dir = tempdir_make();
  /* with stdin and stdout closed, files that are opened must not take their numbers */
  snprintf(script, sizeof script,
           "$C logits --model-dir tests/data/models/gpt-oss-hf --ids 1,2 --out %s/o <&- >&- && $C logits "
           "--model-dir tests/data/models/gpt-oss-hf --ids 1,2 --out %s/p && cmp %s/o %s/p; exit $?",
           dir, dir, dir, dir);
  if (shell(script, out, sizeof out) != 0) fail_msg("%s", out);
  tempdir_remove(dir);
}

/* A line and one Ctrl-D: a second read of the terminal would wait for another. */
static void one_end_of_a_terminal_is_the_end(void **state) {
  (void)state;
  static const char typed[] = "Once upon a time\n\x04";
  char out[4096], script[512], name[128];
  int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  assert_true(master >= 0);
  assert_int_equal(grantpt(master), 0);
  assert_int_equal(unlockpt(master), 0);
  assert_int_equal(ptsname_r(master, name, sizeof name), 0);
  int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
  assert_true(slave >= 0);
  assert_int_equal(write(master, typed, sizeof typed - 1), sizeof typed - 1);
  snprintf(script, sizeof script, "timeout 60 $C tokenize --model-dir demo/model <%s; exit $?", name);
  if (shell(script, out, sizeof out) != 0) fail_msg("%s", out);
  assert_int_equal(out[0], '[');
  close(slave);
  close(master);
}

static void quiet_is_quiet(void **state) {
  (void)state;
  program_result r = program_run("run --model-dir %s --ids 1,2 --max-new 3 --quiet", model);
  assert_int_equal(r.code, 0);
  assert_string_equal(r.err, "");
  program_free(&r);
  r = program_run("run --model-dir %s --ids 1,2 --max-new 3", model);
  assert_non_null(strstr(r.err, "tok/s"));
  assert_null(strchr(r.err, '\033')); /* no colour, no bar: this is no terminal */
  assert_null(strchr(r.err, '\r'));
  program_free(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(help_goes_to_stdout),
      cmocka_unit_test(every_command_knows_its_flags),
      cmocka_unit_test(wrong_words_are_refused_with_the_nearest),
      cmocka_unit_test(values_are_checked),
      cmocka_unit_test(idle_flags_are_named),
      cmocka_unit_test(version_says_what_is_there),
      cmocka_unit_test(write_errors_are_reported),
      cmocka_unit_test(a_closed_stdout_ends_quietly),
      cmocka_unit_test(what_cannot_be_replaced_is_refused_at_once),
      cmocka_unit_test(an_empty_path_is_refused),
      cmocka_unit_test(ids_may_have_spaces_around_them),
      cmocka_unit_test(nothing_lands_in_a_closed_descriptor),
      cmocka_unit_test(one_end_of_a_terminal_is_the_end),
      cmocka_unit_test(quiet_is_quiet),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
