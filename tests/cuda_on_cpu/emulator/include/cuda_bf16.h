// Stand-in for CUDA's bfloat16 header: storage and exact conversions.
#pragma once

#include "emulator/bits.h"

namespace emulator {

// float -> bfloat16 bits, round to nearest even; NaN becomes CUDA's canonical 0x7fff.
inline uint16_t bfloat_bits(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float bfloat_value(uint16_t bits) {
  return bits_as<float>(static_cast<uint32_t>(bits) << 16);
}

}  // namespace emulator

struct alignas(2) __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float value) : bits(emulator::bfloat_bits(value)) {}
  operator float() const { return emulator::bfloat_value(bits); }
};
using nv_bfloat16 = __nv_bfloat16;

struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat16 __float2bfloat16(float value) {
  return __nv_bfloat16(value);
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  return __nv_bfloat16(value);
}
inline float __bfloat162float(__nv_bfloat16 value) {
  return value;
}
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  return emulator::bits_as<__nv_bfloat16>(bits);
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) {
  return value.bits;
}

inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) {
  return {low, high};
}
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) {
  return {low, high};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
  return {__nv_bfloat16(low), __nv_bfloat16(high)};
}
inline float2 __bfloat1622float2(__nv_bfloat162 value) {
  return {value.x, value.y};
}
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 value) {
  return value.x;
}
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 value) {
  return value.y;
}
inline float __low2float(__nv_bfloat162 value) {
  return value.x;
}
inline float __high2float(__nv_bfloat162 value) {
  return value.y;
}
