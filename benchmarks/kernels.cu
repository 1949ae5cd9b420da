// kernel_bench: the shipped CUDA kernels, timed beside a plain copy of as many bytes, and checked
// against host loops. Needs the CUDA runtime only; builds with nvcc 11.8 and newer:
//
//   nvcc -std=c++17 -O3 -arch=sm_80 benchmarks/kernels.cu -o kernel_bench
//   kernel_bench [--kernel NAME] [--batch B] [--k K] [--dtype f32|f16|bf16] [--layout nchw|nhwc]
//                [--size PIXELS] [--classes C] [--samples N] [--check] [--runs R]
//
// NAME is compose, blend, index_map, resample, mix, targets, cross_entropy, multi_label or select
// (from a table of N losses, for K tiers). Without an option every value is run that the kernel
// has, except bf16, which has to be asked for. One line a case: bytes that must
// move, time, bandwidth, and the copy's time over the kernel's. Exit status 1: a check found a
// difference.
#include "bench_images.h"
#include "bench_labels.h"
#include "bench_select.h"
#include "kernel_bench.h"

namespace kernel_bench {
namespace {

const char* const kComposeNames[] = {"compose", "blend", "index_map"};  // by mode

bool run_all(const Options& o) {
  bool right = true;
  const auto wanted = [&](const char* kernel) { return o.kernel.empty() || o.kernel == kernel; };
  for (i32 dtype : {kFloat32, kFloat16, kBFloat16}) {
    if (o.dtype < 0 ? dtype == kBFloat16 : dtype != o.dtype) continue;
    for (int k : {1, 2, 3, 4}) {
      if (o.k ? k != o.k : k == 3) continue;
      for (i32 layout : {kNCHW, kNHWC}) {
        if (o.layout >= 0 && layout != o.layout) continue;
        for (i32 mode : {kRegions, kBlend, kIndexMap})
          if (wanted(kComposeNames[mode]) && (mode == kRegions || k > 1))
            right &= run(compose_case(o, mode, dtype, layout, k), o.runs, o.check);
        if (wanted("resample")) right &= run(resample_case(o, dtype, layout, k), o.runs, o.check);
        if (wanted("mix")) right &= run(mix_case(o, dtype, layout, k), o.runs, o.check);
      }
      if (wanted("targets")) right &= run(targets_case(o, dtype, k), o.runs, o.check);
      for (bool multi_label : {false, true})
        if (wanted(multi_label ? "multi_label" : "cross_entropy"))
          right &= run(cross_entropy_case(o, multi_label, dtype, k), o.runs, o.check);
    }
  }
  for (int tiers : {1, 2, 3, 4}) {
    if (!wanted("select") || (o.k ? tiers != o.k : tiers != 2)) continue;
    for (i32 rule : {kMean, kShare, kBudget})
      right &= run(select_case(o, rule, tiers), o.runs, o.check);
  }
  return right;
}

[[noreturn]] void usage(const char* complaint) {
  std::fprintf(stderr,
               "kernel_bench: %s\n"
               "usage: kernel_bench [--kernel compose|blend|index_map|resample|mix|targets|"
               "cross_entropy|multi_label|select]\n"
               "       [--batch B] [--k 1..4] [--dtype f32|f16|bf16] [--layout nchw|nhwc] [--size "
               "PIXELS] [--classes C]\n"
               "       [--samples N] [--check] [--runs R]\n",
               complaint);
  std::exit(2);
}

template <size_t N>
int choice(const char* const (&names)[N], const std::string& value) {
  for (size_t i = 0; i < N; ++i)
    if (value == names[i]) return (int)i;
  usage(("unknown value " + value).c_str());
}

int positive(const std::string& value, int most) {
  const int parsed = std::atoi(value.c_str());
  if (parsed < 1 || parsed > most)
    usage((value + " is not a number from 1 to " + std::to_string(most)).c_str());
  return parsed;
}

Options parse(int count, char** words) {
  static const char* const kernels[] = {"compose",       "blend",       "index_map",
                                        "resample",      "mix",         "targets",
                                        "cross_entropy", "multi_label", "select"};
  Options o;
  for (int i = 1; i < count; ++i) {
    const std::string name = words[i];
    if (name == "--check") {
      o.check = true;
      continue;
    }
    if (i + 1 == count) usage((name + " needs a value").c_str());
    const std::string value = words[++i];
    if (name == "--kernel") {
      o.kernel = kernels[choice(kernels, value)];
    } else if (name == "--batch") {
      o.batch = positive(value, 4096);
    } else if (name == "--k") {
      o.k = positive(value, kMaxConstituents);
    } else if (name == "--dtype") {
      o.dtype = choice(kDTypes, value);
    } else if (name == "--layout") {
      o.layout = choice(kLayouts, value);
    } else if (name == "--size") {
      o.size = positive(value, 4096);
    } else if (name == "--classes") {
      o.classes = positive(value, kMaxCudaClasses);
    } else if (name == "--samples") {
      o.samples = positive(value, 1 << 30);
    } else if (name == "--runs") {
      o.runs = positive(value, 1000000);
    } else {
      usage(("unknown option " + name).c_str());
    }
  }
  return o;
}

}  // namespace
}  // namespace kernel_bench

int main(int count, char** words) {
  const kernel_bench::Options options = kernel_bench::parse(count, words);
  cudaDeviceProp device{};
  kernel_bench::must(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  std::printf("%s, compute capability %d.%d, %d multiprocessors, %d runs\n", device.name,
              device.major, device.minor, device.multiProcessorCount, options.runs);
  return kernel_bench::run_all(options) ? 0 : 1;
}
