// What every kernel shares: integer types, element types and their conversions, launch geometry.
//
// Included by device code (nvcc, NVRTC), by the CPU kernels and by the emulated kernels (g++), so
// it needs no other header: neither torch nor the C++ library.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define MIXPIPE_HD __host__ __device__
#else
#define MIXPIPE_HD
#endif
#if defined(__CUDACC__) || defined(__CUDACC_RTC__) || !defined(__GNUC__)
#define MIXPIPE_INLINE static MIXPIPE_HD inline
#else
// Internal linkage, so that the copies compiled for different instruction sets never meet.
#define MIXPIPE_INLINE __attribute__((always_inline, unused)) static inline
#endif

namespace mixpipe {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using i32 = int;
using u64 = unsigned long long;
using i64 = long long;

// Constituents that a composite may have. The kernels' loops and label rules are checked for these.
constexpr i32 kMaxConstituents = 4;

// Element type of images, logits and soft labels. The numbers are part of the Python interface.
enum DType : i32 { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };
// Order of the dimensions in memory: contiguous is NCHW, channels_last is NHWC.
enum Layout : i32 { kNCHW = 0, kNHWC = 1 };

// Stored bits of the two 16-bit element types.
struct Half {
  u16 bits;
};
struct BFloat16 {
  u16 bits;
};

template <class T>
struct ElementOf;
template <>
struct ElementOf<float> {
  static constexpr DType dtype = kFloat32;
};
template <>
struct ElementOf<Half> {
  static constexpr DType dtype = kFloat16;
};
template <>
struct ElementOf<BFloat16> {
  static constexpr DType dtype = kBFloat16;
};

MIXPIPE_INLINE i32 element_size(i32 dtype) {
  return dtype == kFloat32 ? 4 : 2;
}

MIXPIPE_INLINE u32 float_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  u32 bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

MIXPIPE_INLINE float bits_float(u32 bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

MIXPIPE_INLINE float fused_multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

// Rounds to nearest, ties to even; overflow gives infinity, subnormals are kept, NaN stays NaN.
MIXPIPE_INLINE u16 float_to_half_bits(float value) {
#if defined(__CUDA_ARCH__)
  u16 half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
#else
  const u32 bits = float_bits(value);
  const u32 sign = (bits >> 16) & 0x8000u;
  const u32 magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (u16)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return (u16)(sign | 0x7c00u);  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {                               // below 2^-14: subnormal
    // Adding 0.5 makes the float's own rounding put the half's subnormal into the low bits.
    const float shifted = bits_float(magnitude) + 0.5f;
    return (u16)(sign | (float_bits(shifted) - 0x3f000000u));
  }
  const u32 odd = (magnitude >> 13) & 1u;
  return (u16)(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
#endif
}

MIXPIPE_INLINE float half_bits_to_float(u16 half) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
#else
  const u32 sign = (u32)(half & 0x8000u) << 16;
  const u32 magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x0400u) return bits_float(sign | ((magnitude << 13) + 0x38000000u));
  const float value = (float)magnitude * 5.9604644775390625e-8f;  // 2^-24
  return bits_float(sign | float_bits(value));
#endif
}

// Rounds to nearest, ties to even; NaN stays NaN. Integer arithmetic, since sm_75 has no
// instruction.
MIXPIPE_INLINE u16 float_to_bfloat16_bits(float value) {
  const u32 bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40u);
  return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

MIXPIPE_INLINE float load_element(const float* from) {
  return *from;
}
MIXPIPE_INLINE float load_element(const Half* from) {
  return half_bits_to_float(from->bits);
}
MIXPIPE_INLINE float load_element(const BFloat16* from) {
  return bits_float((u32)from->bits << 16);
}
MIXPIPE_INLINE void store_element(float* to, float value) {
  *to = value;
}
MIXPIPE_INLINE void store_element(Half* to, float value) {
  to->bits = float_to_half_bits(value);
}
MIXPIPE_INLINE void store_element(BFloat16* to, float value) {
  to->bits = float_to_bfloat16_bits(value);
}

MIXPIPE_INLINE i32 ceil_div(i32 a, i32 b) {
  return (a + b - 1) / b;
}
MIXPIPE_INLINE i32 min_i32(i32 a, i32 b) {
  return a < b ? a : b;
}
MIXPIPE_INLINE i32 max_i32(i32 a, i32 b) {
  return a > b ? a : b;
}

// A rectangle of the canvas in pixels, half open; the layout of an int32 [.., 4] row.
struct Region {
  i32 y0, x0, y1, x1;
};

MIXPIPE_INLINE bool contains(const Region& region, i32 y, i32 x) {
  return y >= region.y0 && y < region.y1 && x >= region.x0 && x < region.x1;
}
MIXPIPE_INLINE bool is_empty(const Region& region) {
  return region.y1 <= region.y0 || region.x1 <= region.x0;
}

// Division of n < 2^31 by a divisor known at the launch, as one high multiply (round-up method).
struct Divisor {
  u32 divisor, multiplier, shift;
};

MIXPIPE_INLINE Divisor make_divisor(u32 divisor) {
  u32 shift = 0;
  while ((1ull << shift) < divisor) ++shift;
  const u64 multiplier = ((1ull << 32) * ((1ull << shift) - divisor)) / divisor + 1;
  return {divisor, (u32)multiplier, shift};
}
MIXPIPE_INLINE u32 divide(u32 n, const Divisor& by) {
  const u32 high = (u32)(((u64)n * by.multiplier) >> 32);
  return (high + n) >> by.shift;
}

// Launch geometry of one kernel: what every launcher (CuPy, the emulator, the benchmark) uses.
struct Geometry {
  u32 grid, block, shared_bytes;
};

}  // namespace mixpipe
