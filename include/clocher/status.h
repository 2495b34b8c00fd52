/* Status codes and error messages: how every function of the library that can fail says so.
 *
 * A function that can fail returns an ie_status and takes an `ie_error *` last. On failure it returns the
 * status, stores status and message in *error (when error is not NULL), and leaves every output pointer
 * NULL. On success *error is not touched. The message is one line of UTF-8 for a person: what failed, where,
 * what was expected and what was found. The library itself never prints, exits or aborts.
 *
 * Thread safety: an ie_error belongs to its caller; nothing here is shared. */
#ifndef CLOCHER_STATUS_H
#define CLOCHER_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef enum ie_status {
  IE_OK = 0,
  IE_INVALID_ARGUMENT, /* the caller asked for something that is not defined; the command line exits with 2 */
  IE_OUT_OF_MEMORY,    /* an allocation failed */
  IE_IO,               /* the operating system refused to open, read, write, map or rename */
  IE_FORMAT,           /* a file or request is damaged, truncated or contradicts itself */
  IE_UNSUPPORTED,      /* well-formed, but a feature that is not built here */
  IE_LIMIT,            /* a given limit (context, memory budget) does not hold what was asked for */
  IE_NUMERIC,          /* NaN or infinity where a finite number must stand */
  IE_DEVICE,           /* the device or an instruction set is missing or was lost */
  IE_CANCELLED,        /* a callback asked to stop */
  IE_INTERNAL          /* a defect of the library */
} ie_status;

enum { IE_ERROR_BYTES = 512 };

typedef struct ie_error {
  ie_status status;
  char message[IE_ERROR_BYTES]; /* NUL-terminated; cut at a character boundary when too long */
} ie_error;

/* Stores status and the formatted message in *error (when not NULL) and returns status. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
ie_status
ie_error_set(ie_error *error, ie_status status, const char *format, ...);

/* A short English name, such as "out of memory". Never NULL. */
const char *ie_status_name(ie_status status);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
