// Reverses a row in place through dynamic shared memory.
extern "C" __global__ void reverse(float* rows, int width) {
  extern __shared__ float row[];
  float* mine = rows + (long long)blockIdx.x * width;
  for (int x = threadIdx.x; x < width; x += blockDim.x) row[x] = mine[x];
  __syncthreads();
  for (int x = threadIdx.x; x < width; x += blockDim.x) mine[x] = row[width - 1 - x];
}
