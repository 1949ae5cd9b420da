// What a kernel's source needs of the emulator: who am I, meet the others, report an error.
// The definitions are in ../../source; they are compiled without any instrumentation.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "emulator/vector_types.h"

// The emulator's own accesses are no business of the checked build.
#define EMULATOR_UNWATCHED __attribute__((no_sanitize("thread")))

namespace emulator {

// Where the running thread stands in its grid.
struct Coordinates {
  uint3 thread;
  uint3 block;
  dim3 block_size;
  dim3 grid_size;
  unsigned lane;        // 0..31 in its warp
  unsigned warp_lanes;  // bit mask of the lanes that exist (the last warp may be partial)
};
extern Coordinates current;  // of the thread that runs; changed by the scheduler only

struct Votes {
  int count;  // threads whose predicate is true
  int all;
};

// Waits for every thread of the block and counts the predicates.
Votes meet_block(int predicate);

// Waits for every lane of `mask`; `values` becomes what each of them brought.
// All lanes must name the same mask and the same operation.
void meet_warp(unsigned mask, const char* operation, uint64_t value, uint64_t values[32]);

// Memory of the block: one piece a declaration (told apart by its key), filled with 0xCD.
void* shared_variable(const void* key, size_t bytes, size_t alignment);
void* dynamic_shared();

// __threadfence: this thread's earlier writes are visible to whoever sees its next atomic.
void device_fence();
// Told before every atomic; the access itself follows, unseen by the checks.
void atomic_access(const void* address, size_t bytes);

// Ends the launch with this message. Does not return.
[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* format, ...);

// A launch: `call(arguments)` is run once a thread. Returns the error, or nullptr.
struct Geometry {
  dim3 grid, block;
  size_t dynamic_shared_bytes;
};
using Call = void (*)(void** arguments);
const char* run(const Geometry& geometry, Call call, void** arguments);

// A __shared__ declaration is rewritten to this; `Site` is a lambda's type, so that every
// declaration in every template instance is a variable of its own, as in CUDA.
template <class T, class Site>
T& shared(Site, size_t alignment = alignof(T)) {
  static const char key = 0;
  return *static_cast<T*>(shared_variable(&key, sizeof(T), alignment));
}

}  // namespace emulator

#define threadIdx (::emulator::current.thread)
#define blockIdx (::emulator::current.block)
#define blockDim (::emulator::current.block_size)
#define gridDim (::emulator::current.grid_size)
static constexpr int warpSize = 32;

inline void __syncthreads() {
  emulator::meet_block(0);
}
inline int __syncthreads_count(int predicate) {
  return emulator::meet_block(predicate).count;
}
inline int __syncthreads_or(int predicate) {
  return emulator::meet_block(predicate).count != 0;
}
inline int __syncthreads_and(int predicate) {
  return emulator::meet_block(predicate).all;
}
inline void __threadfence() {
  emulator::device_fence();
}
inline void __threadfence_system() {
  emulator::device_fence();
}
inline void __threadfence_block() {}
