// CUDA's short vector types and dim3, with CUDA's sizes and alignments (a 16-byte type is 16-byte
// aligned, so that a misaligned access shows in the checked and in the sanitizer build).
#pragma once

#define EMULATOR_VECTORS(element, name)                                         \
  struct name##1 {                                                              \
    element x;                                                                  \
  };                                                                            \
  struct alignas(2 * sizeof(element)) name##2 {                                 \
    element x, y;                                                               \
  };                                                                            \
  struct name##3 {                                                              \
    element x, y, z;                                                            \
  };                                                                            \
  struct alignas(4 * sizeof(element) < 16 ? 4 * sizeof(element) : 16) name##4 { \
    element x, y, z, w;                                                         \
  };                                                                            \
  inline name##1 make_##name##1(element x) {                                    \
    return {x};                                                                 \
  }                                                                             \
  inline name##2 make_##name##2(element x, element y) {                         \
    return {x, y};                                                              \
  }                                                                             \
  inline name##3 make_##name##3(element x, element y, element z) {              \
    return {x, y, z};                                                           \
  }                                                                             \
  inline name##4 make_##name##4(element x, element y, element z, element w) {   \
    return {x, y, z, w};                                                        \
  }

EMULATOR_VECTORS(signed char, char)
EMULATOR_VECTORS(unsigned char, uchar)
EMULATOR_VECTORS(short, short)
EMULATOR_VECTORS(unsigned short, ushort)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(unsigned int, uint)
EMULATOR_VECTORS(long, long)
EMULATOR_VECTORS(unsigned long, ulong)
EMULATOR_VECTORS(long long, longlong)
EMULATOR_VECTORS(unsigned long long, ulonglong)
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)
#undef EMULATOR_VECTORS

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1)
      : x(x_), y(y_), z(z_) {}
};
