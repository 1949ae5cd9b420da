// select_lowest on the GPU: the table is read once a launch, and what a launch finds stays on the
// device for the next one.
#include "device.h"
#include "select.h"

namespace mixpipe {

// Whether this block is the last of the launch to get here; all threads get the answer. What the
// others wrote before is then visible. `flag` is shared.
__device__ inline bool is_last_block(SelectState* state, i32* flag) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // after the barrier, so that it stands for the whole block
    // Wraps to 0 at the last block, ready for the next launch.
    *flag = atomicInc(&state->finished_blocks, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  return *flag != 0;
}

__device__ inline u32 sum_warp(u32 value) {
  for (i32 distance = 16; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// The sum over a block in a fixed order, for thread 0. `scratch` holds kSelectThreads values.
__device__ inline double sum_block(double value, double* scratch) {
  scratch[threadIdx.x] = value;
  for (i32 width = kSelectThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if ((i32)threadIdx.x < width) scratch[threadIdx.x] += scratch[threadIdx.x + width];
  }
  return threadIdx.x == 0 ? scratch[0] : 0.0;
}

__device__ inline void select_measure_thread(const SelectParams& p) {
  __shared__ double scratch[kSelectThreads];
  __shared__ i32 last;
  double sum = 0.0;
  u32 ranked = 0;
  for (i32 i = (i32)(blockIdx.x * kSelectThreads + threadIdx.x); i < p.size;
       i += (i32)gridDim.x * kSelectThreads) {
    if (!is_ranked(p, i)) continue;
    ++ranked;
    sum += (double)rank_value(p, i);
  }
  ranked = sum_warp(ranked);
  if (threadIdx.x % 32 == 0) atomicAdd(&p.state->ranked, ranked);
  sum = sum_block(sum, scratch);
  if (threadIdx.x == 0) p.sums[blockIdx.x] = sum;
  if (!is_last_block(p.state, &last)) return;

  const volatile double* sums = p.sums;
  sum = 0.0;
  for (u32 i = threadIdx.x; i < gridDim.x; i += kSelectThreads) sum += sums[i];
  sum = sum_block(sum, scratch);
  if (threadIdx.x != 0) return;
  const u32 all = *(const volatile u32*)&p.state->ranked;
  const double mean = all ? sum / (double)all : 0.0;
  p.state->mean = mean;
#pragma unroll
  for (i32 t = 0; t < kMaxTiers; ++t) {
    // Of a budget nothing is taken until the search has found a scale.
    p.state->thresholds[t] = p.rule == kBudget ? -1.0f : as_threshold(p.factors[t] * mean);
    const double wanted = rint(p.factors[t] * (double)all);
    p.state->wanted[t] = wanted < (double)all ? (u32)wanted : all;
  }
}

// One bit of what is looked for, from the highest down.
__device__ inline void select_search_thread(const SelectParams& p) {
  __shared__ i32 last;
  SelectState* state = p.state;
  const u64 bit = 1ull << p.bit;
  const float scale = bits_float((u32)(state->found[0] | bit));
  const double mean = state->mean;
  u64 candidates[kMaxTiers];
  float thresholds[kMaxTiers];
  u32 counts[kMaxTiers];
#pragma unroll
  for (i32 t = 0; t < kMaxTiers; ++t) {
    candidates[t] = state->found[t] | bit;
    thresholds[t] = as_threshold(p.factors[t] * (double)scale * mean);
    counts[t] = 0;
  }
  for (i32 i = (i32)(blockIdx.x * kSelectThreads + threadIdx.x); i < p.size;
       i += (i32)gridDim.x * kSelectThreads) {
    if (!is_ranked(p, i)) continue;
    const u64 key = rank_key(p, i);
    const float value = rank_value(p, i);
#pragma unroll
    for (i32 t = 0; t < kMaxTiers; ++t)
      counts[t] += p.rule == kShare ? key < candidates[t] : value <= thresholds[t];
  }
#pragma unroll
  for (i32 t = 0; t < kMaxTiers; ++t) {
    counts[t] = sum_warp(counts[t]);
    if (threadIdx.x % 32 == 0) atomicAdd(&state->counts[t], counts[t]);
  }
  if (!is_last_block(state, &last) || threadIdx.x != 0) return;

  volatile u32* totals = state->counts;
  double saved = 0.0;
#pragma unroll
  for (i32 t = 0; t < kMaxTiers; ++t) {
    const u32 total = totals[t];
    totals[t] = 0;
    if (p.rule == kShare && total < state->wanted[t]) state->found[t] |= bit;
    saved += p.savings[t] * (double)total;
  }
  // A scale that is not finite is too large.
  if (p.rule != kBudget || !(scale <= 3.402823466e38f) || saved > p.target) return;
  state->found[0] |= bit;
#pragma unroll
  for (i32 t = 0; t < kMaxTiers; ++t) state->thresholds[t] = thresholds[t];
}

__device__ inline void select_mark_thread(const SelectParams& p) {
  const SelectState* state = p.state;
  u32 taken[kMaxTiers];
#pragma unroll
  for (i32 t = 0; t < kMaxTiers; ++t) taken[t] = 0;
  // A warp's 32 samples are one word; lanes beyond the end take part with nothing.
  const i32 stride = (i32)gridDim.x * kSelectThreads, lane = threadIdx.x % 32;
  for (i32 i = (i32)(blockIdx.x * kSelectThreads + threadIdx.x); i - lane < p.size; i += stride) {
    const bool ranked = i < p.size && is_ranked(p, i);
#pragma unroll
    for (i32 t = 0; t < kMaxTiers; ++t) {
      if (t >= p.tiers) continue;
      bool in = false;
      if (ranked)
        in = p.rule == kShare ? state->wanted[t] > 0 && rank_key(p, i) <= state->found[t]
                              : rank_value(p, i) <= state->thresholds[t];
      const u32 word = __ballot_sync(0xffffffffu, in);
      if (lane == 0) p.masks[t * p.words + i / 32] = word;
      taken[t] += (u32)__popc(word);
    }
  }
#pragma unroll
  for (i32 t = 0; t < kMaxTiers; ++t)
    if (lane == 0 && taken[t]) atomicAdd(&p.state->taken[t], taken[t]);
}

}  // namespace mixpipe

#define MIXPIPE_SELECT(step)                                            \
  extern "C" __global__ void __launch_bounds__(mixpipe::kSelectThreads) \
      select_##step(const mixpipe::SelectParams params) {               \
    mixpipe::select_##step##_thread(params);                            \
  }

MIXPIPE_SELECT(measure)
MIXPIPE_SELECT(search)
MIXPIPE_SELECT(mark)
