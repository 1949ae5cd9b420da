// Picks the CPU kernels' instruction set, once a call: a wheel runs on any machine.
#include "cpu.h"

namespace mixpipe {
namespace {
bool has_avx2() {
#if defined(MIXPIPE_HAVE_AVX2)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
#else
  return false;
#endif
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
