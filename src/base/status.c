#include "clocher/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Cuts a message that filled its buffer back to the last whole UTF-8 character. */
static void message_trim(char *message) {
  size_t n = strlen(message);
  if (n < IE_ERROR_BYTES - 1) return;
  size_t start = n;
  while (start > 0 && ((unsigned char)message[start - 1] & 0xC0) == 0x80) start--;
  if (start > 0 && (unsigned char)message[start - 1] >= 0xC0) message[start - 1] = '\0';
}

ie_status ie_error_set(ie_error *error, ie_status status, const char *format, ...) {
  if (!error) return status;
  error->status = status;
  va_list args;
  va_start(args, format);
  vsnprintf(error->message, sizeof error->message, format, args);
  va_end(args);
  message_trim(error->message);
  return status;
}

const char *ie_status_name(ie_status status) {
  static const char *const names[] = {
      [IE_OK] = "ok",
      [IE_INVALID_ARGUMENT] = "invalid argument",
      [IE_OUT_OF_MEMORY] = "out of memory",
      [IE_IO] = "input/output error",
      [IE_FORMAT] = "malformed data",
      [IE_UNSUPPORTED] = "unsupported",
      [IE_LIMIT] = "limit exceeded",
      [IE_NUMERIC] = "not a finite number",
      [IE_DEVICE] = "device error",
      [IE_CANCELLED] = "cancelled",
      [IE_INTERNAL] = "internal error",
  };
  if ((unsigned)status >= sizeof names / sizeof names[0]) return "unknown status";
  return names[status];
}
