// What the cases of kernel_bench are made of: options, elements of any dtype, canvases, and the
// shipped kernels by their parameters.
#pragma once

#include <cmath>
#include <memory>

#include "../csrc/compose.cu"
#include "../csrc/cross_entropy.cu"
#include "../csrc/mix.cu"
#include "../csrc/resample.cu"
#include "../csrc/select.cu"
#include "../csrc/targets.cu"
#include "kernel_bench.h"

namespace kernel_bench {
namespace {

using namespace mixpipe;

struct Options {
  std::string kernel;
  int batch = 32, k = 0, size = 224, classes = 1000, samples = 1281167, runs = 20;
  int dtype = -1, layout = -1;  // -1: all but bf16
  bool check = false;
};

const char* const kDTypes[] = {"f32", "f16", "bf16"};
const char* const kLayouts[] = {"nchw", "nhwc"};

template <class... Parts>
std::string join(const Parts&... parts) {
  std::string text;
  ((text += text.empty() ? "" : " ", text += parts), ...);
  return text;
}
std::string number(const char* name, int value) {
  return std::string(name) + "=" + std::to_string(value);
}

// Elements of any dtype on the host.
float element(const std::vector<u8>& bytes, i32 dtype, size_t i) {
  if (dtype == kFloat32) return load_element((const float*)bytes.data() + i);
  if (dtype == kFloat16) return load_element((const Half*)bytes.data() + i);
  return load_element((const BFloat16*)bytes.data() + i);
}
void set_element(std::vector<u8>& bytes, i32 dtype, size_t i, float value) {
  if (dtype == kFloat32) return store_element((float*)bytes.data() + i, value);
  if (dtype == kFloat16) return store_element((Half*)bytes.data() + i, value);
  store_element((BFloat16*)bytes.data() + i, value);
}
bool same_element(const std::vector<u8>& a, const std::vector<u8>& b, i32 dtype, size_t i) {
  const size_t size = (size_t)element_size(dtype);
  return std::memcmp(a.data() + i * size, b.data() + i * size, size) == 0;
}
Check compare(const std::vector<u8>& got, const std::vector<u8>& want, i32 dtype) {
  Check check;
  for (size_t i = 0; i < want.size() / (size_t)element_size(dtype); ++i)
    check(same_element(got, want, dtype, i));
  return check;
}
std::vector<u8> random_elements(size_t count, i32 dtype, float low, float high, uint32_t seed) {
  Random random(seed);
  std::vector<u8> bytes(count * (size_t)element_size(dtype));
  for (size_t i = 0; i < count; ++i)
    set_element(bytes, dtype, i, low + (high - low) * random.uniform());
  return bytes;
}

// The canvas divided into k: one cut for two, strips for three, a grid for four. No cut lies at a
// multiple of a vector's width.
std::vector<Region> divide_canvas(int k, int size) {
  const i32 n = size, cut = n * 2 / 5 + 1;
  if (k == 1) return {{0, 0, n, n}};
  if (k == 2) return {{0, 0, n, cut}, {0, cut, n, n}};
  if (k == 3) return {{0, 0, n, n / 3}, {0, n / 3, n, 2 * n / 3}, {0, 2 * n / 3, n, n}};
  return {{0, 0, cut, cut}, {0, cut, cut, n}, {cut, 0, n, cut}, {cut, cut, n, n}};
}
i32 height(const Region& r) {
  return r.y1 - r.y0;
}
i32 width(const Region& r) {
  return r.x1 - r.x0;
}

// Offset of an element of an image with 3 channels.
size_t place(i32 layout, int size, i32 c, i32 y, i32 x) {
  const size_t pixel = (size_t)y * (size_t)size + (size_t)x;
  return layout == kNHWC ? 3 * pixel + (size_t)c : (size_t)c * (size_t)size * (size_t)size + pixel;
}

// The shipped kernel for some parameters, by dtype, layout and width of access, as mixpipe._C names
// them.
template <class Params>
using Kernel = void (*)(Params);

#define BY_WIDTH(name) {name##_narrow, name##_wide}
#define BY_LAYOUT(name) {BY_WIDTH(name##_nchw), BY_WIDTH(name##_nhwc)}

Kernel<ComposeParams> compose_kernel(const ComposeParams& p) {
  static const Kernel<ComposeParams> kernels[3][2][2] = {
      BY_LAYOUT(compose_f32), BY_LAYOUT(compose_f16), BY_LAYOUT(compose_bf16)};
  return kernels[p.dtype][p.layout][p.wide];
}
Kernel<ResampleParams> resample_kernel(const ResampleParams& p) {
  static const Kernel<ResampleParams> kernels[3][2][2] = {BY_LAYOUT(compose_resampled_f32),
                                                          BY_LAYOUT(compose_resampled_f16),
                                                          BY_LAYOUT(compose_resampled_bf16)};
  return kernels[p.dtype][p.layout][p.wide];
}
Kernel<MixParams> mix_kernel(const MixParams& p) {
  static const Kernel<MixParams> kernels[3][2] = {BY_WIDTH(mix_f32), BY_WIDTH(mix_f16),
                                                  BY_WIDTH(mix_bf16)};
  return kernels[p.dtype][p.wide];
}
Kernel<TargetsParams> targets_kernel(const TargetsParams& p) {
  static const Kernel<TargetsParams> kernels[3][2] = {
      BY_WIDTH(dense_targets_f32), BY_WIDTH(dense_targets_f16), BY_WIDTH(dense_targets_bf16)};
  return kernels[p.dtype][p.wide];
}
Kernel<CrossEntropyParams> cross_entropy_kernel(const CrossEntropyParams& p) {
#define BY_ITEMS(name)            \
  {                               \
    name##_4, name##_8, name##_22 \
  }
  static const Kernel<CrossEntropyParams> sigmoid[3] = {
      sigmoid_cross_entropy_f32, sigmoid_cross_entropy_f16, sigmoid_cross_entropy_bf16};
  if (p.labels) return sigmoid[p.dtype];
  static const Kernel<CrossEntropyParams> kernels[3][3] = {BY_ITEMS(softmax_cross_entropy_f32),
                                                           BY_ITEMS(softmax_cross_entropy_f16),
                                                           BY_ITEMS(softmax_cross_entropy_bf16)};
#undef BY_ITEMS
  const i32 items = logits_per_thread(p.num_classes);
  return kernels[p.dtype][items == 4 ? 0 : items == 8 ? 1 : 2];
}
#undef BY_LAYOUT
#undef BY_WIDTH

template <class Params>
void start(void (*kernel)(Params), const Geometry& geometry, const Params& params) {
  kernel<<<geometry.grid, geometry.block, geometry.shared_bytes>>>(params);
}

}  // namespace
}  // namespace kernel_bench
