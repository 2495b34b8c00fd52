#include "text/chat_role.h"

#include "base/quote.h"

#include <string.h>

bool chat_role_find(const char *name, size_t size, chat_role *out) {
  static const struct {
    const char *name;
    chat_role role;
  } roles[] = {{"system", CHAT_SYSTEM},       {"developer", CHAT_SYSTEM}, {"user", CHAT_USER},
               {"assistant", CHAT_ASSISTANT}, {"tool", CHAT_TOOL},        {"ipython", CHAT_TOOL}};
  for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
    if (strlen(roles[i].name) == size && memcmp(roles[i].name, name, size) == 0) {
      *out = roles[i].role;
      return true;
    }
  return false;
}

const char *chat_role_name(chat_role role) {
  static const char *const names[] = {
      [CHAT_SYSTEM] = "system", [CHAT_USER] = "user", [CHAT_ASSISTANT] = "assistant", [CHAT_TOOL] = "tool"};
  return names[role];
}

ie_status chat_role_require(const char *role, const char **out, ie_error *error) {
  chat_role known;
  *out = NULL;
  if (!role) return IE_OK;
  if (!chat_role_find(role, strlen(role), &known))
    return ie_error_set(
        error, IE_INVALID_ARGUMENT,
        "chat parser: role: expected system, developer, user, assistant or tool, found \"%s\"",
        ie_quote(role).text);
  *out = chat_role_name(known);
  return IE_OK;
}
