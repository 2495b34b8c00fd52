/* clocher chat-format: a conversation to the ids and the text of a prompt. */
#include "chat_input.h"
#include "out.h"

#include <string.h>
#include <time.h>

/* Today's date where the user is, which is what a model should be told. */
static const char *today(char date[16]) {
  time_t now = time(NULL);
  struct tm local = {0};
  if (!localtime_r(&now, &local) || !strftime(date, 16, "%Y-%m-%d", &local)) return NULL;
  return date;
}

static ie_status format_answer(const ie_chat_format *format, const ie_tokenizer *tokenizer,
                               const char *request, size_t size, json_t **out, ie_error *error) {
  char date[16];
  ie_chat_options options = {.date = today(date)};
  ie_chat_prompt prompt;
  ie_status status = ie_chat_render(format, tokenizer, request, size, &options, &prompt, error);
  if (status != IE_OK) return status;
  *out = json_pack("{s:o, s:o}", "ids", cli_json_ids(prompt.ids.ids, prompt.ids.count), "text",
                   cli_json_text(prompt.text.data, prompt.text.size));
  for (size_t i = 0; *out && prompt.mask && i < prompt.ids.count; i++) {
    json_t *mask = json_object_get(*out, "mask");
    if (!mask && json_object_set_new(*out, "mask", mask = json_array()) != 0) break;
    json_array_append_new(mask, json_integer(prompt.mask[i]));
  }
  ie_chat_prompt_free(&prompt);
  return *out ? IE_OK : ie_error_set(error, IE_OUT_OF_MEMORY, "chat-format: out of memory");
}

static int chat_format_run(cli_context *context, void *settings) {
  return chat_input_run(context, settings, format_answer);
}

const cli_command cmd_chat_format = {
    .name = "chat-format",
    .summary = "Render a conversation with the model's chat format",
    .usage = "(--model-dir D | --tokenizer FILE) [--format NAME] [--jsonl] < REQUEST",
    .help =
        "Standard input is one JSON request: {\"messages\", \"tools\", \"kwargs\", "
        "\"add_generation_prompt\"},\n"
        "or for Harmony {\"conversation\", \"auto_drop_analysis\", \"next_role\", \"training\"}. The answer "
        "is\n"
        "{\"ids\", \"text\"}. A date that the request does not name is today's. Texts of messages are plain\n"
        "text: <|end|> typed by a user is no special token.",
    .options = chat_input_options,
    .settings_bytes = sizeof(chat_settings),
    .common = CLI_USES_CACHE,
    .run = chat_format_run,
};
