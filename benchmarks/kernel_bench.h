// What every case of kernel_bench needs: options, arrays on the device, seeded data, timing,
// output. CUDA runtime and C++17 only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace kernel_bench {

inline void must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "kernel_bench: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

// Memory on the device with a copy of its first contents, so that a run can start afresh.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::vector<T> contents) : contents_(std::move(contents)) {
    must(cudaMalloc((void**)&data_, bytes() + 16), "cudaMalloc");
    reset();
  }
  explicit DeviceArray(size_t count) : DeviceArray(std::vector<T>(count)) {}
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  void reset() {
    if (contents_.empty()) return;
    must(cudaMemcpy(data_, contents_.data(), bytes(), cudaMemcpyHostToDevice), "copy to device");
  }
  std::vector<T> read() const {
    std::vector<T> values(contents_.size());
    if (values.empty()) return values;
    must(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost), "copy to host");
    return values;
  }
  T* data() const { return data_; }
  const std::vector<T>& first() const { return contents_; }
  size_t bytes() const { return contents_.size() * sizeof(T); }

 private:
  std::vector<T> contents_;
  T* data_ = nullptr;
};

// The same numbers on every machine.
class Random {
 public:
  explicit Random(uint32_t seed) : state_(seed * 2654435761u + 1u) {}
  uint32_t bits() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    return state_ ^= state_ << 5;
  }
  uint32_t below(uint32_t bound) { return (uint32_t)((uint64_t)bits() * bound >> 32); }
  float uniform() { return (float)(bits() >> 8) * (1.0f / 16777216.0f); }

 private:
  uint32_t state_;
};

// What a check compared, and what differed from the host's loop.
struct Check {
  size_t compared = 0, different = 0;
  void operator()(bool same) {
    ++compared;
    different += !same;
  }
};

struct Case {
  std::string name;
  double bytes;  // that must move: each input byte that is needed once, each output byte once
  std::vector<std::shared_ptr<void>> memory;  // what the launch uses
  std::function<void()> reset, launch;
  std::function<Check()> check;
};

class Stopwatch {
 public:
  Stopwatch() {
    must(cudaEventCreate(&start_), "cudaEventCreate");
    must(cudaEventCreate(&stop_), "cudaEventCreate");
  }
  ~Stopwatch() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }
  // Microseconds a launch, over `runs` launches in a row.
  double time(const std::function<void()>& launch, int runs) {
    must(cudaEventRecord(start_), "cudaEventRecord");
    for (int run = 0; run < runs; ++run) launch();
    must(cudaEventRecord(stop_), "cudaEventRecord");
    must(cudaEventSynchronize(stop_), "cudaEventSynchronize");
    must(cudaGetLastError(), "launch");
    float milliseconds = 0.0f;
    must(cudaEventElapsedTime(&milliseconds, start_, stop_), "cudaEventElapsedTime");
    return 1e3 * milliseconds / runs;
  }

 private:
  cudaEvent_t start_, stop_;
};

__global__ void copy_vectors(const uint4* from, uint4* to, int count) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) to[i] = from[i];
}

// Reads and writes as many bytes as the case must move, half each way.
inline double time_copy(double bytes, int runs, Stopwatch& stopwatch) {
  const int count = (int)(bytes / 32) + 1;
  const DeviceArray<uint4> from((size_t)count), to((size_t)count);
  const auto launch = [&] {
    copy_vectors<<<(unsigned)((count + 255) / 256), 256>>>(from.data(), to.data(), count);
  };
  const double first = stopwatch.time(launch, 1);
  return runs > 1 ? stopwatch.time(launch, runs) : first;
}

// Runs a case and prints its line. False when its check found a difference.
inline bool run(const Case& item, int runs, bool check) {
  Stopwatch stopwatch;
  item.reset();
  double microseconds = stopwatch.time(item.launch, 1);
  Check found;
  if (check) found = item.check();
  if (runs > 1) microseconds = stopwatch.time(item.launch, runs);
  const double copy = time_copy(item.bytes, runs, stopwatch);
  std::printf("%-44s %9.3f MB must move, %9.2f us, %7.1f GB/s, %5.2f of a copy", item.name.c_str(),
              item.bytes / 1e6, microseconds, item.bytes / microseconds / 1e3, copy / microseconds);
  if (check) std::printf(", %zu compared, %zu differ", found.compared, found.different);
  std::printf("\n");
  std::fflush(stdout);
  return found.different == 0;
}

}  // namespace kernel_bench
