/* The roles of messages, and the names that requests and headers have for them. Harmony, where a developer is not the
 * system, has names of its own. */
#ifndef CLOCHER_TEXT_CHAT_ROLE_H
#define CLOCHER_TEXT_CHAT_ROLE_H

#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL } chat_role;

/* system or developer, user, assistant, tool or ipython. */
bool chat_role_find(const char *name, size_t size, chat_role *out);

/* "system", "user", "assistant", "tool". */
const char *chat_role_name(chat_role role);

/* The role that a parser is opened with: *out is its name, NULL for NULL. IE_INVALID_ARGUMENT: it is none. */
ie_status chat_role_require(const char *role, const char **out, ie_error *error);

#endif
