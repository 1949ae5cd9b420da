// mixpipe._C: parameters, launch geometry and CPU kernels for mixpipe.kernels, which checks shapes,
// dtypes and devices of tensors first. Addresses travel as integers; no torch header is needed.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string.h>

#include <algorithm>
#include <array>
#include <functional>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "cpu.h"
#include "device_sources.h"
#include "excerpts.h"
#include "select.h"
#include "stage.h"

namespace py = pybind11;
using namespace mixpipe;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;  // no conversion: mixpipe.kernels checks dtypes

template <class T>
T* pointer(u64 address) {
  return reinterpret_cast<T*>(address);
}

const char* dtype_name(i32 dtype) {
  static const char* const names[] = {"f32", "f16", "bf16"};
  return names[dtype];
}
const char* layout_name(i32 layout) {
  return layout == kNHWC ? "nhwc" : "nchw";
}

// One kernel call: the struct that the kernel takes by value, and the geometry it is launched with.
struct Launch {
  std::string source, kernel;
  Geometry geometry;
  std::string params;
  std::string description;
  std::function<void(int)> run_cpu;
};

template <class Params>
Launch make_launch(const char* source, const std::string& kernel, const Params& params,
                   const Geometry& geometry, const std::string& description,
                   void (*cpu)(const Params&, int)) {
  return {source,
          kernel,
          geometry,
          std::string(reinterpret_cast<const char*>(&params), sizeof params),
          description,
          [params, cpu, kernel](int threads) {
            if (cpu == nullptr) throw std::logic_error(kernel + " has no CPU kernel");
            cpu(params, threads);
          }};
}

// "batch 4, width 224": the sizes of a launch for an error message.
std::string describe(std::initializer_list<std::pair<const char*, i64>> sizes) {
  std::string text;
  for (const auto& [name, value] : sizes)
    text += (text.empty() ? "" : ", ") + std::string(name) + " " + std::to_string(value);
  return text;
}

std::string text(const Region& r) {
  return "(" + std::to_string(r.y0) + ", " + std::to_string(r.x0) + ", " + std::to_string(r.y1) +
         ", " + std::to_string(r.x1) + ")";
}
std::string at(const char* name, i64 b, i64 k) {
  return std::string(name) + "[" + std::to_string(b) + ", " + std::to_string(k) + "]";
}
std::string size_text(i64 height, i64 width) {
  return std::to_string(height) + " x " + std::to_string(width);
}

void check_region(const Region& r, i32 height, i32 width, const std::string& name) {
  if (r.y0 < 0 || r.x0 < 0 || r.y1 > height || r.x1 > width || r.y0 > r.y1 || r.x0 > r.x1)
    throw py::value_error(
        name + " is " + text(r) + ", expected (y0, x0, y1, x1) with 0 <= y0 <= y1 <= " +
        std::to_string(height) + " and 0 <= x0 <= x1 <= " + std::to_string(width));
}

// Where a constituent shows, and what of its patch: a rectangle of the region's size from (y, x).
struct Placed {
  i64 index;  // of the patch
  Region region;
  i32 y, x;
  bool flip;
  float weight;  // of a blend
};

// The constituents of a batch as the kernel reads them, [B, K] structs of bytes: make(placed) for
// each that shows. `sizes` is height and width of the patches, by their index.
template <class Part, class Sizes, class Make>
Array<u8> make_parts(i64 count, const Sizes& sizes, const Array<i32>& source,
                     const std::optional<Array<i32>>& regions,
                     const std::optional<Array<i32>>& origins,
                     const std::optional<Array<bool>>& flips,
                     const std::optional<Array<float>>& blend, std::array<i32, 2> size,
                     const Make& make) {
  const auto [height, width] = size;
  const i64 batch = source.shape(0), constituents = source.shape(1);
  Array<u8> bytes({batch, constituents, (i64)sizeof(Part)});
  auto* parts = reinterpret_cast<Part*>(bytes.mutable_data());
  for (i64 b = 0; b < batch; ++b)
    for (i64 k = 0; k < constituents; ++k) {
      const i64 i = b * constituents + k;
      parts[i] = Part{};
      const i32 index = source.data()[i];
      if (index == -1) continue;
      if (index < 0 || index >= count)
        throw py::value_error(at("source", b, k) + " is " + std::to_string(index) +
                              ", expected -1" + " (absent) or the index of one of the " +
                              std::to_string(count) + " patches");
      Placed placed{index, {0, 0, height, width}, 0, 0, flips && flips->data()[i], 0.0f};
      Region& region = placed.region;
      if (blend) {
        placed.weight = blend->data()[i];
      } else {
        const i32* row = regions->data() + 4 * i;
        region = {row[0], row[1], row[2], row[3]};
        check_region(region, height, width, at("regions", b, k));
      }
      if (is_empty(region)) continue;
      if (origins) {
        placed.y = origins->data()[2 * i];
        placed.x = origins->data()[2 * i + 1];
      }
      const std::array<i64, 2> patch = sizes(index);
      const i32 region_height = region.y1 - region.y0, region_width = region.x1 - region.x0;
      if (placed.y < 0 || placed.x < 0 || (i64)placed.y + region_height > patch[0] ||
          (i64)placed.x + region_width > patch[1])
        throw py::value_error("patches[" + std::to_string(index) + "] is " +
                              size_text(patch[0], patch[1]) + ", but " +
                              (blend ? "a blend" : at("regions", b, k)) + " shows " +
                              size_text(region_height, region_width) + " pixels of it from (" +
                              std::to_string(placed.y) + ", " + std::to_string(placed.x) + ")");
      parts[i] = make(placed);
    }
  return bytes;
}

// patches holds one row (address, height, width, bytes a row) a patch.
Array<u8> compose_parts(const Array<i64>& patches, const Array<i32>& source,
                        const std::optional<Array<i32>>& regions,
                        const std::optional<Array<i32>>& origins,
                        const std::optional<Array<bool>>& flips,
                        const std::optional<Array<float>>& blend, std::array<i32, 2> size) {
  const auto row = [&](i64 index) { return patches.data() + 4 * index; };
  return make_parts<ComposePart>(
      patches.shape(0), [&](i64 index) { return std::array{row(index)[1], row(index)[2]}; }, source,
      regions, origins, flips, blend, size,
      [&](const Placed& placed) {
        const i64* patch = row(placed.index);
        const i32 last = placed.x + placed.region.x1 - placed.region.x0 - 1;
        ComposePart part{};
        part.region = placed.region;
        part.weight = placed.weight;
        part.row_stride = (i32)patch[3];
        part.column_stride = placed.flip ? -3 : 3;
        part.pixels = pointer<const u8>((u64)patch[0]) + placed.y * patch[3] +
                      3 * (placed.flip ? last : placed.x);
        return part;
      });
}

// rectangles holds one row (address, height, width, bytes a row) a rectangle, windows (y0, x0, y1,
// x1) what of it becomes a patch of the height and width in sizes.
Array<u8> resample_parts(const Array<i64>& rectangles, const Array<float>& windows,
                         const Array<i32>& sizes, const Array<i32>& source,
                         const std::optional<Array<i32>>& regions,
                         const std::optional<Array<i32>>& origins,
                         const std::optional<Array<bool>>& flips,
                         const std::optional<Array<float>>& blend, std::array<i32, 2> size) {
  for (i64 i = 0; i < rectangles.shape(0); ++i) {
    const i64* rectangle = rectangles.data() + 4 * i;
    const float* w = windows.data() + 4 * i;
    // Written so that NaN is wrong too.
    if (!(w[0] >= 0 && w[1] >= 0 && w[2] > w[0] && w[3] > w[1] && w[2] <= (float)rectangle[1] &&
          w[3] <= (float)rectangle[2]))
      throw py::value_error("windows[" + std::to_string(i) + "] is (" + std::to_string(w[0]) +
                            ", " + std::to_string(w[1]) + ", " + std::to_string(w[2]) + ", " +
                            std::to_string(w[3]) + "), expected (y0, x0, y1, x1) within the " +
                            size_text(rectangle[1], rectangle[2]) + " pixels of rectangles[" +
                            std::to_string(i) + "]");
    const i32* patch = sizes.data() + 2 * i;
    if (patch[0] < 1 || patch[1] < 1)
      throw py::value_error("sizes[" + std::to_string(i) + "] is " + size_text(patch[0], patch[1]) +
                            ", expected at least 1 x 1");
  }
  return make_parts<ResamplePart>(
      rectangles.shape(0),
      [&](i64 index) {
        const i32* patch = sizes.data() + 2 * index;
        return std::array<i64, 2>{patch[0], patch[1]};
      },
      source, regions, origins, flips, blend, size,
      [&](const Placed& placed) {
        const i64* rectangle = rectangles.data() + 4 * placed.index;
        const float* window = windows.data() + 4 * placed.index;
        const i32* patch = sizes.data() + 2 * placed.index;
        const Region& region = placed.region;
        ResamplePart part{};
        part.pixels = pointer<const u8>((u64)rectangle[0]);
        part.row_stride = (i32)rectangle[3];
        part.region = region;
        part.weight = placed.weight;
        part.y = make_axis(window[0], window[2], (i32)rectangle[1], patch[0], placed.y, region.y0,
                           region.y1 - region.y0, false);
        part.x = make_axis(window[1], window[3], (i32)rectangle[2], patch[1], placed.x, region.x0,
                           region.x1 - region.x0, placed.flip);
        return part;
      });
}

template <class Part>
Launch composite_launch(const char* source, const char* op,
                        void (*cpu)(const CompositeParams<Part>&, int), u64 parts, u64 index_map,
                        u64 out, i32 batch, i32 constituents, std::array<i32, 2> size, i32 mode,
                        i32 dtype, i32 layout, std::array<float, 3> scale,
                        std::array<float, 3> bias) {
  CompositeParams<Part> p{};
  p.parts = pointer<const Part>(parts);
  p.index_map = pointer<const u8>(index_map);
  p.out = pointer<void>(out);
  p.batch = batch;
  p.constituents = constituents;
  p.height = size[0];
  p.width = size[1];
  p.mode = mode;
  p.dtype = dtype;
  p.layout = layout;
  for (i32 c = 0; c < 3; ++c) {
    p.scale[c] = scale[c];
    p.bias[c] = bias[c];
  }
  const Geometry geometry = compose_prepare(p);
  const std::string kernel = std::string(op) + "_" + dtype_name(dtype) + "_" + layout_name(layout) +
                             (p.wide ? "_wide" : "_narrow");
  return make_launch(source, kernel, p, geometry,
                     describe({{"batch", batch},
                               {"constituents", constituents},
                               {"height", size[0]},
                               {"width", size[1]},
                               {"mode", mode}}),
                     cpu);
}

Launch compose(u64 parts, u64 index_map, u64 out, i32 batch, i32 constituents,
               std::array<i32, 2> size, i32 mode, i32 dtype, i32 layout, std::array<float, 3> scale,
               std::array<float, 3> bias) {
  return composite_launch("compose.cu", "compose", &compose_cpu, parts, index_map, out, batch,
                          constituents, size, mode, dtype, layout, scale, bias);
}

Launch compose_resampled(u64 parts, u64 index_map, u64 out, i32 batch, i32 constituents,
                         std::array<i32, 2> size, i32 mode, i32 dtype, i32 layout,
                         std::array<float, 3> scale, std::array<float, 3> bias) {
  return composite_launch("resample.cu", "compose_resampled", &compose_resampled_cpu, parts,
                          index_map, out, batch, constituents, size, mode, dtype, layout, scale,
                          bias);
}

// The links and chains of mix_ as the kernels read them.
struct MixWork {
  std::vector<MixLink> links;
  std::vector<MixChain> chains;

  void add(i32 target, i32 source, float weight, const Region& box) {
    links.push_back({target, source, weight, 0, box});
  }
  // Makes a chain of the links from `first` on; of none, nothing.
  void close(i64 first, bool cyclic) {
    MixChain chain{(i32)first, (i32)(links.size() - first), cyclic, 0, {0, 0, 0, 0}};
    for (i64 i = first; i < (i64)links.size(); ++i) {
      const Region& box = links[i].box;
      if (is_empty(box)) continue;
      Region& all = chain.bounds;
      all = is_empty(all) ? box
                          : Region{min_i32(all.y0, box.y0), min_i32(all.x0, box.x0),
                                   max_i32(all.y1, box.y1), max_i32(all.x1, box.x1)};
    }
    if (is_empty(chain.bounds))
      links.resize(first);
    else
      chains.push_back(chain);
  }
  template <class T>
  static Array<u8> as_bytes(const std::vector<T>& items) {
    Array<u8> bytes({(i64)items.size(), (i64)sizeof(T)});
    if (!items.empty()) memcpy(bytes.mutable_data(), items.data(), items.size() * sizeof(T));
    return bytes;
  }
  std::pair<Array<u8>, Array<u8>> pack() const { return {as_bytes(chains), as_bytes(links)}; }
};

Region region_at(const Array<i32>& regions, i64 i) {
  const i32* row = regions.data() + 4 * i;
  return {row[0], row[1], row[2], row[3]};
}

// Image b takes from images b + B, b + 2B, ...: by regions [B, K, 4] or weights [B, K].
std::pair<Array<u8>, Array<u8>> mix_groups(const std::optional<Array<i32>>& regions,
                                           const std::optional<Array<float>>& weights,
                                           std::array<i32, 2> size) {
  const auto [height, width] = size;
  const i64 batch = regions ? regions->shape(0) : weights->shape(0);
  const i64 constituents = regions ? regions->shape(1) : weights->shape(1);
  MixWork work;
  for (i64 b = 0; b < batch; ++b) {
    const i64 first = (i64)work.links.size();
    for (i64 k = 0; k < constituents; ++k) {
      const i32 source = (i32)(k * batch + b);
      if (weights) {
        const float weight = weights->data()[b * constituents + k];
        if (weight != 0.0f) work.add((i32)b, source, weight, {0, 0, height, width});
        continue;
      }
      const Region box = region_at(*regions, b * constituents + k);
      check_region(box, height, width, at("regions", b, k));
      if (k > 0 && !is_empty(box)) work.add((i32)b, source, 0.0f, box);
    }
    work.close(first, false);
  }
  return work.pack();
}

// Image i takes from what image partners[i] was, by regions [N, 4] or weights [N].
std::pair<Array<u8>, Array<u8>> mix_cycles(const Array<i64>& partners,
                                           const std::optional<Array<i32>>& regions,
                                           const std::optional<Array<float>>& weights,
                                           std::array<i32, 2> size) {
  const auto [height, width] = size;
  const i64 count = partners.shape(0);
  std::vector<bool> taken(count), done(count);
  for (i64 i = 0; i < count; ++i) {
    const i64 partner = partners.data()[i];
    if (partner < 0 || partner >= count || taken[partner])
      throw py::value_error("partners[" + std::to_string(i) + "] is " + std::to_string(partner) +
                            ", expected a permutation of 0 .. " + std::to_string(count - 1));
    taken[partner] = true;
    if (regions)
      check_region(region_at(*regions, i), height, width, "regions[" + std::to_string(i) + "]");
  }
  MixWork work;
  for (i64 start = 0; start < count; ++start) {
    if (done[start]) continue;
    const i64 first = (i64)work.links.size();
    for (i64 i = start; !done[i]; i = partners.data()[i]) {
      done[i] = true;
      const float weight = weights ? weights->data()[i] : 0.0f;
      Region box{0, 0, height, width};
      if (regions) box = region_at(*regions, i);
      if (weights && weight == 1.0f) box = {0, 0, 0, 0};
      work.add((i32)i, (i32)partners.data()[i], weight, box);
    }
    if (work.links.size() - first == 1) work.links.resize(first);  // its own partner
    work.close(first, true);
  }
  return work.pack();
}

Launch mix(u64 images, u64 chains, u64 links, i32 num_chains, i32 channels, std::array<i32, 2> size,
           i32 mode, i32 dtype, i32 layout) {
  MixParams p{};
  p.images = pointer<void>(images);
  p.chains = pointer<const MixChain>(chains);
  p.links = pointer<const MixLink>(links);
  p.num_chains = num_chains;
  p.channels = channels;
  p.height = size[0];
  p.width = size[1];
  p.mode = mode;
  p.dtype = dtype;
  p.layout = layout;
  const Geometry geometry = mix_prepare(p);
  const std::string kernel =
      std::string("mix_") + dtype_name(dtype) + (p.wide ? "_wide" : "_narrow");
  return make_launch("mix.cu", kernel, p, geometry,
                     describe({{"chains", num_chains},
                               {"channels", channels},
                               {"height", size[0]},
                               {"width", size[1]},
                               {"mode", mode},
                               {"layout", layout}}),
                     &mix_cpu);
}

// Raises where a class that takes part is out of range, or an id lies outside the table.
void check_targets(u64 classes, u64 weights, i64 count, i64 constituents, i64 num_classes,
                   std::optional<i64> ignore_index) {
  for (i64 i = 0; i < count; ++i) {
    const i64 index = pointer<const i64>(classes)[i];
    const bool absent = pointer<const float>(weights)[i] == 0.0f ||
                        (ignore_index ? index == *ignore_index : index < 0);
    if (!absent && (index < 0 || index >= num_classes))
      throw py::value_error(at("classes", i / constituents, i % constituents) + " is " +
                            std::to_string(index) + ", expected a class in 0 .. " +
                            std::to_string(num_classes - 1));
  }
}
void check_ids(u64 ids, i64 count, i64 constituents, i64 table_size) {
  for (i64 i = 0; i < count; ++i) {
    const i64 id = pointer<const i64>(ids)[i];
    if (id < -1 || id >= table_size)
      throw py::value_error(at("ids", i / constituents, i % constituents) + " is " +
                            std::to_string(id) + ", expected -1 (absent) or a sample in" +
                            " 0 .. " + std::to_string(table_size - 1) + ", the size of the table");
  }
}

Launch dense_targets(u64 classes, u64 weights, u64 out, i32 batch, i32 constituents,
                     i32 num_classes, i32 dtype, float smoothing) {
  TargetsParams p{};
  p.classes = pointer<const i64>(classes);
  p.weights = pointer<const float>(weights);
  p.out = pointer<void>(out);
  p.batch = batch;
  p.constituents = constituents;
  p.num_classes = num_classes;
  p.dtype = dtype;
  p.smoothing = smoothing;
  const Geometry geometry = targets_prepare(p);
  const std::string kernel =
      std::string("dense_targets_") + dtype_name(dtype) + (p.wide ? "_wide" : "_narrow");
  return make_launch(
      "targets.cu", kernel, p, geometry,
      describe({{"batch", batch}, {"constituents", constituents}, {"classes", num_classes}}),
      &dense_targets_cpu);
}

Launch cross_entropy(u64 logits, u64 classes, u64 labels, u64 weights, u64 ids, u64 gradient,
                     u64 per_constituent, u64 loss, u64 table_losses, u64 table_epochs,
                     u64 epoch_now, u64 smoothed, u64 finished_blocks, i64 table_size,
                     i64 ignore_index, i32 batch, i32 constituents, i32 num_classes,
                     i32 rows_per_composite, i32 epoch, i32 dtype, float smoothing,
                     float gradient_scale) {
  CrossEntropyParams p{};
  p.logits = pointer<const void>(logits);
  p.classes = pointer<const i64>(classes);
  p.labels = pointer<const float>(labels);
  p.weights = pointer<const float>(weights);
  p.ids = pointer<const i64>(ids);
  p.gradient = pointer<void>(gradient);
  p.per_constituent = pointer<float>(per_constituent);
  p.loss = pointer<float>(loss);
  p.table_losses = pointer<float>(table_losses);
  p.table_epochs = pointer<i32>(table_epochs);
  p.epoch_now = pointer<const i32>(epoch_now);
  p.smoothed = pointer<float>(smoothed);
  p.finished_blocks = pointer<i32>(finished_blocks);
  p.table_size = table_size;
  p.ignore_index = ignore_index;
  p.batch = batch;
  p.constituents = constituents;
  p.num_classes = num_classes;
  p.rows_per_composite = rows_per_composite;
  p.epoch = epoch;
  p.dtype = dtype;
  p.smoothing = smoothing;
  p.gradient_scale = gradient_scale;
  const std::string kernel = labels ? std::string("sigmoid_cross_entropy_") + dtype_name(dtype)
                                    : std::string("softmax_cross_entropy_") + dtype_name(dtype) +
                                          "_" + std::to_string(logits_per_thread(num_classes));
  return make_launch("cross_entropy.cu", kernel, p, cross_entropy_prepare(p),
                     describe({{"batch", batch},
                               {"constituents", constituents},
                               {"classes", num_classes},
                               {"rows a composite", rows_per_composite},
                               {"table size", table_size}}),
                     &cross_entropy_cpu);
}

Launch scale_gradient(u64 gradient, u64 grad_loss, u64 result, i64 count, float factor, i32 dtype) {
  const ScaleParams p{pointer<const void>(gradient),
                      pointer<const float>(grad_loss),
                      pointer<void>(result),
                      count,
                      factor,
                      dtype};
  return make_launch("cross_entropy.cu", std::string("scale_gradient_") + dtype_name(dtype), p,
                     scale_prepare(p), describe({{"elements", count}}), &scale_gradient_cpu);
}

// The launches that write bytes to an address, in 4 KB each. There is no CPU kernel.
std::vector<Launch> stage(const Array<u8>& table, u64 to) {
  if (table.size() % 4)
    throw py::value_error("table has " + std::to_string(table.size()) +
                          " bytes, expected a multiple of 4");
  const i64 words = table.size() / 4;
  std::vector<Launch> launches;
  for (i64 first = 0; first < words; first += kStageWords) {
    StageParams p{};
    p.to = pointer<u32>(to) + first;
    p.count = (i32)std::min<i64>(kStageWords, words - first);
    memcpy(p.words, table.data() + 4 * first, 4 * (size_t)p.count);
    launches.push_back(make_launch<StageParams>("stage.cu", "stage", p, {1, kStageThreads, 0},
                                                describe({{"words", p.count}}), nullptr));
  }
  return launches;
}

// The launches that find and mark the lowest samples, in their order. There is no CPU kernel: on
// the CPU a plan ranks the table itself.
std::vector<Launch> select_lowest(u64 losses, u64 epochs, u64 result, u64 sums, i32 size, i32 rule,
                                  u32 seed, const std::vector<double>& factors,
                                  const std::vector<double>& savings, double target) {
  SelectParams p{};
  p.losses = pointer<const float>(losses);
  p.epochs = pointer<const i32>(epochs);
  p.state = pointer<SelectState>(result);
  p.masks = pointer<u32>(result + sizeof(SelectState));
  p.sums = pointer<double>(sums);
  p.size = size;
  p.words = select_words(size);
  p.rule = rule;
  p.tiers = (i32)factors.size();
  p.seed = seed;
  p.target = target;
  for (size_t t = 0; t < factors.size(); ++t) {
    p.factors[t] = factors[t];
    p.savings[t] = t < savings.size() ? savings[t] : 0.0;
  }
  const auto launch = [&p](const char* kernel) {
    return make_launch<SelectParams>("select.cu", kernel, p, select_prepare(p),
                                     describe({{"samples", p.size}, {"tiers", p.tiers}}), nullptr);
  };
  std::vector<Launch> launches{launch("select_measure")};
  for (p.bit = select_search_bits(rule) - 1; p.bit >= 0; --p.bit)
    launches.push_back(launch("select_search"));
  launches.push_back(launch("select_mark"));
  return launches;
}

// Bytes of the result, and where its masks begin: [tiers, words] of 32 samples each.
std::pair<i64, i64> selection_layout(i32 size, i32 tiers) {
  const i64 head = (i64)sizeof(SelectState);
  return {head + (i64)tiers * select_words(size) * 4, head};
}

// (ranked, mean, samples in each mask) of a result.
py::tuple read_selection(const py::bytes& result, i32 tiers) {
  const std::string_view bytes = result;
  if (bytes.size() < sizeof(SelectState))
    throw py::value_error("result has " + std::to_string(bytes.size()) + " bytes, expected " +
                          std::to_string(sizeof(SelectState)) + " or more");
  SelectState state;
  memcpy(&state, bytes.data(), sizeof state);
  return py::make_tuple(state.ranked, state.mean,
                        std::vector<u32>(state.taken, state.taken + tiers));
}

// Where the slots of images of these sizes begin in the points' file, in bytes; [N + 1].
Array<i64> point_slots(const Array<i32>& heights, const Array<i32>& widths) {
  const i64 count = heights.size();
  if (widths.size() != count)
    throw py::value_error("widths: got " + std::to_string(widths.size()) + ", expected " +
                          std::to_string(count) + ", as many as heights");
  Array<i64> slots(count + 1);
  i64* const out = slots.mutable_data();
  out[0] = 0;
  for (i64 i = 0; i < count; ++i)
    out[i + 1] = out[i] + slot_bytes(heights.data()[i], widths.data()[i]);
  return slots;
}

// A vector as a numpy array that owns it.
Array<u8> to_array(std::vector<u8>&& bytes) {
  auto* const owned = new std::vector<u8>(std::move(bytes));
  const py::capsule owner(owned, [](void* p) { delete static_cast<std::vector<u8>*>(p); });
  return Array<u8>((py::ssize_t)owned->size(), owned->data(), owner);
}

// Encoded excerpts, and where they begin in their images: int32 [P, 2], (y, x).
std::pair<py::list, Array<i32>> make_excerpts(ExcerptMaker& maker,
                                              const std::variant<Array<u8>, py::list>& images,
                                              const Array<i32>& sizes, const Array<i32>& reads,
                                              const Array<i64>& slots, int threads) {
  const i64 count = slots.size();
  std::vector<ExcerptTask> tasks((size_t)count);
  std::vector<Array<u8>> held;  // while the GIL is not
  for (i64 i = 0; i < count; ++i) {
    ExcerptTask& task = tasks[(size_t)i];
    const i32 *size = sizes.data() + 2 * i, *read = reads.data() + 4 * i;
    task.height = size[0];
    task.width = size[1];
    task.reads = {read[0], read[1], read[2], read[3]};
    task.slot = slots.data()[i];
    if (const auto* names = std::get_if<Array<u8>>(&images)) {
      const i64 length = names->shape(1);
      const char* const name = reinterpret_cast<const char*>(names->data()) + i * length;
      task.path.assign(name, strnlen(name, (size_t)length));
      task.bytes = {nullptr, 0};
    } else {
      held.push_back(py::cast<Array<u8>>(std::get<py::list>(images)[(size_t)i]));
      task.bytes = {held.back().data(), held.back().size()};
    }
  }
  std::vector<Excerpt> excerpts;
  {
    const py::gil_scoped_release release;
    excerpts = maker.make(tasks, threads);
  }
  py::list encoded((size_t)count);
  Array<i32> origins({count, (i64)2});
  for (i64 i = 0; i < count; ++i) {
    Excerpt& excerpt = excerpts[(size_t)i];
    encoded[(size_t)i] = to_array(std::move(excerpt.jpeg));
    origins.mutable_data()[2 * i] = excerpt.y;
    origins.mutable_data()[2 * i + 1] = excerpt.x;
  }
  return {encoded, origins};
}

py::dict device_sources() {
  py::dict sources;
  for (const DeviceSource* source = kDeviceSources; source->name; ++source)
    sources[source->name] = source->text;
  return sources;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled parts of mixpipe: see mixpipe.kernels for what they do";
  module.attr("MAX_CONSTITUENTS") = kMaxConstituents;
  module.def("instruction_set", &instruction_set, "What the CPU kernels run on here");
  module.def("device_sources", &device_sources, "The CUDA kernels' sources, by file name");

  module.attr("DEVICE_SOURCES_HASH") = kDeviceSourcesHash;

  py::class_<Launch>(module, "Launch", "A kernel's parameters and the geometry it is launched with")
      .def_readonly("source", &Launch::source, "Name of the CUDA source")
      .def_readonly("kernel", &Launch::kernel, "Name of the CUDA kernel")
      .def_readonly("description", &Launch::description, "Sizes, for an error message")
      .def_property_readonly("grid", [](const Launch& l) { return l.geometry.grid; })
      .def_property_readonly("block", [](const Launch& l) { return l.geometry.block; })
      .def_property_readonly("shared_bytes",
                             [](const Launch& l) { return l.geometry.shared_bytes; })
      .def_property_readonly("params", [](const Launch& l) { return py::bytes(l.params); })
      .def(
          "run_cpu", [](const Launch& l, int threads) { l.run_cpu(threads); }, py::arg("threads"),
          py::call_guard<py::gil_scoped_release>(), "Runs the CPU kernel on host addresses");
  module.def("compose_parts", &compose_parts, py::arg("patches"), py::arg("source"),
             py::arg("regions"), py::arg("origins"), py::arg("flips"), py::arg("blend"),
             py::arg("size"));
  module.def("resample_parts", &resample_parts, py::arg("rectangles"), py::arg("windows"),
             py::arg("sizes"), py::arg("source"), py::arg("regions"), py::arg("origins"),
             py::arg("flips"), py::arg("blend"), py::arg("size"));
  for (const auto& [name, function] :
       {std::pair{"compose", &compose}, std::pair{"compose_resampled", &compose_resampled}})
    module.def(name, function, py::kw_only(), py::arg("parts"), py::arg("index_map"),
               py::arg("out"), py::arg("batch"), py::arg("constituents"), py::arg("size"),
               py::arg("mode"), py::arg("dtype"), py::arg("layout"), py::arg("scale"),
               py::arg("bias"));

  module.def("mix_groups", &mix_groups, py::arg("regions"), py::arg("weights"), py::arg("size"));
  module.def("mix_cycles", &mix_cycles, py::arg("partners"), py::arg("regions"), py::arg("weights"),
             py::arg("size"));
  module.def("mix", &mix, py::kw_only(), py::arg("images"), py::arg("chains"), py::arg("links"),
             py::arg("num_chains"), py::arg("channels"), py::arg("size"), py::arg("mode"),
             py::arg("dtype"), py::arg("layout"));

  module.def("check_targets", &check_targets, py::arg("classes"), py::arg("weights"),
             py::arg("count"), py::arg("constituents"), py::arg("num_classes"),
             py::arg("ignore_index"));
  module.def("check_ids", &check_ids, py::arg("ids"), py::arg("count"), py::arg("constituents"),
             py::arg("table_size"));

  module.def("dense_targets", &dense_targets, py::kw_only(), py::arg("classes"), py::arg("weights"),
             py::arg("out"), py::arg("batch"), py::arg("constituents"), py::arg("num_classes"),
             py::arg("dtype"), py::arg("smoothing"));

  module.attr("MAX_CUDA_CLASSES") = kMaxCudaClasses;
  module.def("cross_entropy", &cross_entropy, py::kw_only(), py::arg("logits"), py::arg("classes"),
             py::arg("labels"), py::arg("weights"), py::arg("ids"), py::arg("gradient"),
             py::arg("per_constituent"), py::arg("loss"), py::arg("table_losses"),
             py::arg("table_epochs"), py::arg("epoch_now"), py::arg("smoothed"),
             py::arg("finished_blocks"), py::arg("table_size"), py::arg("ignore_index"),
             py::arg("batch"), py::arg("constituents"), py::arg("num_classes"),
             py::arg("rows_per_composite"), py::arg("epoch"), py::arg("dtype"),
             py::arg("smoothing"), py::arg("gradient_scale"));
  module.def("scale_gradient", &scale_gradient, py::kw_only(), py::arg("gradient"),
             py::arg("grad_loss"), py::arg("result"), py::arg("count"), py::arg("factor"),
             py::arg("dtype"));

  module.def("stage", &stage, py::arg("table"), py::arg("to"));

  module.def("point_slots", &point_slots, py::arg("heights"), py::arg("widths"));
  py::class_<ExcerptMaker>(module, "ExcerptMaker", "Cuts excerpts out of a batch's JPEGs")
      .def(py::init<int>(), py::arg("points_file"))
      .def("make", &make_excerpts, py::arg("images"), py::arg("sizes"), py::arg("reads"),
           py::arg("slots"), py::arg("threads"));

  module.attr("MAX_TIERS") = kMaxTiers;
  module.attr("MOST_SELECT_BLOCKS") = kMostSelectBlocks;
  module.def("select_lowest", &select_lowest, py::kw_only(), py::arg("losses"), py::arg("epochs"),
             py::arg("result"), py::arg("sums"), py::arg("size"), py::arg("rule"), py::arg("seed"),
             py::arg("factors"), py::arg("savings"), py::arg("target"));
  module.def("selection_layout", &selection_layout, py::arg("size"), py::arg("tiers"));
  module.def("read_selection", &read_selection, py::arg("result"), py::arg("tiers"));
}
