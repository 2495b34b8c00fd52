/* Everything: the public headers of Clocher in one. Start with device.h, model.h and generate.h. */
#ifndef CLOCHER_CLOCHER_H
#define CLOCHER_CLOCHER_H

#include "clocher/adapter.h"
#include "clocher/chat.h"
#include "clocher/conversation.h"
#include "clocher/device.h"
#include "clocher/eval.h"
#include "clocher/generate.h"
#include "clocher/gradients.h"
#include "clocher/model.h"
#include "clocher/sample.h"
#include "clocher/scheduler.h"
#include "clocher/status.h"
#include "clocher/tensor.h"
#include "clocher/text.h"
#include "clocher/tokenizer_train.h"
#include "clocher/train.h"

#endif
