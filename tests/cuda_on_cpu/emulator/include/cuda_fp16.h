// Stand-in for CUDA's half precision header: storage, exact conversions and arithmetic rounded
// once (computed in double, which holds any sum or product of two halves exactly).
#pragma once

#include "emulator/bits.h"

namespace emulator {

// float -> IEEE half bits, round to nearest even; NaN becomes CUDA's canonical 0x7fff.
inline uint16_t half_bits(float value) {
  const uint32_t bits = bits_as<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00;  // 65520 and more: infinity
  if (magnitude < 0x38800000u) {                       // below 2^-14: subnormal
    // 0.5 has an ulp of 2^-24, the step of half's subnormals: the addition does the rounding.
    const float shifted = bits_as<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(bits_as<uint32_t>(shifted) - 0x3f000000u);
  }
  const uint32_t round = 0xfffu + (magnitude >> 13 & 1u);
  return sign | static_cast<uint16_t>((magnitude - 0x38000000u + round) >> 13);
}

inline float half_value(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
  if (rest >= 0x7c00u) return bits_as<float>(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  if (rest < 0x400u) {
    const float magnitude = static_cast<float>(rest) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return bits_as<float>(sign | ((rest << 13) + 0x38000000u));
}

// double -> half with one rounding: float by round-to-odd first, which keeps what decides a tie.
inline uint16_t half_bits_of_double(double value) {
  float narrow = static_cast<float>(value);
  if (static_cast<double>(narrow) != value && narrow == narrow) {
    uint32_t bits = bits_as<uint32_t>(narrow);
    const double magnitude = value < 0 ? -value : value;
    const double narrow_magnitude = narrow < 0 ? -narrow : narrow;
    if (narrow_magnitude > magnitude) --bits;  // truncate toward zero
    narrow = bits_as<float>(bits | 1u);        // and remember that something was cut off
  }
  return half_bits(narrow);
}

}  // namespace emulator

struct alignas(2) __half {
  uint16_t bits;
  __half() = default;
  __half(float value) : bits(emulator::half_bits(value)) {}
  __half(double value) : bits(emulator::half_bits_of_double(value)) {}
  __half(int value) : bits(emulator::half_bits_of_double(value)) {}
  operator float() const { return emulator::half_value(bits); }
};
using half = __half;

struct alignas(4) __half2 {
  __half x, y;
};
using half2 = __half2;

inline __half __float2half(float value) {
  return __half(value);
}
inline __half __float2half_rn(float value) {
  return __half(value);
}
inline float __half2float(__half value) {
  return value;
}
inline __half __double2half(double value) {
  return __half(value);
}
inline __half __ushort_as_half(unsigned short bits) {
  return emulator::bits_as<__half>(bits);
}
inline unsigned short __half_as_ushort(__half value) {
  return value.bits;
}

inline __half2 __halves2half2(__half low, __half high) {
  return {low, high};
}
inline __half2 make_half2(__half low, __half high) {
  return {low, high};
}
inline __half2 __half2half2(__half both) {
  return {both, both};
}
inline __half2 __floats2half2_rn(float low, float high) {
  return {__half(low), __half(high)};
}
inline __half2 __float22half2_rn(float2 value) {
  return {__half(value.x), __half(value.y)};
}
inline __half2 __float2half2_rn(float both) {
  return {__half(both), __half(both)};
}
inline float2 __half22float2(__half2 value) {
  return {value.x, value.y};
}
inline __half __low2half(__half2 value) {
  return value.x;
}
inline __half __high2half(__half2 value) {
  return value.y;
}
inline float __low2float(__half2 value) {
  return value.x;
}
inline float __high2float(__half2 value) {
  return value.y;
}

inline __half __hadd(__half a, __half b) {
  return __half(double(float(a)) + double(float(b)));
}
inline __half __hsub(__half a, __half b) {
  return __half(double(float(a)) - double(float(b)));
}
inline __half __hmul(__half a, __half b) {
  return __half(double(float(a)) * double(float(b)));
}
inline __half __hfma(__half a, __half b, __half c) {
  return __half(double(float(a)) * double(float(b)) + double(float(c)));
}
inline __half2 __hadd2(__half2 a, __half2 b) {
  return {__hadd(a.x, b.x), __hadd(a.y, b.y)};
}
inline __half2 __hmul2(__half2 a, __half2 b) {
  return {__hmul(a.x, b.x), __hmul(a.y, b.y)};
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
