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

  // Intrinsics stay one 16-byte access: a plain assignment is split into four on the architectures
  // before Blackwell. They stream, since batches are larger than the caches.
  __device__ void store(T* to) const { __stcs(reinterpret_cast<uint4*>(to), as_uint4()); }
  __device__ void load(const T* from) {
    const uint4 vector = __ldcs(reinterpret_cast<const uint4*>(from));
    words[0] = vector.x;
    words[1] = vector.y;
    words[2] = vector.z;
    words[3] = vector.w;
  }
  __device__ uint4 as_uint4() const {
    uint4 vector;
    vector.x = words[0];
    vector.y = words[1];
    vector.z = words[2];
    vector.w = words[3];
    return vector;
  }
};

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

// The 4 * kWords bytes from `from` on, as words: aligned words are read and shifted into place.
// They take up to 3 bytes before and 4 behind.
template <i32 kWords>
__device__ inline void load_words(const u8* from, u32* words) {
  const u32 lead = (u32)(u64)from & 3u;
  const u32* aligned = reinterpret_cast<const u32*>(from - lead);
  u32 read[kWords + 1];
#pragma unroll
  for (i32 i = 0; i <= kWords; ++i) read[i] = __ldg(aligned + i);
#pragma unroll
  for (i32 i = 0; i < kWords; ++i) words[i] = __funnelshift_r(read[i], read[i + 1], 8 * lead);
}

// The same of the bytes from memory + offset on. Those outside of the memory's `size` are not
// touched and read as 0.
template <i32 kWords>
__device__ inline void load_bytes(const u8* memory, i32 offset, i32 size, u32* words) {
  const i32 lead = (i32)((u64)(memory + offset) & 3u);
  if (offset >= lead && offset - lead + 4 * (kWords + 1) <= size) {
    load_words<kWords>(memory + offset, words);
    return;
  }
#pragma unroll
  for (i32 i = 0; i < kWords; ++i) words[i] = 0;
#pragma unroll 1
  for (i32 at = offset; at < offset + 4 * kWords; ++at) {
    const u32 byte = at >= 0 && at < size ? __ldg(memory + at) : 0u;
#pragma unroll
    for (i32 i = 0; i < kWords - 1; ++i) words[i] = (words[i] >> 8) | (words[i + 1] << 24);
    words[kWords - 1] = (words[kWords - 1] >> 8) | (byte << 24);
  }
}

// Byte i of some words as a float: made the mantissa of a float of 2^23 and more. Conversions of
// integers have a quarter of the rate on some architectures.
__device__ inline float byte_value(const u32* words, i32 i) {
  return bits_float(__byte_perm(words[i / 4], 0x4b000000u, 0x7650u + (u32)(i % 4))) - 8388608.0f;
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
