/* Growing an ie_ids without copying into it. */
#ifndef CLOCHER_TEXT_IDS_H
#define CLOCHER_TEXT_IDS_H

#include "clocher/text.h"

/* Makes room for `extra` more ids. */
ie_status ie_ids_reserve(ie_ids *list, size_t extra, ie_error *error);

#endif
