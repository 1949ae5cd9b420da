// The CPU kernels, one function an op. Each has the signature
//
//   void op(const OpParams&, int threads)
//
// and is compiled for several instruction sets; the names in namespace mixpipe pick one at run
// time.
#pragma once
#include "compose.h"
#include "cross_entropy.h"
#include "mix.h"
#include "resample.h"
#include "targets.h"

#define MIXPIPE_CPU_KERNELS(DECLARE)             \
  DECLARE(compose_cpu, ComposeParams)            \
  DECLARE(compose_resampled_cpu, ResampleParams) \
  DECLARE(mix_cpu, MixParams)                    \
  DECLARE(dense_targets_cpu, TargetsParams)      \
  DECLARE(cross_entropy_cpu, CrossEntropyParams) \
  DECLARE(scale_gradient_cpu, ScaleParams)

#define MIXPIPE_DECLARE(op, Params) void op(const Params& params, int threads);
namespace mixpipe {
MIXPIPE_CPU_KERNELS(MIXPIPE_DECLARE)
namespace baseline {
MIXPIPE_CPU_KERNELS(MIXPIPE_DECLARE)
}
#if defined(MIXPIPE_X86)
namespace avx2 {
MIXPIPE_CPU_KERNELS(MIXPIPE_DECLARE)
}
namespace avx512 {
MIXPIPE_CPU_KERNELS(MIXPIPE_DECLARE)
}
#endif
// "avx512", "avx2" or "baseline": the instruction set in use on this machine.
const char* instruction_set();
}  // namespace mixpipe
#undef MIXPIPE_DECLARE
