// Picks the CPU kernels' instruction set: a wheel runs on any machine. MIXPIPE_CPU=avx2 or baseline
// in the environment asks for less than the machine has, to test that on one that has more.
#include <stdlib.h>
#include <string.h>

#include "cpu.h"

namespace mixpipe {
namespace {

enum Level { kBaseline, kAvx2, kAvx512 };
constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Level find_level() {
  Level level = kBaseline;
#if defined(MIXPIPE_X86)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    level = __builtin_cpu_supports("avx512f") ? kAvx512 : kAvx2;
#endif
  const char* asked = getenv("MIXPIPE_CPU");
  for (int i = kBaseline; asked != nullptr && i < level; ++i)
    if (strcmp(asked, kNames[i]) == 0) level = (Level)i;
  return level;
}

Level level() {
  static const Level found = find_level();
  return found;
}

}  // namespace

const char* instruction_set() {
  return kNames[level()];
}

#if defined(MIXPIPE_X86)
#define MIXPIPE_DISPATCH(op, Params)           \
  void op(const Params& params, int threads) { \
    switch (level()) {                         \
      case kAvx512:                            \
        return avx512::op(params, threads);    \
      case kAvx2:                              \
        return avx2::op(params, threads);      \
      case kBaseline:                          \
        return baseline::op(params, threads);  \
    }                                          \
  }
#else
#define MIXPIPE_DISPATCH(op, Params)           \
  void op(const Params& params, int threads) { \
    baseline::op(params, threads);             \
  }
#endif
MIXPIPE_CPU_KERNELS(MIXPIPE_DISPATCH)

}  // namespace mixpipe
