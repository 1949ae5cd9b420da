// Reinterpretation of bits without undefined behaviour.
#pragma once

#include <stdint.h>
#include <string.h>

namespace emulator {

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits_as keeps the size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// To and from the 64-bit box in which lanes hand values to each other.
template <class T>
inline uint64_t pack(T value) {
  static_assert(sizeof(T) <= 8, "warp operations exchange at most 8 bytes");
  uint64_t box = 0;
  memcpy(&box, &value, sizeof value);
  return box;
}

template <class T>
inline T unpack(uint64_t box) {
  T value;
  memcpy(&value, &box, sizeof value);
  return value;
}

}  // namespace emulator
