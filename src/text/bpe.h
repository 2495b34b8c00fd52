/* Byte-pair merging of one piece of text.
 *
 * Of all adjacent pairs that merge, the one with the lowest rank is merged first, the leftmost of equals, until
 * none is left. Short pieces are searched linearly, long ones with a heap: O(n log n) in the piece.
 * An ie_bpe is the scratch memory of one caller; all-zero but image is the start. */
#ifndef CLOCHER_TEXT_BPE_H
#define CLOCHER_TEXT_BPE_H

#include "clocher/status.h"
#include "text/image.h"

enum { IE_BPE_SHORT = 96 }; /* symbols that are searched linearly; the heap is faster beyond */

typedef struct ie_bpe_symbol {
  uint32_t id;
  uint32_t size;           /* bytes of the piece */
  uint32_t rank, result;   /* of the pair with the next symbol */
  uint32_t next, previous; /* heap only */
} ie_bpe_symbol;

typedef struct ie_bpe {
  const ie_image *image;
  const uint32_t *ids;   /* (count) the result, valid until the next call */
  const uint32_t *sizes; /* (count) bytes of the piece that each id stands for */
  size_t count;
  uint32_t short_ids[IE_BPE_SHORT], short_sizes[IE_BPE_SHORT];
  ie_bpe_symbol *symbols; /* (capacity) long pieces */
  uint64_t *heap;         /* (3 * capacity) rank << 32 | position */
  uint32_t *long_ids, *long_sizes;
  size_t capacity;
} ie_bpe;

/* Fills ids, sizes and count. IE_FORMAT when a byte has no token and the tokenizer calls that an error. */
ie_status ie_bpe_run(ie_bpe *bpe, const char *piece, size_t size, ie_error *error);
/* The same by the heap whatever the size (for tests). */
ie_status ie_bpe_run_long(ie_bpe *bpe, const char *piece, size_t size, ie_error *error);
void ie_bpe_free(ie_bpe *bpe);

#endif
