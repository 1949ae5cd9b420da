// composite_cross_entropy on the GPU: forward, gradient and loss table in one launch. A block makes
// one row, whose logits its threads hold in registers from the one time they are read; the block
// that finishes last adds up the loss, in a fixed order.
#include "cross_entropy.h"
#include "device.h"

namespace mixpipe {

struct RowScratch {
  float combine[33];
  i32 classes[kMaxConstituents];   // -1: takes no part
  float shares[kMaxConstituents];  // weight of all constituents of the class
  float picked[kMaxConstituents];  // logit of the class, less the largest logit
  i32 is_last;
};

// The table gets the loss of constituent i unless a later one has the same id. All threads call.
__device__ inline void write_entry(const CrossEntropyParams& p, i32 i) {
  if (!has_entry(p, i)) return;
  const i32 count = p.batch * p.constituents;
  i32 later = 0;
  for (i32 j = i + 1 + (i32)threadIdx.x; j < count; j += (i32)blockDim.x)
    later |= p.ids[j] == p.ids[i] && takes_part(p, j);
  later = __syncthreads_or(later);
  if (later || threadIdx.x != 0) return;
  p.table_losses[p.ids[i]] = p.per_constituent[i];
  p.table_epochs[p.ids[i]] = epoch_of(p);
}

// Writes the table's entries of this row, and the total loss when all other rows are done.
__device__ inline void finish_row(const CrossEntropyParams& p, i32 first, i32 count,
                                  RowScratch& scratch) {
  for (i32 i = first; i < first + count; ++i) write_entry(p, i);
  if (threadIdx.x == 0) {
    __threadfence();
    // Wraps to 0 at the last block, ready for the next launch.
    const u32 ticket = atomicInc((u32*)p.finished_blocks, gridDim.x - 1);
    scratch.is_last = ticket == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (!scratch.is_last) return;
  const volatile float* smoothed = p.smoothed;
  float sum = 0.0f;
  for (i32 i = (i32)threadIdx.x; i < p.batch * p.constituents; i += (i32)blockDim.x)
    sum += smoothed[i];
  sum = combine_block(sum, scratch.combine, Add());
  if (threadIdx.x == 0) p.loss[0] = sum / (float)p.batch;
}

// kThreads is the block's size where it is always the same: the addresses of a thread's logits then
// differ by constants. 0: blockDim.x.
template <class T, i32 kItems, i32 kThreads>
__device__ inline void softmax_row(const CrossEntropyParams& p) {
  __shared__ RowScratch scratch;
  const i32 count = p.constituents / p.rows_per_composite, first = (i32)blockIdx.x * count;
  const i32 thread = (i32)threadIdx.x, threads = kThreads ? kThreads : (i32)blockDim.x;
  const T* logits = (const T*)p.logits + (i64)blockIdx.x * p.num_classes;
  T* gradient = p.gradient ? (T*)p.gradient + (i64)blockIdx.x * p.num_classes : nullptr;

  float total_weight = 0.0f;
  bool any = false;
  for (i32 i = first; i < first + count; ++i) {
    if (class_of(p, i) < 0) continue;
    total_weight += p.weights[i];
    any = true;
  }

  if (thread < kMaxConstituents) {
    const i32 index = thread < count ? class_of(p, first + thread) : -1;
    float share = 0.0f;
    for (i32 i = first; i < first + count; ++i)
      if (index >= 0 && class_of(p, i) == index) share += p.weights[i];
    scratch.classes[thread] = index;
    scratch.shares[thread] = share;
  }
  __syncthreads();

  float x[kItems];
  float factor = 0.0f, log_sum = 0.0f, mean = 0.0f;
  if (any) {
    float most = bits_float(0xff800000u);  // -inf
#pragma unroll
    for (i32 i = 0; i < kItems; ++i) {
      const i32 c = i * threads + thread;
      x[i] = c < p.num_classes ? load_element(logits + c) : bits_float(0xff800000u);
      most = Largest()(x[i], most);
    }
    most = combine_block(most, scratch.combine, Largest());
    float sum = 0.0f, shifted_sum = 0.0f;
#pragma unroll
    for (i32 i = 0; i < kItems; ++i) {
      const i32 c = i * threads + thread;
      if (c >= p.num_classes) continue;
      const float shifted = x[i] - most;
#pragma unroll
      for (i32 k = 0; k < kMaxConstituents; ++k)
        if (scratch.classes[k] == c) scratch.picked[k] = shifted;
      x[i] = expf(shifted);
      sum += x[i];
      shifted_sum += shifted;
    }
    sum = combine_block(sum, scratch.combine, Add());
    if (p.smoothing != 0.0f) shifted_sum = combine_block(shifted_sum, scratch.combine, Add());
    factor = total_weight * p.gradient_scale / sum;
    log_sum = logf(sum);
    mean = log_sum - shifted_sum / (float)p.num_classes;
  }

  if (p.gradient) {
    const float scale = p.gradient_scale;
    const float smooth = total_weight * scale * p.smoothing / (float)p.num_classes;
#pragma unroll
    for (i32 i = 0; i < kItems; ++i) {
      const i32 c = i * threads + thread;
      if (c >= p.num_classes) continue;
      float share = 0.0f;
#pragma unroll
      for (i32 k = 0; k < kMaxConstituents; ++k)
        if (scratch.classes[k] == c) share = scratch.shares[k];
      const float softmax = any ? fused_multiply_add(x[i], factor, -smooth) : 0.0f;
      store_element(gradient + c, softmax - share * (1.0f - p.smoothing) * scale);
    }
  }

  if (thread < count) {
    const i32 i = first + thread;
    float loss = 0.0f, smoothed = 0.0f;
    if (scratch.classes[thread] >= 0) {
      loss = log_sum - scratch.picked[thread];
      smoothed = loss;
      if (p.smoothing != 0.0f) smoothed = (1.0f - p.smoothing) * loss + p.smoothing * mean;
    }
    p.per_constituent[i] = loss;
    p.smoothed[i] = p.weights[i] * smoothed;
    __threadfence();
  }
  __syncthreads();
  finish_row(p, first, count, scratch);
}

template <class T>
__device__ inline void sigmoid_row(const CrossEntropyParams& p) {
  __shared__ RowScratch scratch;
  const i32 count = p.constituents / p.rows_per_composite, first = (i32)blockIdx.x * count;
  const i32 num_classes = p.num_classes;
  const T* logits = (const T*)p.logits + (i64)blockIdx.x * num_classes;
  T* gradient = p.gradient ? (T*)p.gradient + (i64)blockIdx.x * num_classes : nullptr;
  const float keep = 1.0f - p.smoothing, half = 0.5f * p.smoothing;

  // Without smoothing, and what each unit of smoothing adds.
  float plain[kMaxConstituents], added[kMaxConstituents], weights[kMaxConstituents];
#pragma unroll
  for (i32 k = 0; k < kMaxConstituents; ++k) {
    plain[k] = added[k] = 0.0f;
    weights[k] = k < count ? p.weights[first + k] : 0.0f;
  }
  for (i32 c = (i32)threadIdx.x; c < num_classes; c += (i32)blockDim.x) {
    const float x = load_element(logits + c);
    const float e = expf(x < 0.0f ? x : -x);
    const float softplus = log1pf(e), sigmoid = (x < 0.0f ? e : 1.0f) / (1.0f + e);
    float slope = 0.0f;
#pragma unroll
    for (i32 k = 0; k < kMaxConstituents; ++k) {
      if (weights[k] == 0.0f) continue;
      const float target = p.labels[(i64)(first + k) * num_classes + c];
      plain[k] += fused_multiply_add(-x, target, x > 0.0f ? x : 0.0f) + softplus;
      added[k] = fused_multiply_add(x, target - 0.5f, added[k]);
      slope += weights[k] * (sigmoid - fused_multiply_add(target, keep, half));
    }
    if (p.gradient) store_element(gradient + c, slope * (p.gradient_scale / (float)num_classes));
  }
#pragma unroll
  for (i32 k = 0; k < kMaxConstituents; ++k) {
    if (k >= count) break;
    const float loss = combine_block(plain[k], scratch.combine, Add());
    const float extra = combine_block(added[k], scratch.combine, Add());
    if (threadIdx.x != 0) continue;
    p.per_constituent[first + k] = loss / (float)num_classes;
    p.smoothed[first + k] = weights[k] * (loss + p.smoothing * extra) / (float)num_classes;
    __threadfence();
  }
  __syncthreads();
  finish_row(p, first, count, scratch);
}

// A thread scales one vector of 16 bytes; a last, shorter one goes element by element.
template <class T>
__device__ inline void scale_thread(const ScaleParams& p) {
  constexpr i32 kSize = Vector<T>::kSize;
  const i64 first = ((i64)blockIdx.x * kScaleThreads + threadIdx.x) * kSize;
  if (first >= p.count) return;
  const float scale = p.grad_loss[0] * p.factor;
  const T* from = (const T*)p.gradient + first;
  T* to = (T*)p.result + first;
  if (first + kSize <= p.count && ((u64)from | (u64)to) % 16 == 0) {
    Vector<T> vector;
    vector.load(from);
    float values[kSize];
    unpack(vector, values);
#pragma unroll
    for (i32 i = 0; i < kSize; ++i) values[i] *= scale;
    pack(T{}, values).store(to);
    return;
  }
#pragma unroll 1
  for (i64 i = 0; i < kSize && first + i < p.count; ++i)
    store_element(to + i, load_element(from + i) * scale);
}

}  // namespace mixpipe

#define MIXPIPE_SOFTMAX(name, T, items, threads)                                \
  extern "C" __global__ void __launch_bounds__(mixpipe::kMostSoftmaxThreads, 1) \
      softmax_cross_entropy_##name(const mixpipe::CrossEntropyParams params) {  \
    mixpipe::softmax_row<T, items, threads>(params);                            \
  }
// 6 blocks of 256 threads fill most multiprocessors, and leave enough registers that none is
// spilled: without a number the compiler may go for 8.
#define MIXPIPE_LOSSES(dtype, T)                                                \
  MIXPIPE_SOFTMAX(dtype##_4, T, 4, 0)                                           \
  MIXPIPE_SOFTMAX(dtype##_8, T, 8, mixpipe::kMostSoftmaxThreads)                \
  MIXPIPE_SOFTMAX(dtype##_22, T, 22, mixpipe::kMostSoftmaxThreads)              \
  extern "C" __global__ void __launch_bounds__(mixpipe::kSigmoidThreads, 6)     \
      sigmoid_cross_entropy_##dtype(const mixpipe::CrossEntropyParams params) { \
    mixpipe::sigmoid_row<T>(params);                                            \
  }                                                                             \
  extern "C" __global__ void __launch_bounds__(mixpipe::kScaleThreads)          \
      scale_gradient_##dtype(const mixpipe::ScaleParams params) {               \
    mixpipe::scale_thread<T>(params);                                           \
  }

MIXPIPE_LOSSES(f32, float)
MIXPIPE_LOSSES(f16, mixpipe::Half)
MIXPIPE_LOSSES(bf16, mixpipe::BFloat16)
