// kernel_bench: the shipped CUDA kernels, timed beside a plain copy of as many bytes, and checked
// against host loops. Needs the CUDA runtime only; builds with nvcc 11.8 and newer:
//
//   nvcc -std=c++17 -O3 -arch=sm_80 benchmarks/kernels.cu -o kernel_bench
//   kernel_bench [--kernel NAME] [--batch B] [--k K] [--dtype f32|f16|bf16] [--layout nchw|nhwc]
//                [--size PIXELS] [--classes C] [--check] [--runs R]
//
// NAME is compose, mix, targets or cross_entropy. Without an option every value is run that the
// kernel has, except bf16, which has to be asked for. One line a case: bytes that must move, time,
// bandwidth, and the copy's time over the kernel's. Exit status 1: a check found a difference.
#include "kernel_bench.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "../csrc/compose.cu"
#include "../csrc/cross_entropy.cu"
#include "../csrc/mix.cu"
#include "../csrc/targets.cu"

namespace kernel_bench {
namespace {

using namespace mixpipe;

struct Options {
  std::string kernel;
  int batch = 32, k = 0, size = 224, classes = 1000, runs = 20;
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

Case compose_case(const Options& o, i32 dtype, i32 layout, int k) {
  const int n = o.size;
  const std::vector<Region> regions = divide_canvas(k, n);
  // Patches one after another, as a decoder leaves them.
  size_t total = 0;
  for (const Region& r : regions) total += 3 * (size_t)height(r) * (size_t)width(r);
  Random random(1);
  std::vector<u8> pixels(total * (size_t)o.batch);
  for (u8& pixel : pixels) pixel = (u8)random.bits();
  auto patches = std::make_shared<DeviceArray<u8>>(std::move(pixels));

  std::vector<ComposePart> parts;
  std::vector<size_t> offsets;
  size_t offset = 0;
  for (int b = 0; b < o.batch; ++b)
    for (int j = 0; j < k; ++j) {
      const Region r = regions[(size_t)j];
      const bool mirrored = (b + j) % 2 == 1;
      ComposePart part{};
      part.region = r;
      part.row_stride = 3 * width(r);
      part.column_stride = mirrored ? -3 : 3;
      offsets.push_back(offset + (mirrored ? 3 * (size_t)(width(r) - 1) : 0));
      part.pixels = patches->data() + offsets.back();
      parts.push_back(part);
      offset += 3 * (size_t)height(r) * (size_t)width(r);
    }
  auto device_parts = std::make_shared<DeviceArray<ComposePart>>(parts);
  const size_t count = 3 * (size_t)n * (size_t)n * (size_t)o.batch;
  auto out = std::make_shared<DeviceArray<u8>>(count * (size_t)element_size(dtype));

  ComposeParams p{};
  p.parts = device_parts->data();
  p.out = out->data();
  p.batch = o.batch;
  p.constituents = k;
  p.height = p.width = n;
  p.mode = kRegions;
  p.dtype = dtype;
  p.layout = layout;
  for (int c = 0; c < 3; ++c) p.scale[c] = 1.0f / (255.0f * 0.225f), p.bias[c] = -0.45f / 0.225f;
  const Geometry geometry = compose_prepare(p);
  const auto kernel = compose_kernel(p);

  Case item;
  item.name = join("compose", kDTypes[dtype], kLayouts[layout], number("k", k),
                   number("b", o.batch), number("size", n));
  item.bytes = (double)(patches->bytes() + out->bytes() + device_parts->bytes());
  item.memory = {patches, device_parts, out};
  item.reset = [out] { out->reset(); };
  item.launch = [=] { start(kernel, geometry, p); };
  item.check = [=] {
    const std::vector<u8>& in = patches->first();
    std::vector<u8> want(out->bytes());
    for (int b = 0; b < o.batch; ++b)
      for (int j = 0; j < k; ++j) {
        const size_t i = (size_t)b * (size_t)k + (size_t)j;
        const Region r = regions[(size_t)j];
        for (i32 y = r.y0; y < r.y1; ++y)
          for (i32 x = r.x0; x < r.x1; ++x)
            for (i32 c = 0; c < 3; ++c) {
              const i64 at = (i64)offsets[i] + (i64)(y - r.y0) * parts[i].row_stride +
                             (i64)(x - r.x0) * parts[i].column_stride + c;
              set_element(want, dtype,
                          (size_t)b * 3 * (size_t)n * (size_t)n + place(layout, n, c, y, x),
                          std::fmaf((float)in[(size_t)at], p.scale[c], p.bias[c]));
            }
      }
    return compare(out->read(), want, dtype);
  };
  return item;
}

// k > 1: [kB, ...] -> first B, one box a constituent. k = 1: N -> N, images swap a box in pairs.
Case mix_case(const Options& o, i32 dtype, i32 layout, int k) {
  const int n = o.size, images = k == 1 ? std::max(2, o.batch / 2 * 2) : o.batch * k;
  const size_t image = 3 * (size_t)n * (size_t)n;
  auto data = std::make_shared<DeviceArray<u8>>(
      random_elements(image * (size_t)images, dtype, -2.0f, 2.0f, 2));
  std::vector<MixChain> chains;
  std::vector<MixLink> links;
  const std::vector<Region> regions = divide_canvas(k == 1 ? 2 : k, n);
  double moved = 0;
  const auto link = [&](i32 target, i32 source, Region box) {
    MixLink one{};
    one.target = target;
    one.source = source;
    one.box = box;
    links.push_back(one);
    moved += 2.0 * 3.0 * height(box) * width(box) * element_size(dtype);
  };
  const int count = k == 1 ? images / 2 : o.batch;
  for (int c = 0; c < count; ++c) {
    MixChain chain{};
    chain.first = (i32)links.size();
    chain.cyclic = k == 1;
    chain.bounds = k == 1 ? regions[1] : Region{n, n, 0, 0};
    if (k == 1) {
      link(2 * c, 2 * c + 1, regions[1]);
      link(2 * c + 1, 2 * c, regions[1]);
    } else {
      for (int j = 1; j < k; ++j) {
        const Region box = regions[(size_t)j];
        link(c, j * o.batch + c, box);
        chain.bounds = {std::min(chain.bounds.y0, box.y0), std::min(chain.bounds.x0, box.x0),
                        std::max(chain.bounds.y1, box.y1), std::max(chain.bounds.x1, box.x1)};
      }
    }
    chain.count = (i32)links.size() - chain.first;
    chains.push_back(chain);
  }
  auto device_chains = std::make_shared<DeviceArray<MixChain>>(chains);
  auto device_links = std::make_shared<DeviceArray<MixLink>>(links);

  MixParams p{};
  p.images = data->data();
  p.chains = device_chains->data();
  p.links = device_links->data();
  p.num_chains = (i32)chains.size();
  p.channels = 3;
  p.height = p.width = n;
  p.mode = kCut;
  p.dtype = dtype;
  p.layout = layout;
  const Geometry geometry = mix_prepare(p);
  const auto kernel = mix_kernel(p);

  Case item;
  item.name = join(k == 1 ? "mix_ swap" : "mix_ cut", kDTypes[dtype], kLayouts[layout],
                   number("k", k == 1 ? 2 : k), number("b", count), number("size", n));
  item.bytes = moved;
  item.memory = {data, device_chains, device_links};
  item.reset = [data] { data->reset(); };
  item.launch = [=] { start(kernel, geometry, p); };
  item.check = [=] {
    const std::vector<u8>& in = data->first();
    std::vector<u8> want = in;
    const size_t size = (size_t)element_size(dtype);
    for (const MixLink& one : links)
      for (i32 y = one.box.y0; y < one.box.y1; ++y)
        for (i32 x = one.box.x0; x < one.box.x1; ++x)
          for (i32 c = 0; c < 3; ++c) {
            const size_t at = place(layout, n, c, y, x);
            std::memcpy(&want[((size_t)one.target * image + at) * size],
                        &in[((size_t)one.source * image + at) * size], size);
          }
    return compare(data->read(), want, dtype);
  };
  return item;
}

// Classes, weights and ids of a batch of pairs; weights sum to 1.
struct Pairs {
  std::vector<i64> classes, ids;
  std::vector<float> weights;

  Pairs(int batch, int k, int num_classes) {
    Random random(3);
    for (int i = 0; i < batch * k; ++i) {
      classes.push_back((i64)random.below((uint32_t)num_classes));
      ids.push_back(i);
      weights.push_back(1.0f / (float)k);
    }
  }
};

Case targets_case(const Options& o, i32 dtype, int k) {
  const int num_classes = o.classes;
  const Pairs pairs(o.batch, k, num_classes);
  auto classes = std::make_shared<DeviceArray<i64>>(pairs.classes);
  auto weights = std::make_shared<DeviceArray<float>>(pairs.weights);
  const size_t count = (size_t)o.batch * (size_t)num_classes;
  auto out = std::make_shared<DeviceArray<u8>>(count * (size_t)element_size(dtype));

  TargetsParams p{};
  p.classes = classes->data();
  p.weights = weights->data();
  p.out = out->data();
  p.batch = o.batch;
  p.constituents = k;
  p.num_classes = num_classes;
  p.dtype = dtype;
  p.smoothing = 0.1f;
  const Geometry geometry = targets_prepare(p);
  const auto kernel = targets_kernel(p);

  Case item;
  item.name = join("dense_targets", kDTypes[dtype], number("k", k), number("b", o.batch),
                   number("classes", num_classes));
  item.bytes = (double)(out->bytes() + classes->bytes() + weights->bytes());
  item.memory = {classes, weights, out};
  item.reset = [out] { out->reset(); };
  item.launch = [=] { start(kernel, geometry, p); };
  item.check = [=] {
    const std::vector<u8> got = out->read();
    Check check;
    for (int b = 0; b < o.batch; ++b)
      for (int c = 0; c < num_classes; ++c) {
        double want = 0;
        for (int j = 0; j < k; ++j) {
          const size_t i = (size_t)b * (size_t)k + (size_t)j;
          want += pairs.weights[i] * (0.1 / num_classes + 0.9 * (pairs.classes[i] == c));
        }
        const double value = element(got, dtype, (size_t)b * (size_t)num_classes + (size_t)c);
        check(std::fabs(value - want) <= (dtype == kFloat32 ? 1e-6 : 5e-3) * want);
      }
    return check;
  };
  return item;
}

Case cross_entropy_case(const Options& o, i32 dtype, int k) {
  const int num_classes = o.classes, rows = o.batch * k;
  const Pairs pairs(o.batch, k, num_classes);
  const size_t count = (size_t)rows * (size_t)num_classes;
  auto logits = std::make_shared<DeviceArray<u8>>(random_elements(count, dtype, -4.0f, 4.0f, 4));
  auto classes = std::make_shared<DeviceArray<i64>>(pairs.classes);
  auto ids = std::make_shared<DeviceArray<i64>>(pairs.ids);
  auto weights = std::make_shared<DeviceArray<float>>(pairs.weights);
  auto gradient = std::make_shared<DeviceArray<u8>>(logits->bytes());
  // per_constituent, table_losses, smoothed and the loss in one array
  auto losses = std::make_shared<DeviceArray<float>>((size_t)(3 * rows + 1));
  auto epochs = std::make_shared<DeviceArray<i32>>((size_t)(rows + 1));  // and the block counter

  CrossEntropyParams p{};
  p.logits = logits->data();
  p.classes = classes->data();
  p.weights = weights->data();
  p.ids = ids->data();
  p.gradient = gradient->data();
  p.per_constituent = losses->data();
  p.table_losses = losses->data() + rows;
  p.smoothed = losses->data() + 2 * rows;
  p.loss = losses->data() + 3 * rows;
  p.table_epochs = epochs->data();
  p.finished_blocks = epochs->data() + rows;
  p.table_size = rows;
  p.ignore_index = -100;
  p.batch = o.batch;
  p.constituents = p.rows_per_composite = k;
  p.num_classes = num_classes;
  p.epoch = 1;
  p.dtype = dtype;
  p.smoothing = 0.1f;
  p.gradient_scale = 1.0f;
  const Geometry geometry = cross_entropy_prepare(p);
  const auto kernel = cross_entropy_kernel(p);

  Case item;
  item.name = join("composite_cross_entropy", kDTypes[dtype], number("k", k), number("b", o.batch),
                   number("classes", num_classes));
  item.bytes = (double)(logits->bytes() + gradient->bytes() + classes->bytes() + ids->bytes() +
                        weights->bytes()) +
               12.0 * rows;
  item.memory = {logits, classes, ids, weights, gradient, losses, epochs};
  item.reset = [losses, epochs] { losses->reset(), epochs->reset(); };
  item.launch = [=] { start(kernel, geometry, p); };
  item.check = [=] {
    const std::vector<u8>& in = logits->first();
    const std::vector<u8> got = gradient->read();
    const std::vector<float> found = losses->read();
    const double tolerance = dtype == kFloat32 ? 1e-5 : dtype == kFloat16 ? 2e-3 : 1e-2;
    Check check;
    double loss = 0;
    for (int i = 0; i < rows; ++i) {
      const size_t row = (size_t)i * (size_t)num_classes;
      double highest = -INFINITY, sum = 0, mean = 0;
      for (int c = 0; c < num_classes; ++c)
        highest = std::max(highest, (double)element(in, dtype, row + (size_t)c));
      for (int c = 0; c < num_classes; ++c) {
        const double x = element(in, dtype, row + (size_t)c) - highest;
        sum += std::exp(x);
        mean -= x / num_classes;
      }
      mean += std::log(sum);
      const size_t own = (size_t)pairs.classes[(size_t)i];
      const double plain = std::log(sum) + highest - element(in, dtype, row + own);
      const double weight = pairs.weights[(size_t)i];
      loss += weight * (0.9 * plain + 0.1 * mean) / o.batch;
      check(std::fabs(found[(size_t)i] - plain) <= 1e-5 * plain + 1e-6);
      check(found[(size_t)(rows + i)] == found[(size_t)i]);
      for (int c = 0; c < num_classes; ++c) {
        const double x = element(in, dtype, row + (size_t)c) - highest;
        const double want =
            weight * (std::exp(x) / sum - 0.9 * ((size_t)c == own) - 0.1 / num_classes);
        const double value = element(got, dtype, row + (size_t)c);
        check(std::fabs(value - want) <= tolerance * std::fabs(want) + 1e-7);
      }
    }
    check(std::fabs(found[(size_t)(3 * rows)] - loss) <= 1e-5 * loss);
    return check;
  };
  return item;
}

bool run_all(const Options& o) {
  bool right = true;
  const auto wanted = [&](const char* kernel) { return o.kernel.empty() || o.kernel == kernel; };
  for (i32 dtype : {kFloat32, kFloat16, kBFloat16}) {
    if (o.dtype < 0 ? dtype == kBFloat16 : dtype != o.dtype) continue;
    for (int k : {1, 2, 3, 4}) {
      if (o.k ? k != o.k : k == 3) continue;
      for (i32 layout : {kNCHW, kNHWC}) {
        if (o.layout >= 0 && layout != o.layout) continue;
        if (wanted("compose")) right &= run(compose_case(o, dtype, layout, k), o.runs, o.check);
        if (wanted("mix")) right &= run(mix_case(o, dtype, layout, k), o.runs, o.check);
      }
      if (wanted("targets")) right &= run(targets_case(o, dtype, k), o.runs, o.check);
      if (wanted("cross_entropy")) right &= run(cross_entropy_case(o, dtype, k), o.runs, o.check);
    }
  }
  return right;
}

[[noreturn]] void usage(const char* complaint) {
  std::fprintf(stderr,
               "kernel_bench: %s\n"
               "usage: kernel_bench [--kernel compose|mix|targets|cross_entropy] [--batch B] "
               "[--k 1..4]\n"
               "       [--dtype f32|f16|bf16] [--layout nchw|nhwc] [--size PIXELS] [--classes C]\n"
               "       [--check] [--runs R]\n",
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
  static const char* const kernels[] = {"compose", "mix", "targets", "cross_entropy"};
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
