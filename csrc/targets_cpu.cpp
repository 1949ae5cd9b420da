// dense_targets on the CPU: a row is filled with what every class gets, then the few named classes
// are written over it.
#include "cpu.h"
#include "parallel.h"
#include "simd.h"

namespace mixpipe {
namespace MIXPIPE_ISA {
namespace {

template <class T>
void targets_as(const TargetsParams& p, int threads) {
  parallel_for(p.batch, 1 + 65536 / p.num_classes, threads, [&](i64 begin, i64 end) {
    for (i64 b = begin; b < end; ++b) {
      const i64* classes = p.classes + b * p.constituents;
      const float* weights = p.weights + b * p.constituents;
      T* row = (T*)p.out + b * p.num_classes;
      const float base = target_base(p, p.constituents, classes, weights);
      i32 c = 0;
      for (; c + kLanes <= p.num_classes; c += kLanes) store(row + c, broadcast8(base));
      for (; c < p.num_classes; ++c) store_element(row + c, base);
      for (i32 k = 0; k < p.constituents; ++k)
        if (classes[k] >= 0 && classes[k] < p.num_classes)
          store_element(row + classes[k],
                        target_value(p, p.constituents, classes, weights, base, (i32)classes[k]));
    }
  });
}

}  // namespace

void dense_targets_cpu(const TargetsParams& p, int threads) {
  if (p.dtype == kFloat32) return targets_as<float>(p, threads);
  if (p.dtype == kFloat16) return targets_as<Half>(p, threads);
  targets_as<BFloat16>(p, threads);
}

}  // namespace MIXPIPE_ISA
}  // namespace mixpipe
