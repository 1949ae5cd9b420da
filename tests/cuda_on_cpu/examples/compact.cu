// Keeps the positive values: ballot for a place in the warp, one atomic a warp for a place in all.
extern "C" __global__ void compact(const int* values, int* kept, int* count, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
  const int value = i < n ? values[i] : 0;
  const unsigned keep = __ballot_sync(0xffffffffu, value > 0);
  int base = 0;
  if (lane == 0) base = atomicAdd(count, __popc(keep));
  base = __shfl_sync(0xffffffffu, base, 0);
  if (value > 0) kept[base + __popc(keep & ((1u << lane) - 1))] = value;
}
