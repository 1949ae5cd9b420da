// dense_targets on the GPU: a thread makes one vector of 16 bytes of a row.
#include "device.h"
#include "targets.h"

namespace mixpipe {

template <class T, bool kWide>
__device__ inline void targets_thread(const TargetsParams& p) {
  constexpr i32 kSize = Vector<T>::kSize;
  const u32 block = blockIdx.x, b = divide(block, p.by_blocks_per_row);
  const i32 vector = (i32)((block - b * (u32)p.blocks_per_row) * kTargetsThreads + threadIdx.x);
  if (vector >= p.vectors_per_row) return;
  // Into registers once: the stores might alias them.
  i64 classes[kMaxConstituents];
  float weights[kMaxConstituents];
#pragma unroll
  for (i32 k = 0; k < kMaxConstituents; ++k) {
    const bool given = k < p.constituents;
    classes[k] = given ? p.classes[(i64)b * p.constituents + k] : -1;
    weights[k] = given ? p.weights[(i64)b * p.constituents + k] : 0.0f;
  }
  const float base = target_base(p, kMaxConstituents, classes, weights);
  float values[kSize];
#pragma unroll
  for (i32 i = 0; i < kSize; ++i)
    values[i] = target_value(p, kMaxConstituents, classes, weights, base, vector * kSize + i);
  T* out = (T*)p.out + (i64)b * p.num_classes + vector * kSize;
  if constexpr (kWide) {
    pack(T{}, values).store(out);
  } else {
#pragma unroll
    for (i32 i = 0; i < kSize; ++i)
      if (vector * kSize + i < p.num_classes) store_element(out + i, values[i]);
  }
}

}  // namespace mixpipe

#define MIXPIPE_TARGETS(name, T, wide)                                   \
  extern "C" __global__ void __launch_bounds__(mixpipe::kTargetsThreads) \
      dense_targets_##name(const mixpipe::TargetsParams params) {        \
    mixpipe::targets_thread<T, wide>(params);                            \
  }

MIXPIPE_TARGETS(f32_wide, float, true)
MIXPIPE_TARGETS(f32_narrow, float, false)
MIXPIPE_TARGETS(f16_wide, mixpipe::Half, true)
MIXPIPE_TARGETS(f16_narrow, mixpipe::Half, false)
MIXPIPE_TARGETS(bf16_wide, mixpipe::BFloat16, true)
MIXPIPE_TARGETS(bf16_narrow, mixpipe::BFloat16, false)
