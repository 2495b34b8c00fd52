/* Text from a model directory:  hello MODEL_DIR [PROMPT]
 *
 *   cc -std=c11 hello.c $(pkg-config --cflags --libs clocher) -o hello
 *
 * Installed with PREFIX=/other: PKG_CONFIG_PATH=/other/lib/pkgconfig to compile, LD_LIBRARY_PATH=/other/lib to run. */
#include <clocher/device.h>
#include <clocher/generate.h>
#include <clocher/model.h>
#include <clocher/text.h>

#include <stdio.h>
#include <string.h>

static bool show(void *arg, int32_t id, const char *text, size_t size) {
  (void)arg, (void)id;
  return fwrite(text, 1, size, stdout) == size && fflush(stdout) == 0; /* false ends the generation */
}

int main(int argc, char **argv) {
  const char *dir = argc > 1 ? argv[1] : "demo/model";
  const char *prompt = argc > 2 ? argv[2] : "Once upon a time";
  ie_device *device = NULL;
  ie_model *model = NULL;
  ie_tokenizer *tokenizer = NULL;
  ie_state *state = NULL;
  ie_ids ids = {0};
  ie_generate_result result = {0};
  ie_error error = {.message = "the directory has no tokenizer"};

  bool done = false;
  if (ie_device_open(NULL, &device, &error) == IE_OK &&
      ie_model_open(device, dir, NULL, &model, &error) == IE_OK &&
      ie_tokenizer_open_dir(dir, NULL, &tokenizer, &error) == IE_OK && tokenizer &&
      ie_tokenizer_encode(tokenizer, prompt, strlen(prompt), NULL, &ids, &error) == IE_OK &&
      ie_state_new(model, NULL, &state, &error) == IE_OK) {
    ie_generate_options options = {.prompt = ids.ids,
                                   .prompt_count = (int64_t)ids.count,
                                   .max_new = 64,
                                   .sample = {.greedy = true},
                                   .tokenizer = tokenizer,
                                   .on_token = show};
    done = ie_generate(state, /*sequence=*/0, &options, &result, &error) == IE_OK;
  }
  if (done)
    printf("\n%zu tokens in %.2f s\n", result.ids.count, result.prefill_s + result.decode_s);
  else
    fprintf(stderr, "hello: %s\n", error.message);

  ie_generate_result_free(&result);
  ie_ids_free(&ids);
  ie_state_free(state);
  ie_tokenizer_free(tokenizer);
  ie_model_free(model);
  ie_device_free(device);
  return done ? 0 : 1;
}
