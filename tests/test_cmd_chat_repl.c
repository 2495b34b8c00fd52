/* clocher chat. */
#include "support/chat_model.h"
#include "support/program.h"
#include "support/tempdir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *model;

static void a_line_is_a_turn(void **state) {
  (void)state;
  const char *in = "hi\n";
  program_result r = program_run_input(in, strlen(in), "chat --model-dir %s --greedy", model);
  printf("%d [%s] [%s]\n", r.code, r.out, r.err);
  program_free(&r);
}
int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_line_is_a_turn)};
  model = chat_model_make();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
