// Atomics. A block's threads are fibers of one OS thread, which change only at meeting points, so
// a plain read, change and write is indivisible. The access itself is kept from the instrumented
// builds' records: atomic_access() has told them that it is an atomic one.
#pragma once

#include "emulator/runtime.h"

namespace emulator {

template <class T, class Change>
EMULATOR_UNWATCHED T read_change_write(T* address, Change change) {
  atomic_access(address, sizeof(T));
  const T old = *address;
  *address = change(old);
  return old;
}

}  // namespace emulator

// The value is converted to the memory's type, as CUDA's overloads do.
#define EMULATOR_ATOMIC(name, result)                                                    \
  template <class T, class V>                                                            \
  T name(T* address, V operand) {                                                        \
    const T value = static_cast<T>(operand);                                             \
    return emulator::read_change_write(address, [value](T old) -> T { return result; }); \
  }
// clang-format off
EMULATOR_ATOMIC(atomicAdd, old + value)
EMULATOR_ATOMIC(atomicSub, old - value)
EMULATOR_ATOMIC(atomicMin, old < value ? old : value)
EMULATOR_ATOMIC(atomicMax, old > value ? old : value)
EMULATOR_ATOMIC(atomicAnd, old & value)
EMULATOR_ATOMIC(atomicOr, old | value)
EMULATOR_ATOMIC(atomicXor, old ^ value)
EMULATOR_ATOMIC(atomicInc, old >= value ? T(0) : T(old + 1))
EMULATOR_ATOMIC(atomicDec, old == 0 || old > value ? value : T(old - 1))
EMULATOR_ATOMIC(atomicExch, ((void)old, value))
// clang-format on
#undef EMULATOR_ATOMIC

template <class T>
T atomicCAS(T* address, T expected, T value) {
  return emulator::read_change_write(
      address, [expected, value](T old) -> T { return old == expected ? value : old; });
}
