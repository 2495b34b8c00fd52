/* Documents of a text file: what stands between lines that are exactly `<|endoftext|>` (a carriage return before the
 * line feed is part of that line). The line feed in front of such a line, and the last one of the file, belong to no
 * document; empty documents are left out. A text without such lines is one document. */
#ifndef CLOCHER_TEXT_DOCUMENTS_H
#define CLOCHER_TEXT_DOCUMENTS_H

#include <stdbool.h>
#include <stddef.h>

#define IE_DOCUMENT_SEPARATOR "<|endoftext|>"

typedef struct ie_documents {
  const char *text; /* (size) borrowed */
  size_t size;
  size_t at; /* where the search goes on; 0 at the start */
} ie_documents;

/* The next document as [*document, *document + *bytes); false at the end. */
bool ie_documents_next(ie_documents *documents, const char **document, size_t *bytes);

#endif
