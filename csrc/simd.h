// Vectors of floats for the CPU kernels: F8, F4, and F16 where there is much arithmetic.
//
// Each *_cpu.cpp is compiled once per instruction set (see CMakeLists.txt) into the namespace
// MIXPIPE_ISA, and dispatch.cpp picks one at run time. The results are the same bits everywhere:
// every multiply-add is fused, every conversion rounds to nearest even, and sums have as many lanes
// on all.
#pragma once
#include "common.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define MIXPIPE_AVX2 1
#include <immintrin.h>
#endif
#if defined(MIXPIPE_AVX2) && defined(__AVX512F__)
#define MIXPIPE_AVX512 1
#endif

namespace mixpipe {
namespace MIXPIPE_ISA {

constexpr i32 kLanes = 8;

#if defined(MIXPIPE_AVX2)

using F8 = __m256;

MIXPIPE_INLINE F8 broadcast8(float value) {
  return _mm256_set1_ps(value);
}
MIXPIPE_INLINE F8 load8(const float* from) {
  return _mm256_loadu_ps(from);
}
MIXPIPE_INLINE F8 load8(const u8* from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from)));
}
MIXPIPE_INLINE F8 load8(const Half* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
}
MIXPIPE_INLINE F8 load8(const BFloat16* from) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
MIXPIPE_INLINE __m128i round_to_half(F8 value) {
  return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
MIXPIPE_INLINE __m128i round_to_bfloat16(F8 value) {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  // Rare, and predicted so: rounding could carry a NaN into infinity.
  const F8 nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
  if (__builtin_expect(_mm256_movemask_ps(nan), 0))
    rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)),
                                 _mm256_castps_si256(nan));
  rounded = _mm256_srli_epi32(rounded, 16);
  const __m256i packed = _mm256_packus_epi32(rounded, rounded);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}
MIXPIPE_INLINE void store(float* to, F8 value) {
  _mm256_storeu_ps(to, value);
}
MIXPIPE_INLINE void store(Half* to, F8 value) {
  _mm_storeu_si128((__m128i*)to, round_to_half(value));
}
MIXPIPE_INLINE void store(BFloat16* to, F8 value) {
  _mm_storeu_si128((__m128i*)to, round_to_bfloat16(value));
}
// Around the caches, for results larger than they are: reading the lines that are about to be
// overwritten would cost as much as writing them. `to` starts at a multiple of 16 bytes.
MIXPIPE_INLINE void stream(float* to, F8 value) {
  _mm_stream_ps(to, _mm256_castps256_ps128(value));
  _mm_stream_ps(to + 4, _mm256_extractf128_ps(value, 1));
}
MIXPIPE_INLINE void stream(Half* to, F8 value) {
  _mm_stream_si128((__m128i*)to, round_to_half(value));
}
MIXPIPE_INLINE void stream(BFloat16* to, F8 value) {
  _mm_stream_si128((__m128i*)to, round_to_bfloat16(value));
}
MIXPIPE_INLINE void finish_streams() {
  _mm_sfence();
}

MIXPIPE_INLINE F8 add(F8 a, F8 b) {
  return _mm256_add_ps(a, b);
}
MIXPIPE_INLINE F8 subtract(F8 a, F8 b) {
  return _mm256_sub_ps(a, b);
}
MIXPIPE_INLINE F8 multiply(F8 a, F8 b) {
  return _mm256_mul_ps(a, b);
}
MIXPIPE_INLINE F8 divide(F8 a, F8 b) {
  return _mm256_div_ps(a, b);
}
MIXPIPE_INLINE F8 fma(F8 a, F8 b, F8 c) {
  return _mm256_fmadd_ps(a, b, c);
}
MIXPIPE_INLINE F8 max(F8 a, F8 b) {
  return _mm256_max_ps(a, b);
}
MIXPIPE_INLINE F8 min(F8 a, F8 b) {
  return _mm256_min_ps(a, b);
}
// The float whose exponent has the 8 lowest bits of the lane's, and whose other bits are 0.
MIXPIPE_INLINE F8 exp2_bits(F8 a) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23));
}

// Four floats: a pixel of three channels and what lies behind it.
using F4 = __m128;

MIXPIPE_INLINE F4 broadcast4(float value) {
  return _mm_set1_ps(value);
}
MIXPIPE_INLINE F4 load4(const float* from) {
  return _mm_loadu_ps(from);
}
MIXPIPE_INLINE void store(float* to, F4 value) {
  _mm_storeu_ps(to, value);
}
MIXPIPE_INLINE F4 multiply(F4 a, F4 b) {
  return _mm_mul_ps(a, b);
}
MIXPIPE_INLINE F4 fma(F4 a, F4 b, F4 c) {
  return _mm_fmadd_ps(a, b, c);
}

// The three channels of eight interleaved pixels.
MIXPIPE_INLINE void load_pixels8(const float* from, F8* channels) {
  const auto join = [](const float* low, const float* high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(load4(low)), load4(high), 1);
  };
  const F8 a = join(from, from + 12), b = join(from + 4, from + 16), c = join(from + 8, from + 20);
  const F8 rg = _mm256_shuffle_ps(b, c, _MM_SHUFFLE(2, 1, 3, 2));
  const F8 gb = _mm256_shuffle_ps(a, b, _MM_SHUFFLE(1, 0, 2, 1));
  channels[0] = _mm256_shuffle_ps(a, rg, _MM_SHUFFLE(2, 0, 3, 0));
  channels[1] = _mm256_shuffle_ps(gb, rg, _MM_SHUFFLE(3, 1, 2, 0));
  channels[2] = _mm256_shuffle_ps(gb, c, _MM_SHUFFLE(3, 0, 3, 1));
}

#else

struct F8 {
  float lane[kLanes];
};

#define MIXPIPE_EACH_LANE(expression)                             \
  F8 result;                                                      \
  for (i32 i = 0; i < kLanes; ++i) result.lane[i] = (expression); \
  return result

MIXPIPE_INLINE F8 broadcast8(float value) {
  MIXPIPE_EACH_LANE(value);
}
MIXPIPE_INLINE F8 load8(const u8* from) {
  MIXPIPE_EACH_LANE((float)from[i]);
}
template <class T>
MIXPIPE_INLINE F8 load8(const T* from) {
  MIXPIPE_EACH_LANE(load_element(from + i));
}
template <class T>
MIXPIPE_INLINE void store(T* to, const F8& value) {
  for (i32 i = 0; i < kLanes; ++i) store_element(to + i, value.lane[i]);
}
template <class T>
MIXPIPE_INLINE void stream(T* to, const F8& value) {
  store(to, value);
}
MIXPIPE_INLINE void finish_streams() {}

MIXPIPE_INLINE F8 add(const F8& a, const F8& b) {
  MIXPIPE_EACH_LANE(a.lane[i] + b.lane[i]);
}
MIXPIPE_INLINE F8 subtract(const F8& a, const F8& b) {
  MIXPIPE_EACH_LANE(a.lane[i] - b.lane[i]);
}
MIXPIPE_INLINE F8 multiply(const F8& a, const F8& b) {
  MIXPIPE_EACH_LANE(a.lane[i] * b.lane[i]);
}
MIXPIPE_INLINE F8 divide(const F8& a, const F8& b) {
  MIXPIPE_EACH_LANE(a.lane[i] / b.lane[i]);
}
MIXPIPE_INLINE F8 fma(const F8& a, const F8& b, const F8& c) {
  MIXPIPE_EACH_LANE(fused_multiply_add(a.lane[i], b.lane[i], c.lane[i]));
}
// As the x86 instructions: the second operand where either is NaN.
MIXPIPE_INLINE F8 max(const F8& a, const F8& b) {
  MIXPIPE_EACH_LANE(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]);
}
MIXPIPE_INLINE F8 min(const F8& a, const F8& b) {
  MIXPIPE_EACH_LANE(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]);
}
MIXPIPE_INLINE F8 exp2_bits(const F8& a) {
  MIXPIPE_EACH_LANE(bits_float(float_bits(a.lane[i]) << 23));
}
#undef MIXPIPE_EACH_LANE

struct F4 {
  float lane[4];
};
#define MIXPIPE_EACH_LANE(expression)                        \
  F4 result;                                                 \
  for (i32 i = 0; i < 4; ++i) result.lane[i] = (expression); \
  return result

MIXPIPE_INLINE F4 broadcast4(float value) {
  MIXPIPE_EACH_LANE(value);
}
MIXPIPE_INLINE F4 load4(const float* from) {
  MIXPIPE_EACH_LANE(from[i]);
}
MIXPIPE_INLINE void store(float* to, const F4& value) {
  for (i32 i = 0; i < 4; ++i) to[i] = value.lane[i];
}
MIXPIPE_INLINE F4 multiply(const F4& a, const F4& b) {
  MIXPIPE_EACH_LANE(a.lane[i] * b.lane[i]);
}
MIXPIPE_INLINE F4 fma(const F4& a, const F4& b, const F4& c) {
  MIXPIPE_EACH_LANE(fused_multiply_add(a.lane[i], b.lane[i], c.lane[i]));
}
#undef MIXPIPE_EACH_LANE

// The three channels of eight interleaved pixels.
MIXPIPE_INLINE void load_pixels8(const float* from, F8* channels) {
  for (i32 i = 0; i < 3 * kLanes; ++i) channels[i % 3].lane[i / 3] = from[i];
}

#endif

// Sixteen floats: one register with AVX-512, else two vectors of eight.
constexpr i32 kWideLanes = 16;

#if defined(MIXPIPE_AVX512)

using F16 = __m512;

MIXPIPE_INLINE F16 broadcast16(float value) {
  return _mm512_set1_ps(value);
}
MIXPIPE_INLINE F16 load16(const float* from) {
  return _mm512_loadu_ps(from);
}
MIXPIPE_INLINE F16 load16(const Half* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
}
MIXPIPE_INLINE F16 load16(const BFloat16* from) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
MIXPIPE_INLINE F8 low_half(F16 value) {
  return _mm512_castps512_ps256(value);
}
MIXPIPE_INLINE F8 high_half(F16 value) {
  return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(value), 1));
}
MIXPIPE_INLINE void store(float* to, F16 value) {
  _mm512_storeu_ps(to, value);
}
MIXPIPE_INLINE F16 add(F16 a, F16 b) {
  return _mm512_add_ps(a, b);
}
MIXPIPE_INLINE F16 subtract(F16 a, F16 b) {
  return _mm512_sub_ps(a, b);
}
MIXPIPE_INLINE F16 multiply(F16 a, F16 b) {
  return _mm512_mul_ps(a, b);
}
MIXPIPE_INLINE F16 divide(F16 a, F16 b) {
  return _mm512_div_ps(a, b);
}
MIXPIPE_INLINE F16 fma(F16 a, F16 b, F16 c) {
  return _mm512_fmadd_ps(a, b, c);
}
MIXPIPE_INLINE F16 max(F16 a, F16 b) {
  return _mm512_max_ps(a, b);
}
MIXPIPE_INLINE F16 min(F16 a, F16 b) {
  return _mm512_min_ps(a, b);
}
MIXPIPE_INLINE F16 exp2_bits(F16 a) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 23));
}

#else

struct F16 {
  F8 low, high;
};

MIXPIPE_INLINE F16 broadcast16(float value) {
  return {broadcast8(value), broadcast8(value)};
}
template <class T>
MIXPIPE_INLINE F16 load16(const T* from) {
  return {load8(from), load8(from + kLanes)};
}
MIXPIPE_INLINE F8 low_half(const F16& value) {
  return value.low;
}
MIXPIPE_INLINE F8 high_half(const F16& value) {
  return value.high;
}
MIXPIPE_INLINE void store(float* to, const F16& value) {
  store(to, value.low);
  store(to + kLanes, value.high);
}
MIXPIPE_INLINE F16 add(const F16& a, const F16& b) {
  return {add(a.low, b.low), add(a.high, b.high)};
}
MIXPIPE_INLINE F16 subtract(const F16& a, const F16& b) {
  return {subtract(a.low, b.low), subtract(a.high, b.high)};
}
MIXPIPE_INLINE F16 multiply(const F16& a, const F16& b) {
  return {multiply(a.low, b.low), multiply(a.high, b.high)};
}
MIXPIPE_INLINE F16 divide(const F16& a, const F16& b) {
  return {divide(a.low, b.low), divide(a.high, b.high)};
}
MIXPIPE_INLINE F16 fma(const F16& a, const F16& b, const F16& c) {
  return {fma(a.low, b.low, c.low), fma(a.high, b.high, c.high)};
}
MIXPIPE_INLINE F16 max(const F16& a, const F16& b) {
  return {max(a.low, b.low), max(a.high, b.high)};
}
MIXPIPE_INLINE F16 min(const F16& a, const F16& b) {
  return {min(a.low, b.low), min(a.high, b.high)};
}
MIXPIPE_INLINE F16 exp2_bits(const F16& a) {
  return {exp2_bits(a.low), exp2_bits(a.high)};
}

#endif

MIXPIPE_INLINE void store(Half* to, const F16& value) {
  store(to, low_half(value));
  store(to + kLanes, high_half(value));
}
MIXPIPE_INLINE void store(BFloat16* to, const F16& value) {
  store(to, low_half(value));
  store(to + kLanes, high_half(value));
}

// The same number in every lane of a vector like the first.
MIXPIPE_INLINE F8 like(const F8&, float value) {
  return broadcast8(value);
}
MIXPIPE_INLINE F16 like(const F16&, float value) {
  return broadcast16(value);
}

}  // namespace MIXPIPE_ISA
}  // namespace mixpipe
