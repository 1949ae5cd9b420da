// exp, log1p and reductions of vectors of any width.
#pragma once
#include "simd.h"

namespace mixpipe {
namespace MIXPIPE_ISA {

// e^x for x <= 0; at most 1 unit in the last place off down to -9, 1.4 to -20 and 4.5 to -87.3,
// below that the smallest normal number. NaN stays NaN. A polynomial on [-ln 2 / 2, ln 2 / 2];
// ln 2 as a float puts x off by 2e-9 for each power of 2.
template <class F>
MIXPIPE_INLINE F exp(F x) {
  x = max(like(x, -87.33654f), x);
  // At 1.5 * 2^23, floats are whole numbers: this rounds, and leaves n + 127 in the lowest bits.
  const F magic = like(x, 12582912.0f + 127.0f);
  const F shifted = fma(x, like(x, 1.44269504f), magic), n = subtract(shifted, magic);
  const F r = fma(n, like(x, -0.693147182f), x);
  F y = like(x, 1.38145406e-3f);
  y = fma(y, r, like(x, 8.36874545e-3f));
  y = fma(y, r, like(x, 4.16683890e-2f));
  y = fma(y, r, like(x, 0.166665211f));
  y = fma(y, r, like(x, 0.499999940f));
  y = fma(y, r, like(x, 1.0f));
  y = fma(y, r, like(x, 1.0f));
  return multiply(y, exp2_bits(shifted));
}

// log(1 + e) for e in [0, 1], as 2 atanh(e / (2 + e)): no cancellation for small e.
template <class F>
MIXPIPE_INLINE F log1p(F e) {
  const F z = divide(e, add(e, like(e, 2.0f)));
  const F z2 = multiply(z, z);
  F y = like(e, 1.0f / 15);
  y = fma(y, z2, like(e, 1.0f / 13));
  y = fma(y, z2, like(e, 1.0f / 11));
  y = fma(y, z2, like(e, 1.0f / 9));
  y = fma(y, z2, like(e, 1.0f / 7));
  y = fma(y, z2, like(e, 1.0f / 5));
  y = fma(y, z2, like(e, 1.0f / 3));
  y = fma(y, z2, like(e, 1.0f));
  return multiply(add(z, z), y);
}

MIXPIPE_INLINE float sum_lanes(F8 value) {
  float lanes[kLanes];
  store(lanes, value);
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
         ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

MIXPIPE_INLINE float sum_lanes(F16 value) {
  return sum_lanes(add(low_half(value), high_half(value)));
}

MIXPIPE_INLINE float largest_lane(F8 value) {
  float lanes[kLanes];
  store(lanes, value);
  float most = lanes[0];
  for (i32 i = 1; i < kLanes; ++i) most = lanes[i] > most ? lanes[i] : most;
  return most;
}

MIXPIPE_INLINE float largest_lane(F16 value) {
  return largest_lane(max(low_half(value), high_half(value)));
}

}  // namespace MIXPIPE_ISA
}  // namespace mixpipe
