// exp and log1p for eight floats.
#pragma once
#include "simd.h"

namespace mixpipe {
namespace MIXPIPE_ISA {

// e^x for x <= 0; at most 1 unit in the last place off down to -9, 1.4 to -20 and 4.5 to -87.3,
// below that the smallest normal number. NaN stays NaN. A polynomial on [-ln 2 / 2, ln 2 / 2];
// ln 2 as a float puts x off by 2e-9 for each power of 2.
MIXPIPE_INLINE F8 exp8(F8 x) {
  x = max8(broadcast8(-87.33654f), x);
  // At 1.5 * 2^23, floats are whole numbers: this rounds, and leaves n + 127 in the lowest bits.
  const F8 magic = broadcast8(12582912.0f + 127.0f);
  const F8 shifted = fma8(x, broadcast8(1.44269504f), magic), n = subtract8(shifted, magic);
  const F8 r = fma8(n, broadcast8(-0.693147182f), x);
  F8 y = broadcast8(1.38145406e-3f);
  y = fma8(y, r, broadcast8(8.36874545e-3f));
  y = fma8(y, r, broadcast8(4.16683890e-2f));
  y = fma8(y, r, broadcast8(0.166665211f));
  y = fma8(y, r, broadcast8(0.499999940f));
  y = fma8(y, r, broadcast8(1.0f));
  y = fma8(y, r, broadcast8(1.0f));
  return multiply8(y, exp2_bits8(shifted));
}

// log(1 + e) for e in [0, 1], as 2 atanh(e / (2 + e)): no cancellation for small e.
MIXPIPE_INLINE F8 log1p8(F8 e) {
  const F8 z = divide8(e, add8(e, broadcast8(2.0f)));
  const F8 z2 = multiply8(z, z);
  F8 y = broadcast8(1.0f / 15);
  y = fma8(y, z2, broadcast8(1.0f / 13));
  y = fma8(y, z2, broadcast8(1.0f / 11));
  y = fma8(y, z2, broadcast8(1.0f / 9));
  y = fma8(y, z2, broadcast8(1.0f / 7));
  y = fma8(y, z2, broadcast8(1.0f / 5));
  y = fma8(y, z2, broadcast8(1.0f / 3));
  y = fma8(y, z2, broadcast8(1.0f));
  return multiply8(add8(z, z), y);
}

MIXPIPE_INLINE float sum8(F8 value) {
  float lanes[kLanes];
  store8(lanes, value);
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
         ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

MIXPIPE_INLINE float largest8(F8 value) {
  float lanes[kLanes];
  store8(lanes, value);
  float most = lanes[0];
  for (i32 i = 1; i < kLanes; ++i) most = lanes[i] > most ? lanes[i] : most;
  return most;
}

}  // namespace MIXPIPE_ISA
}  // namespace mixpipe
