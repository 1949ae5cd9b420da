// Picks the CPU kernels' instruction set: a wheel runs on any machine. MIXPIPE_CPU=baseline in the
// environment asks for what every machine has, to test it on those that have more.
#include <stdlib.h>
#include <string.h>

#include "cpu.h"

namespace mixpipe {
namespace {

bool find_avx2() {
#if defined(MIXPIPE_HAVE_AVX2)
  const char* asked = getenv("MIXPIPE_CPU");
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c") && (asked == nullptr || strcmp(asked, "baseline") != 0);
#else
  return false;
#endif
}

bool has_avx2() {
  static const bool found = find_avx2();
  return found;
}

}  // namespace

const char* instruction_set() {
  return has_avx2() ? "avx2" : "baseline";
}

#if defined(MIXPIPE_HAVE_AVX2)
#define MIXPIPE_DISPATCH(op, Params)                                        \
  void op(const Params& params, int threads) {                              \
    has_avx2() ? avx2::op(params, threads) : baseline::op(params, threads); \
  }
#else
#define MIXPIPE_DISPATCH(op, Params)           \
  void op(const Params& params, int threads) { \
    baseline::op(params, threads);             \
  }
#endif
MIXPIPE_CPU_KERNELS(MIXPIPE_DISPATCH)

}  // namespace mixpipe
