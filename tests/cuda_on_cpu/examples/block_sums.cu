// Sums by warp shuffles and shared memory; the last block to finish adds the blocks' sums.
#ifndef BLOCK
#define BLOCK 128
#endif

struct SumParams {
  const float* values;  // [count]
  float* partial;       // [blocks]
  float* total;         // [1]
  unsigned* finished;   // [1], 0 before and after
  int count;
};

__device__ float block_sum(float value) {
  __shared__ float warp_sums[BLOCK / 32];
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x < BLOCK / 32 ? warp_sums[threadIdx.x] : 0.0f;
  if (threadIdx.x < 32)
    for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  __syncthreads();
  return value;
}

extern "C" __global__ void __launch_bounds__(BLOCK) total_sum(const SumParams p) {
  __shared__ bool last;
  float value = 0.0f;
  for (int i = blockIdx.x * BLOCK + threadIdx.x; i < p.count; i += gridDim.x * BLOCK)
    value += p.values[i];
  value = block_sum(value);
  if (threadIdx.x == 0) {
    p.partial[blockIdx.x] = value;
    __threadfence();
    last = atomicAdd(p.finished, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (!last) return;
  value = 0.0f;
  for (int i = threadIdx.x; i < (int)gridDim.x; i += BLOCK) value += p.partial[i];
  value = block_sum(value);
  if (threadIdx.x == 0) {
    *p.total = value;
    *p.finished = 0;
  }
}
