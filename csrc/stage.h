// stage: a table of the host's in device memory, carried by kernel parameters.
//
// A CUDA graph keeps the parameters of its kernels, but of a copy only where it came from: host
// memory that it would read anew at every replay. So a table goes this way while one is captured.
#pragma once
#include "common.h"

namespace mixpipe {

// Kernel parameters take up to 4 KB on every CUDA version and architecture.
constexpr i32 kStageWords = 1020;

struct StageParams {
  u32* to;
  i32 count;  // of words
  i32 reserved;
  u32 words[kStageWords];
};
static_assert(sizeof(StageParams) == 4096, "kernel parameters are limited");

constexpr i32 kStageThreads = 256;

}  // namespace mixpipe
