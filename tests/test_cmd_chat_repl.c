/* clocher chat, on a pseudo-terminal and in scripts. */
#include "support/chat_model.h"
#include "support/emulated.h"
#include "support/program.h"
#include "support/pty.h"
#include "support/small_model.h"
#include "support/tempdir.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#define PROMPT "> "
#ifdef CLOCHER_WITH_EDIT
enum { EDITS = 1 };
#else
enum { EDITS = 0 };
#endif

static char *model, *home;

static pty chat_start(int columns, const char *flags) {
  pty p = pty_start(columns, home, "chat --model-dir %s --greedy %s", model, flags);
  pty_wait(&p, PROMPT);
  return p;
}

static int leave(pty *p) {
  pty_type(p, "\004");
  return pty_end(p);
}

/* --- In a terminal -------------------------------------------------------------------------------------------- */

static void an_answer_streams_and_ctrl_d_leaves(void **state) {
  (void)state;
  pty p = chat_start(80, "");
  pty_type(&p, "hi\r");
  pty_wait(&p, "\033[2m" CHAT_MODEL_THOUGHT "\033[0m");
  pty_wait(&p, CHAT_MODEL_ANSWER "\r\n");
  pty_wait(&p, PROMPT);
  assert_int_equal(leave(&p), 0);
}

static void ctrl_c_stops_the_answer_alone(void **state) {
  (void)state;
  pty p = chat_start(80, "--ctx 200000");
  pty_type(&p, "~go\r");
  pty_wait(&p, "Hello again again");
  pty_type(&p, "\003");
  pty_wait(&p, "(stopped)");
  pty_wait(&p, PROMPT);
  pty_type(&p, "\003");
  pty_wait(&p, "(Ctrl-D or /exit leaves)");
  pty_wait(&p, PROMPT);
  pty_type(&p, "/stats\r");
  pty_wait(&p, "3 messages"); /* the turn, its reasoning, and the answer as far as it went */
  pty_wait(&p, PROMPT);
  pty_type(&p, "/set max-new 3\r");
  pty_wait(&p, PROMPT);
  pty_type(&p, "hi\r"); /* cut before a word is said: no turn */
  pty_wait(&p, "this turn was not taken");
  pty_wait(&p, PROMPT);
  pty_type(&p, "/stats\r");
  pty_wait(&p, "3 messages");
  pty_wait(&p, PROMPT);
  pty_type(&p, "/exit\r");
  assert_int_equal(pty_end(&p), 0);
}

static void commands_and_the_nearest_one(void **state) {
  (void)state;
  pty p = chat_start(80, "");
  pty_type(&p, "/stast\r");
  pty_wait(&p, "unknown command /stast; the nearest is /stats");
  pty_type(&p, "/save\r");
  pty_wait(&p, "/save needs FILE");
  pty_type(&p, "/exit now\r");
  pty_wait(&p, "/exit takes no argument");
  pty_type(&p, "/set top_p 0.5\r");
  pty_wait(&p, "the nearest is top-p");
  pty_type(&p, "/set top-p 2\r");
  pty_wait(&p, "/set top-p: expected a number from 0 to 1, found '2'");
  pty_type(&p, "/foo\r");
  pty_wait(&p, "unknown command /foo; /help lists them");
  pty_type(&p, "/set top-p 0.5\r");
  pty_wait(&p, "top-p               0.5");
  pty_type(&p, "/set top-p\r");
  pty_wait(&p, "top-p               0.5");
  pty_type(&p, "/set thinking hide\r");
  pty_type(&p, "/system Be brief.\r");
  pty_wait(&p, "The system message is set.");
  pty_type(&p, "/system\r");
  pty_wait(&p, "Be brief.\r\n");
  size_t from = p.size;
  pty_type(&p, "hi\r");
  pty_wait(&p, CHAT_MODEL_ANSWER);
  pty_not_shown(&p, from, CHAT_MODEL_THOUGHT);
  pty_type(&p, "/reset\r");
  pty_wait(&p, "empty but for the system message");
  pty_type(&p, "/help\r");
  pty_wait(&p, "/tool TEXT");
  assert_int_equal(leave(&p), 0);
}

/* What is typed while an answer runs is not lost, Ctrl-D included. */
static void keys_wait_for_the_prompt(void **state) {
  (void)state;
  pty p = chat_start(80, emulated() ? "--ctx 600" : "--ctx 4000");
  pty_type(&p, "~go\r");
  pty_wait(&p, "Hello again");
  pty_type(&p, "/stats\r");
  pty_type(&p, "\004");
  pty_wait(&p, "is full");
  pty_wait(&p, "answers  1");
  assert_int_equal(pty_end(&p), 0);
}

/* A prompt of the second turn reuses what both have in common: Harmony's system message and the first turn. */
static void only_new_tokens_are_computed(void **state) {
  (void)state;
  pty p = chat_start(80, "");
  pty_type(&p, "hi\r");
  pty_wait(&p, CHAT_MODEL_ANSWER);
  pty_type(&p, "and?\r");
  pty_wait(&p, CHAT_MODEL_ANSWER);
  pty_type(&p, "/stats\r");
  pty_wait(&p, "tok/s), ");
  long reused = strtol(p.text + p.seen, NULL, 10);
  pty_wait(&p, "more reused");
  pty_wait(&p, "answers  2");
  assert_true(reused > 200);
  assert_int_equal(leave(&p), 0);
}

static void a_conversation_is_saved_and_loaded(void **state) {
  (void)state;
  char path[256], keys[512];
  snprintf(path, sizeof path, "%s/talk.json", home);
  pty p = chat_start(200, "--system 'Be brief.'");
  pty_type(&p, "hi\r");
  pty_wait(&p, CHAT_MODEL_ANSWER);
  snprintf(keys, sizeof keys, "/save %s\r", path);
  pty_type(&p, keys);
  pty_wait(&p, "4 messages saved.");
  assert_int_equal(leave(&p), 0);

  json_t *saved = json_load_file(path, 0, NULL);
  const json_t *messages = json_object_get(saved, "messages");
  static const char *const texts[] = {"Be brief.", "hi", CHAT_MODEL_THOUGHT, CHAT_MODEL_ANSWER};
  assert_int_equal(json_array_size(messages), 4);
  for (size_t i = 0; i < 4; i++)
    assert_string_equal(json_string_value(json_object_get(json_array_get(messages, i), "content")), texts[i]);
  json_decref(saved);

  p = chat_start(200, "");
  tempdir_write_text(home, "bad.json", "{\"messages\": [{\"role\": \"user\", \"content\": 5}]}");
  tempdir_write_text(home, "odd.json", "{\"messages\": [{\"role\": \"wizard\", \"content\": \"x\"}]}");
  pty_type(&p, "one\r");
  pty_wait(&p, CHAT_MODEL_ANSWER);
  snprintf(keys, sizeof keys, "/load %s/bad.json\r", home);
  pty_type(&p, keys);
  pty_wait(&p, "messages[0]: content: expected a string, found an integer");
  pty_wait(&p, "The conversation stays as it was.");
  snprintf(keys, sizeof keys, "/load %s/odd.json\r", home);
  pty_type(&p, keys);
  pty_wait(&p, "wizard");
  pty_wait(&p, "The conversation stays as it was.");
  pty_type(&p, "/load /nowhere/x.json\r");
  pty_wait(&p, "The conversation stays as it was.");
  pty_type(&p, "/stats\r");
  pty_wait(&p, "3 messages");
  snprintf(keys, sizeof keys, "/load %s\r", path);
  pty_type(&p, keys);
  pty_wait(&p, "4 messages loaded.");
  pty_wait(&p, PROMPT);
  pty_not_shown(&p, 0, "another chat format");
  tempdir_write_text(home, "other.json",
                     "{\"chat_format\": \"qwen3\", \"messages\": [{\"role\": \"user\", \"content\": \"x\"},"
                     "{\"role\": \"assistant\", \"content\": \"y\"}]}");
  snprintf(keys, sizeof keys, "/load %s/other.json\r", home);
  pty_type(&p, keys);
  pty_wait(&p, "saved in another chat format (qwen3); the model reads it in its own, harmony");
  pty_type(&p, "/save /nowhere/x.json\r");
  pty_wait(&p, "/nowhere");
  pty_type(&p, "more\r");
  pty_wait(&p, CHAT_MODEL_ANSWER);
  assert_int_equal(leave(&p), 0);
}

static void texts_of_several_lines(void **state) {
  (void)state;
  char path[256], keys[512];
  snprintf(path, sizeof path, "%s/lines.json", home);
  pty p = chat_start(200, "--no-history");
  static const char *const typed[] = {
      "one\\\rtwo\r",
      "\"\"\"\r/three\\\r\rfour\"\"\"\r",
      "//five\r",
      EDITS ? "six\033\rseven\r" : "six\\\rseven\r",
      EDITS ? "\033[200~eight\r\033[31m\r\033[201~nine\r" : "eight\\\r[31m\\\rnine\r",
      EDITS ? "\033[200~/usr/bin\r\nten\r\n\r\nx\033[201~\r" : "/usr/bin\\\rten\\\r\\\rx\r",
      "/exit\\\rnow\r"};
  static const char *const said[] = {"one\ntwo",          "/three\\\n\nfour",   "/five",     "six\nseven",
                                     "eight\n[31m\nnine", "/usr/bin\nten\n\nx", "/exit\nnow"};
  for (size_t i = 0; i < sizeof typed / sizeof *typed; i++) {
    pty_type(&p, typed[i]);
    pty_wait(&p, CHAT_MODEL_ANSWER);
    pty_wait(&p, PROMPT);
    snprintf(keys, sizeof keys, "/save %s\r", path);
    pty_type(&p, keys);
    pty_wait(&p, "saved.");
    pty_type(&p, "/reset\r");
    pty_wait(&p, "empty.");
    pty_wait(&p, PROMPT);
    json_t *saved = json_load_file(path, 0, NULL);
    const json_t *first = json_array_get(json_object_get(saved, "messages"), 0);
    assert_string_equal(json_string_value(json_object_get(first, "content")), said[i]);
    json_decref(saved);
  }
  assert_int_equal(leave(&p), 0);
}

static void history_is_kept_and_recalled(void **state) {
  (void)state;
  struct stat info;
  char path[256];
  snprintf(path, sizeof path, "%s/history", home);
  char flags[320];
  snprintf(flags, sizeof flags, "--history %s", path);
  pty p = chat_start(80, flags);
  pty_type(&p, "first line\r");
  pty_wait(&p, CHAT_MODEL_ANSWER);
  assert_int_equal(leave(&p), 0);
  assert_int_equal(stat(path, &info), 0);
  assert_int_equal(info.st_mode & 0777, 0600);
  if (!EDITS) return;
  p = chat_start(80, flags);
  pty_type(&p, "\033[A");
  pty_wait(&p, "first line");
  pty_type(&p, " again\r");
  pty_wait(&p, CHAT_MODEL_ANSWER);
  assert_int_equal(leave(&p), 0);
  char text[64] = "";
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  assert_true(fread(text, 1, sizeof text - 1, file) > 0);
  fclose(file);
  assert_string_equal(text, "first line\nfirst line again\n");
}

static void the_default_history_has_its_folder(void **state) {
  (void)state;
  struct stat info;
  pty p = chat_start(80, "");
  pty_type(&p, "/help\r");
  pty_wait(&p, "/exit");
  assert_int_equal(leave(&p), 0);
  assert_int_equal(stat(tempdir_path(home, ".local/state/clocher/chat_history"), &info), 0);
  assert_int_equal(info.st_mode & 0777, 0600);
  assert_int_equal(stat(tempdir_path(home, ".local/state/clocher"), &info), 0);
  assert_int_equal(info.st_mode & 0777, 0700);
}

static void a_full_context_is_said(void **state) {
  (void)state;
  pty p = chat_start(200, "--ctx 300");
  pty_type(&p, "~go\r");
  pty_wait(&p, "the answer is cut: the context of 300 tokens is full; /reset");
  pty_type(&p, "more\r");
  pty_wait(&p, "the conversation has ");
  assert_true(strtol(p.text + p.seen, NULL, 10) > 300);
  pty_wait(&p, "the context holds 300");
  pty_wait(&p, "this turn was not taken: /reset begins anew, --ctx N reserves more");
  pty_type(&p, "/reset\r");
  pty_wait(&p, "empty");
  pty_type(&p, "hi\r");
  pty_wait(&p, CHAT_MODEL_ANSWER);
  assert_int_equal(leave(&p), 0);
}

static void escapes_of_the_model_are_not_obeyed(void **state) {
  (void)state;
  pty p = chat_start(80, "");
  size_t from = p.seen;
  pty_type(&p, "^\r");
  pty_wait(&p, "Hello^[[31mRED^[[0m<U+009B>2JX");
  pty_not_shown(&p, from, "\033[31m");
  pty_not_shown(&p, from, "\xC2\x9B");
  assert_int_equal(leave(&p), 0);
}

static void a_call_is_shown_and_answered(void **state) {
  (void)state;
  pty p = chat_start(80, "");
  pty_type(&p, "/tool x\r");
  pty_wait(&p, "no call waits");
  pty_type(&p, "@\r");
  pty_wait(&p, "calls functions.look({\"q\":1})\r\n");
  pty_wait(&p, "/tool TEXT answers the call");
  pty_type(&p, "/tool 20%\r");
  pty_wait(&p, CHAT_MODEL_ANSWER);
  assert_int_equal(leave(&p), 0);
}

static void a_loaded_call_is_answered(void **state) {
  (void)state;
  char keys[512];
  tempdir_write_text(home, "call.json",
                     "{\"messages\": [{\"role\": \"user\", \"content\": \"@\"}, {\"role\": \"assistant\", "
                     "\"content\": null, \"tool_calls\": [{\"function\": {\"name\": \"look\", "
                     "\"arguments\": {\"q\": 1}}}]}]}");
  pty p = chat_start(200, "");
  snprintf(keys, sizeof keys, "/load %s/call.json\r", home);
  pty_type(&p, keys);
  pty_wait(&p, "2 messages loaded.");
  pty_wait(&p, "/tool TEXT answers the call of functions.look");
  pty_type(&p, "/tool 20%\r");
  pty_wait(&p, CHAT_MODEL_ANSWER);
  assert_int_equal(leave(&p), 0);
}

static void a_text_of_several_lines_for_a_command(void **state) {
  (void)state;
  pty p = chat_start(80, "");
  pty_type(&p, "/system Be\\\rbrief.\r");
  pty_wait(&p, "The system message is set.");
  pty_type(&p, "/system\r");
  pty_wait(&p, "/system");
  pty_wait(&p, "Be\r\nbrief.\r\n");
  assert_int_equal(leave(&p), 0);
}

static void a_window_of_20_columns(void **state) {
  (void)state;
  pty p = chat_start(20, "");
  pty_type(&p, "a line that is longer than twenty columns, and Gr\xC3\xBC\xC3\x9F"
               "e\r");
  pty_wait(&p, CHAT_MODEL_ANSWER);
  pty_wait(&p, PROMPT);
  assert_int_equal(leave(&p), 0);
}

static void tab_completes_commands(void **state) {
  (void)state;
  if (!EDITS) skip();
  pty p = chat_start(80, "");
  pty_type(&p, "/res\t\r");
  pty_wait(&p, "The conversation is empty.");
  assert_int_equal(leave(&p), 0);
}

/* Whoever ends the program has the terminal as it was: lines, echo, and no marks around what is pasted. */
static void a_signal_gives_the_terminal_back(void **state) {
  (void)state;
  static const int signals[] = {SIGTERM, SIGQUIT, SIGHUP};
  for (size_t i = 0; i < 3; i++) {
    struct termios now;
    pty p = chat_start(80, "");
    pty_type(&p, "half a li");
    pty_wait(&p, "a li");
    /* what is typed before the editor has the terminal is shown by the terminal itself */
    for (int wait = 0; wait < 2000; wait++) {
      assert_int_equal(tcgetattr(p.fd, &now), 0);
      if (((now.c_lflag & ICANON) == 0) == EDITS) break;
      usleep(10000);
    }
    assert_int_equal((now.c_lflag & ICANON) == 0, EDITS);
    int keep = dup(p.fd);
    assert_int_equal(kill(p.pid, signals[i]), 0);
    if (EDITS) pty_wait(&p, "\033[?2004l"); /* without an editor nothing was marked */
    assert_int_equal(pty_end(&p), 128 + signals[i]);
    assert_int_equal(tcgetattr(keep, &now), 0);
    assert_int_equal(now.c_lflag & (ICANON | ECHO | ISIG), ICANON | ECHO | ISIG);
    assert_int_equal(now.c_iflag & ICRNL, ICRNL);
    close(keep);
  }
}

/* --- In a script ---------------------------------------------------------------------------------------------- */

static void script_expect(const char *input, const char *flags, int code, const char *out, const char *err) {
  program_result r = program_run_input(input, strlen(input), "chat --model-dir %s --greedy %s", model, flags);
  if (r.code != code || strcmp(r.out, out) != 0 || (err && !strstr(r.err, err)))
    fail_msg("%s: exit %d, stdout '%s', stderr '%s'", flags, r.code, r.out, r.err);
  program_free(&r);
}

static void a_line_of_a_script_is_a_turn(void **state) {
  (void)state;
  script_expect("hi\n\nagain", "", 0, CHAT_MODEL_ANSWER "\n" CHAT_MODEL_ANSWER "\n",
                "llama, harmony: memory");
  script_expect("hi\n", "--thinking show", 0,
                "[thinking]\n" CHAT_MODEL_THOUGHT "\n[answer]\n" CHAT_MODEL_ANSWER "\n", NULL);
  script_expect("", "--prompt hi", 0, CHAT_MODEL_ANSWER "\n", NULL);
  script_expect("", "", 0, "", NULL);
  script_expect("^\n", "", 0, "Hello" CHAT_MODEL_ESCAPES "\n", NULL); /* a file gets what was said */
  script_expect("hi\n", "--max-new 11", 0, "Hello\n", "stopped after 11 tokens: --max-new");
  script_expect("hi\n/exit\nnever\n", "", 0, CHAT_MODEL_ANSWER "\n", NULL);
  script_expect("@\n/tool 20%\n", "", 0, "calls functions.look({\"q\":1})\n" CHAT_MODEL_ANSWER "\n", NULL);
}

static void a_script_ends_where_it_fails(void **state) {
  (void)state;
  script_expect("/exot\nhi\n", "", 1, "", "the nearest is /exit");
  script_expect("hi\n", "--ctx 100", 1, "", "no place for an answer");
  script_expect("", "--once", 1, "", "standard input is empty");
}

/* They are text, not nothing. */
static void bytes_that_are_zero_are_taken(void **state) {
  (void)state;
  static const char input[] = "\0\0\n/save\0x\n";
  static char many[100000];
  program_result r =
      program_run_input(input, sizeof input - 1, "chat --model-dir %s --greedy --quiet", model);
  assert_int_equal(r.code, 1);
  assert_string_equal(r.out, CHAT_MODEL_ANSWER "\n");
  assert_non_null(strstr(r.err, "a command holds a NUL byte (at byte 5 of 7)"));
  program_free(&r);
  r = program_run_input(many, sizeof many, "chat --model-dir %s --greedy --quiet", model);
  assert_int_equal(r.code, 1);
  assert_non_null(strstr(r.err, "this turn was not taken: /reset begins anew, --ctx N"));
  program_free(&r);
}

static void once_is_one_turn(void **state) {
  (void)state;
  script_expect("/no command\n\xFF\nmore\n", "--once", 0, CHAT_MODEL_ANSWER "\n", NULL);
}

static void an_effort_that_the_format_has_not_is_ignored(void **state) {
  (void)state;
  script_expect("hi\n", "--reasoning-effort none", 0, CHAT_MODEL_ANSWER "\n",
                "reasoning effort none is ignored: the chat format harmony has none such");
  program_result r = program_run_input("/set reasoning-effort high\n/set reasoning-effort\nhi\n", 52,
                                       "chat --model-dir %s --greedy", model);
  assert_int_equal(r.code, 0);
  assert_non_null(strstr(r.err, "reasoning-effort    high"));
  assert_null(strstr(r.err, "ignored"));
  program_free(&r);
}

static void quiet_says_nothing_else(void **state) {
  (void)state;
  program_result r = program_run_input("hi\n", 3, "chat --model-dir %s --greedy --quiet", model);
  assert_int_equal(r.code, 0);
  assert_string_equal(r.out, CHAT_MODEL_ANSWER "\n");
  assert_string_equal(r.err, "");
  program_free(&r);
}

static void what_cannot_be_done_is_refused(void **state) {
  (void)state;
  char *plain = text_model_make();
  program_expect(1, "its chat format is unknown", "chat --model-dir %s", plain);
  program_expect(1, "--chat-format: harmony, ", "chat --model-dir %s", plain);
  program_expect(1, "chat format is unknown", "chat --model-dir %s", SMALL_MODEL);
  program_expect(2, "unknown chat format \"klingon\"", "chat --model-dir %s --chat-format klingon", model);
  program_expect(2, "--once takes the turn", "chat --model-dir %s --once --prompt x", model);
  program_expect(2, "--prompt: expected a text that is not empty", "chat --model-dir %s --prompt ''", model);
  program_expect(2, "contradict", "chat --model-dir %s --history /tmp/x --no-history", model);
  program_expect(1, "--memory", "chat --model-dir %s --memory 1KiB", model);
  program_expect(2, "--model-dir", "chat");
  program_expect(0, NULL, "chat --help");
  tempdir_remove(plain);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_answer_streams_and_ctrl_d_leaves),
      cmocka_unit_test(ctrl_c_stops_the_answer_alone),
      cmocka_unit_test(keys_wait_for_the_prompt),
      cmocka_unit_test(commands_and_the_nearest_one),
      cmocka_unit_test(only_new_tokens_are_computed),
      cmocka_unit_test(a_conversation_is_saved_and_loaded),
      cmocka_unit_test(texts_of_several_lines),
      cmocka_unit_test(history_is_kept_and_recalled),
      cmocka_unit_test(the_default_history_has_its_folder),
      cmocka_unit_test(a_full_context_is_said),
      cmocka_unit_test(escapes_of_the_model_are_not_obeyed),
      cmocka_unit_test(a_call_is_shown_and_answered),
      cmocka_unit_test(a_loaded_call_is_answered),
      cmocka_unit_test(a_text_of_several_lines_for_a_command),
      cmocka_unit_test(a_window_of_20_columns),
      cmocka_unit_test(tab_completes_commands),
      cmocka_unit_test(a_signal_gives_the_terminal_back),
      cmocka_unit_test(a_line_of_a_script_is_a_turn),
      cmocka_unit_test(a_script_ends_where_it_fails),
      cmocka_unit_test(bytes_that_are_zero_are_taken),
      cmocka_unit_test(once_is_one_turn),
      cmocka_unit_test(an_effort_that_the_format_has_not_is_ignored),
      cmocka_unit_test(quiet_says_nothing_else),
      cmocka_unit_test(what_cannot_be_done_is_refused),
  };
  model = chat_model_make();
  home = tempdir_make();
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  tempdir_remove(model);
  tempdir_remove(home);
  return failed;
}
