// CUDA's runtime API for stand-alone programs.
#include "emulator/host_api.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "watch.h"

namespace {
cudaError_t pending = cudaSuccess;
}

struct EmulatorEvent {
  std::chrono::steady_clock::time_point time;
};

namespace emulator {
void note_launch_error(const char* error) {
  if (!error) return;
  std::fprintf(stderr, "emulator: %s\n", error);
  pending = cudaErrorLaunchFailure;
}
}  // namespace emulator

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (posix_memalign(pointer, 256, bytes ? bytes : 1)) return cudaErrorMemoryAllocation;
  std::memset(*pointer, 0xCD, bytes);
  static int number = 0;
  char name[32];
  std::snprintf(name, sizeof name, "cudaMalloc #%d", number++);
  emulator::watch_global(*pointer, bytes, name);
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  emulator::unwatch(pointer);
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* pointer, int value, size_t bytes) {
  std::memset(pointer, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = pending;
  pending = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() {
  return pending;
}
cudaError_t cudaDeviceSynchronize() {
  return pending;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    default:
      return "cudaErrorInvalidValue";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  return cudaGetErrorName(error);
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device ? cudaErrorInvalidValue : cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof *properties);
  std::snprintf(properties->name, sizeof properties->name, "emulated on the CPU");
  properties->major = 8;
  properties->multiProcessorCount = 4;
  properties->warpSize = 32;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 4;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  return cudaRuntimeGetVersion(version);
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new EmulatorEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
  *milliseconds = std::chrono::duration<float, std::milli>(stop->time - start->time).count();
  return cudaSuccess;
}

// A stand-alone program takes its schedule from the environment, as it has no other caller.
namespace {
const bool seeded = [] {
  if (const char* seed = std::getenv("EMULATOR_SEED"))
    emulator::set_seed(static_cast<unsigned>(std::atoi(seed)));
  return true;
}();
}  // namespace
