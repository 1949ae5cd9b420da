// dense_targets: (class, weight) pairs -> soft labels [B, C].
//
//   out[b, c] = smoothing / C * sum_k weight[b, k]
//             + (1 - smoothing) * sum of weight[b, k] over the k with class[b, k] == c
//
// A constituent with a class below 0 (absent, ignored) takes no part.
#pragma once
#include "common.h"

namespace mixpipe {

struct TargetsParams {
  const i64* classes;    // [B, K]
  const float* weights;  // [B, K]
  void* out;             // [B, C] of dtype
  i32 batch, constituents, num_classes;
  i32 dtype;
  float smoothing;
  i32 wide;  // 1: every vector of a row starts at a multiple of 16 bytes
  i32 vectors_per_row;
  i32 blocks_per_row;
  Divisor by_blocks_per_row;
};

constexpr i32 kTargetsThreads = 128;

MIXPIPE_INLINE Geometry targets_prepare(TargetsParams& p) {
  const i32 vector = 16 / element_size(p.dtype);
  p.wide = p.num_classes % vector == 0 && (u64)p.out % 16 == 0;
  p.vectors_per_row = ceil_div(p.num_classes, vector);
  p.blocks_per_row = ceil_div(p.vectors_per_row, kTargetsThreads);
  p.by_blocks_per_row = make_divisor((u32)p.blocks_per_row);
  return {(u32)p.batch * (u32)p.blocks_per_row, (u32)kTargetsThreads, 0};
}

// What every class of a row with `count` pairs gets.
MIXPIPE_INLINE float target_base(const TargetsParams& p, i32 count, const i64* classes,
                                 const float* weights) {
  float total = 0.0f;
  for (i32 k = 0; k < count; ++k)
    if (classes[k] >= 0) total += weights[k];
  return p.smoothing / (float)p.num_classes * total;
}

MIXPIPE_INLINE float target_value(const TargetsParams& p, i32 count, const i64* classes,
                                  const float* weights, float base, i32 index) {
  float share = 0.0f;
  for (i32 k = 0; k < count; ++k)
    if (classes[k] == index) share += weights[k];
  return fused_multiply_add(1.0f - p.smoothing, share, base);
}

}  // namespace mixpipe
