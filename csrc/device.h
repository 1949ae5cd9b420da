// What the CUDA kernels share: 16-byte vectors of elements, and sums over a block.
//
// Compiled by nvcc, by NVRTC, and by g++ for the emulated kernels; PTX is written only where
// __CUDA_ARCH__ says that an NVIDIA compiler reads it.
#pragma once
#include "common.h"

namespace mixpipe {

// One 16-byte store or load of elements of type T, packed in order.
template <class T>
struct Vector {
  static constexpr i32 kSize = 16 / (i32)sizeof(T);
  u32 words[4];

  // Appends one element, after kSize of which the vector is full; no element is addressed by a
  // run-time index, so that all stays in registers.
  __device__ void push(u32 bits) {
    if (sizeof(T) == 4) {
      words[0] = words[1];
      words[1] = words[2];
      words[2] = words[3];
      words[3] = bits;
    } else {
      words[0] = (words[0] >> 16) | (words[1] << 16);
      words[1] = (words[1] >> 16) | (words[2] << 16);
      words[2] = (words[2] >> 16) | (words[3] << 16);
      words[3] = (words[3] >> 16) | (bits << 16);
    }
  }
  // Intrinsics stay one 16-byte access: a plain assignment is split into four on the architectures
  // before Blackwell. They stream, since batches are larger than the caches.
  __device__ void store(T* to) const {
    uint4 vector;
    vector.x = words[0];
    vector.y = words[1];
    vector.z = words[2];
    vector.w = words[3];
    __stcs(reinterpret_cast<uint4*>(to), vector);
  }
  __device__ void load(const T* from) {
    const uint4 vector = __ldcs(reinterpret_cast<const uint4*>(from));
    words[0] = vector.x;
    words[1] = vector.y;
    words[2] = vector.z;
    words[3] = vector.w;
  }
};

__device__ inline u32 element_bits(float, float value) {
  return float_bits(value);
}
__device__ inline u32 element_bits(Half, float value) {
  return float_to_half_bits(value);
}
__device__ inline u32 element_bits(BFloat16, float value) {
  return float_to_bfloat16_bits(value);
}

__device__ inline u32 pack_pair(Half, float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  u32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return float_to_half_bits(low) | ((u32)float_to_half_bits(high) << 16);
#endif
}
__device__ inline u32 pack_pair(BFloat16, float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return float_to_bfloat16_bits(low) | ((u32)float_to_bfloat16_bits(high) << 16);
#endif
}

// The vector of kSize floats, each rounded once.
__device__ inline Vector<float> pack(float, const float* values) {
  return {
      {float_bits(values[0]), float_bits(values[1]), float_bits(values[2]), float_bits(values[3])}};
}
template <class T>
__device__ inline Vector<T> pack(T type, const float* values) {
  return {{pack_pair(type, values[0], values[1]), pack_pair(type, values[2], values[3]),
           pack_pair(type, values[4], values[5]), pack_pair(type, values[6], values[7])}};
}

__device__ inline void unpack(const Vector<float>& vector, float* values) {
#pragma unroll
  for (i32 i = 0; i < 4; ++i) values[i] = bits_float(vector.words[i]);
}
__device__ inline void unpack(const Vector<Half>& vector, float* values) {
#pragma unroll
  for (i32 i = 0; i < 4; ++i) {
    values[2 * i] = half_bits_to_float((u16)(vector.words[i] & 0xffffu));
    values[2 * i + 1] = half_bits_to_float((u16)(vector.words[i] >> 16));
  }
}
__device__ inline void unpack(const Vector<BFloat16>& vector, float* values) {
#pragma unroll
  for (i32 i = 0; i < 4; ++i) {
    values[2 * i] = bits_float(vector.words[i] << 16);
    values[2 * i + 1] = bits_float(vector.words[i] & 0xffff0000u);
  }
}

// Combines one value of each thread of a block, in a fixed order; every thread gets the result.
// `scratch` holds 33 values and may be used again at once. All threads call; blockDim.x is a
// multiple of 32.
template <class Combine>
__device__ inline float combine_block(float value, float* scratch, Combine combine) {
  for (i32 distance = 16; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  if (warp == 0) {
    value = scratch[lane < warps ? lane : 0];
    for (i32 distance = 16; distance > 0; distance /= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, value, distance);
      if ((lane ^ distance) < warps && lane < warps) value = combine(value, other);
    }
    if (lane == 0) scratch[32] = value;
  }
  __syncthreads();
  return scratch[32];  // written again only behind the next call's first barrier
}

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Largest {
  __device__ float operator()(float a, float b) const { return a > b ? a : b; }
};

}  // namespace mixpipe
