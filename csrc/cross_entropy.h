// composite_cross_entropy: logits + (class, weight) pairs -> loss, gradient and the loss table's
// new entries, in one pass.
//
// A row of logits is [B, C] (all constituents of a composite share it) or [B, K, C] (each has its
// own). With p = softmax(row), s = smoothing and only the constituents that take part:
//
//   per_constituent[b, k] = -log p[class]                                  (without smoothing)
//   loss     = sum_bk weight * ((1 - s) * -log p[class] + s * mean_c -log p[c]) / B
//   gradient = sum_k  weight * (p - (1 - s) * onehot(class) - s / C)        times gradient_scale
//
// Multi-label targets t [B, K, C] in 0..1 use binary cross-entropy, averaged over C, with
// t' = (1 - s) * t + s / 2. A constituent takes part when its weight is not 0 and its class is not
// ignored; only then is its table entry written. Of several entries for one id, the last in the
// order of (b, k) stays.
#pragma once
#include "common.h"

namespace mixpipe {

struct CrossEntropyParams {
  // inputs
  const void* logits;    // [B, C] or [B, K, C] of dtype
  const i64* classes;    // [B, K]; null with labels
  const float* labels;   // [B, K, C] multi-label targets; null with classes
  const float* weights;  // [B, K]
  const i64* ids;        // [B, K], -1: no entry; null: no table
  const i32* epoch_now;  // [1], the table's new epochs; null: epoch
  // outputs
  void* gradient;          // as logits: d loss / d logits * B * gradient_scale; null: none
  float* per_constituent;  // [B, K]
  float* loss;             // [1]
  float* table_losses;     // [table_size]
  i32* table_epochs;       // [table_size]
  // scratch of the CUDA kernel
  float* smoothed;       // [B, K] weighted losses, summed by the last block
  i32* finished_blocks;  // [1], 0 before the launch
  // sizes
  i64 table_size;
  i64 ignore_index;
  i32 batch, constituents, num_classes;
  i32 rows_per_composite;  // 1 or constituents
  // form
  i32 epoch, dtype;  // epoch: where epoch_now is null
  float smoothing;
  float gradient_scale;
};

// Rows of logits.
MIXPIPE_INLINE i32 cross_entropy_rows(const CrossEntropyParams& p) {
  return p.batch * p.rows_per_composite;
}

// A block makes one row. Its threads hold the row in registers, so that logits are read once.
constexpr i32 kMostSoftmaxThreads = 1024;
constexpr i32 kMaxCudaClasses = 22 * kMostSoftmaxThreads;
constexpr i32 kSigmoidThreads = 256;

// Logits that one thread of the CUDA kernel holds; the kernel is compiled for each of these.
MIXPIPE_INLINE i32 logits_per_thread(i32 num_classes) {
  return num_classes <= 4 * kMostSoftmaxThreads   ? 4
         : num_classes <= 8 * kMostSoftmaxThreads ? 8
                                                  : 22;
}

MIXPIPE_INLINE Geometry cross_entropy_prepare(const CrossEntropyParams& p) {
  i32 threads = kMostSoftmaxThreads;
  if (p.labels)
    threads = kSigmoidThreads;
  else if (logits_per_thread(p.num_classes) == 4)  // as many warps as it takes
    threads = ceil_div(p.num_classes, 4 * 32) * 32;
  return {(u32)cross_entropy_rows(p), (u32)threads, 0};
}

// The class of constituent i = b * K + k, or -1 where it takes no part.
MIXPIPE_INLINE i32 class_of(const CrossEntropyParams& p, i32 i) {
  const i64 index = p.classes[i];
  if (p.weights[i] == 0.0f || index == p.ignore_index) return -1;
  return index >= 0 && index < p.num_classes ? (i32)index : -1;
}

MIXPIPE_INLINE bool takes_part(const CrossEntropyParams& p, i32 i) {
  return p.labels ? p.weights[i] != 0.0f : class_of(p, i) >= 0;
}

// Whether the table gets an entry for constituent i, this one or a later one of the same id.
MIXPIPE_INLINE bool has_entry(const CrossEntropyParams& p, i32 i) {
  return p.ids && p.ids[i] >= 0 && p.ids[i] < p.table_size && takes_part(p, i);
}

MIXPIPE_INLINE i32 epoch_of(const CrossEntropyParams& p) {
  return p.epoch_now ? *p.epoch_now : p.epoch;
}

// scale_gradient: result = gradient * (grad_loss[0] * factor), the backward pass of the loss.
struct ScaleParams {
  const void* gradient;
  const float* grad_loss;  // [1]
  void* result;
  i64 count;
  float factor;
  i32 dtype;
};

constexpr i32 kScaleThreads = 256;

MIXPIPE_INLINE Geometry scale_prepare(const ScaleParams& p) {
  const i64 per_block = (i64)kScaleThreads * (16 / element_size(p.dtype));
  return {(u32)((p.count + per_block - 1) / per_block), (u32)kScaleThreads, 0};
}

}  // namespace mixpipe
