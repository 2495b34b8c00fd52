#include "models/arch.h"

const ie_arch *const ie_archs[] = {&ie_arch_gptoss, NULL};
