// Warp operations: shuffles, votes, matches, reductions. Every one is a meeting of the lanes in
// its mask, so a lane that is missing or names another mask is found.
#pragma once

#include "emulator/bits.h"
#include "emulator/runtime.h"

namespace emulator {

// The value that `source` brought; a lane outside the mask (or the warp) has none to give.
template <class T>
T shuffle(unsigned mask, const char* operation, T value, int source, bool in_range) {
  uint64_t values[32];
  meet_warp(mask, operation, pack(value), values);
  if (!in_range) return value;
  if (!((mask & current.warp_lanes) >> source & 1))
    fail("%s: lane %u reads lane %d, which is not in the mask 0x%08x", operation, current.lane,
         source, mask);
  return unpack<T>(values[source]);
}

template <class T, class Combine>
T reduce(unsigned mask, const char* operation, T value, Combine combine) {
  uint64_t values[32];
  meet_warp(mask, operation, pack(value), values);
  bool first = true;
  T total{};
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!((mask & current.warp_lanes) >> lane & 1)) continue;
    const T other = unpack<T>(values[lane]);
    total = first ? other : combine(total, other);
    first = false;
  }
  return total;
}

}  // namespace emulator

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  uint64_t values[32];
  emulator::meet_warp(mask, "__syncwarp", 0, values);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = static_cast<int>(emulator::current.lane);
  const int segment = lane & ~(width - 1);
  return emulator::shuffle(mask, "__shfl_sync", value, segment | (source & (width - 1)), true);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = static_cast<int>(emulator::current.lane), step = static_cast<int>(delta);
  return emulator::shuffle(mask, "__shfl_up_sync", value, lane - step,
                           (lane & (width - 1)) - step >= 0);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = static_cast<int>(emulator::current.lane), step = static_cast<int>(delta);
  return emulator::shuffle(mask, "__shfl_down_sync", value, lane + step,
                           (lane & (width - 1)) + step < width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = static_cast<int>(emulator::current.lane), source = lane ^ bits;
  return emulator::shuffle(mask, "__shfl_xor_sync", value, source,
                           (source & ~(width - 1)) == (lane & ~(width - 1)));
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  uint64_t values[32];
  emulator::meet_warp(mask, "__ballot_sync", predicate != 0, values);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if (mask & emulator::current.warp_lanes & (1u << lane))
      votes |= static_cast<unsigned>(values[lane]) << lane;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, !predicate) == 0;
}
// The lanes of this warp. On hardware it is whichever lanes happen to run together; no kernel may
// depend on it, and one that takes it for a mask in a divergent branch deadlocks here.
inline unsigned __activemask() {
  return emulator::current.warp_lanes;
}

template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  uint64_t values[32];
  const uint64_t mine = emulator::pack(value);
  emulator::meet_warp(mask, "__match_any_sync", mine, values);
  unsigned same = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if ((mask & emulator::current.warp_lanes) >> lane & 1 && values[lane] == mine)
      same |= 1u << lane;
  return same;
}

template <class T>
T __reduce_add_sync(unsigned mask, T value) {
  return emulator::reduce(mask, "__reduce_add_sync", value, [](T a, T b) { return T(a + b); });
}
template <class T>
T __reduce_max_sync(unsigned mask, T value) {
  return emulator::reduce(mask, "__reduce_max_sync", value, [](T a, T b) { return a > b ? a : b; });
}
template <class T>
T __reduce_min_sync(unsigned mask, T value) {
  return emulator::reduce(mask, "__reduce_min_sync", value, [](T a, T b) { return a < b ? a : b; });
}
