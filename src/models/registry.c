#include "models/arch.h"

const ie_arch *const ie_archs[] = {&ie_arch_gptoss,  &ie_arch_qwen,     &ie_arch_llama,
                                   &ie_arch_gptneox, &ie_arch_nanochat, NULL};
