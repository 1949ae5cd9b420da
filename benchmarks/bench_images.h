// The cases of kernel_bench that make images: compose, compose_resampled, mix_.
#pragma once

#include <algorithm>

#include "bench_data.h"

namespace kernel_bench {
namespace {

const char* const kModes[] = {"compose", "compose blend", "compose index_map"};

// Regions side by side; or whole canvases, blended or shown in squares of 16 pixels by an index
// map.
Case compose_case(const Options& o, i32 mode, i32 dtype, i32 layout, int k) {
  const int n = o.size;
  const std::vector<Region> regions =
      mode == kRegions ? divide_canvas(k, n) : std::vector<Region>((size_t)k, Region{0, 0, n, n});
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
      part.weight = (float)(j + 1) / (float)(k * (k + 1) / 2);
      part.row_stride = 3 * width(r);
      part.column_stride = mirrored ? -3 : 3;
      offsets.push_back(offset + (mirrored ? 3 * (size_t)(width(r) - 1) : 0));
      part.pixels = patches->data() + offsets.back();
      parts.push_back(part);
      offset += 3 * (size_t)height(r) * (size_t)width(r);
    }
  auto device_parts = std::make_shared<DeviceArray<ComposePart>>(parts);
  std::vector<u8> shown;
  for (int i = 0; mode == kIndexMap && i < o.batch * n * n; ++i)
    shown.push_back((u8)((i / n % n / 16 + i % n / 16) % k));
  auto index_map = std::make_shared<DeviceArray<u8>>(shown);
  const size_t count = 3 * (size_t)n * (size_t)n * (size_t)o.batch;
  auto out = std::make_shared<DeviceArray<u8>>(count * (size_t)element_size(dtype));

  ComposeParams p{};
  p.parts = device_parts->data();
  p.index_map = index_map->data();
  p.out = out->data();
  p.batch = o.batch;
  p.constituents = k;
  p.height = p.width = n;
  p.mode = mode;
  p.dtype = dtype;
  p.layout = layout;
  for (int c = 0; c < 3; ++c) p.scale[c] = 1.0f / (255.0f * 0.225f), p.bias[c] = -0.45f / 0.225f;
  const Geometry geometry = compose_prepare(p);
  const auto kernel = compose_kernel(p);

  Case item;
  item.name = join(kModes[mode], kDTypes[dtype], kLayouts[layout], number("k", k),
                   number("b", o.batch), number("size", n));
  // Of each pixel as many constituents are read as show: all of a blend, else one.
  item.bytes = (double)((mode == kBlend ? patches->bytes() : count) + index_map->bytes() +
                        out->bytes() + device_parts->bytes());
  item.memory = {patches, device_parts, index_map, out};
  item.reset = [out] { out->reset(); };
  item.launch = [=] { start(kernel, geometry, p); };
  item.check = [=] {
    const std::vector<u8>& in = patches->first();
    std::vector<u8> want(out->bytes());
    std::vector<float> sums(count);
    for (int b = 0; b < o.batch; ++b)
      for (int j = 0; j < k; ++j) {
        const size_t i = (size_t)b * (size_t)k + (size_t)j, image = (size_t)b * (size_t)(n * n);
        const Region r = regions[(size_t)j];
        for (i32 y = r.y0; y < r.y1; ++y)
          for (i32 x = r.x0; x < r.x1; ++x) {
            if (mode == kIndexMap && shown[image + (size_t)(y * n + x)] != j) continue;
            for (i32 c = 0; c < 3; ++c) {
              const i64 at = (i64)offsets[i] + (i64)(y - r.y0) * parts[i].row_stride +
                             (i64)(x - r.x0) * parts[i].column_stride + c;
              const float weight = mode == kBlend ? parts[i].weight : 1.0f;
              float& sum = sums[3 * image + place(layout, n, c, y, x)];
              sum = std::fmaf(weight, (float)in[(size_t)at], sum);
            }
          }
      }
    for (size_t i = 0; i < count; ++i) {
      const size_t c = layout == kNHWC ? i % 3 : i / (size_t)(n * n) % 3;
      set_element(want, dtype, i, std::fmaf(sums[i], p.scale[c], p.bias[c]));
    }
    return compare(out->read(), want, dtype);
  };
  return item;
}

// Weights of the triangle filter that makes pixel i of `size` from `extent` pixels, in double.
std::vector<double> filter_weights(i32 i, i32 size, i32 extent) {
  const double scale = (double)extent / size, reach = std::max(scale, 1.0);
  const double centre = (i + 0.5) * scale;
  std::vector<double> weights((size_t)extent);
  double sum = 0;
  for (i32 j = 0; j < extent; ++j)
    sum += weights[(size_t)j] = std::max(0.0, 1.0 - std::fabs(j + 0.5 - centre) / reach);
  for (double& weight : weights) weight /= sum;
  return weights;
}

// Each region shows a rectangle of its own, 1.75 times as high and wide.
Case resample_case(const Options& o, i32 dtype, i32 layout, int k) {
  const int n = o.size;
  const std::vector<Region> regions = divide_canvas(k, n);
  const auto large = [](i32 size) { return size * 7 / 4; };
  size_t total = 0;
  for (const Region& r : regions) total += 3 * (size_t)large(height(r)) * (size_t)large(width(r));
  Random random(5);
  std::vector<u8> pixels(total * (size_t)o.batch);
  for (u8& pixel : pixels) pixel = (u8)random.bits();
  auto rectangles = std::make_shared<DeviceArray<u8>>(std::move(pixels));

  std::vector<ResamplePart> parts;
  std::vector<size_t> offsets(1, 0);
  for (int b = 0; b < o.batch; ++b)
    for (int j = 0; j < k; ++j) {
      const Region r = regions[(size_t)j];
      const i32 rows = large(height(r)), columns = large(width(r));
      ResamplePart part{};
      part.pixels = rectangles->data() + offsets.back();
      part.row_stride = 3 * columns;
      part.region = r;
      part.y = make_axis(0.0f, (float)rows, rows, height(r), 0, r.y0, height(r), false);
      part.x = make_axis(0.0f, (float)columns, columns, width(r), 0, r.x0, width(r), false);
      parts.push_back(part);
      offsets.push_back(offsets.back() + 3 * (size_t)rows * (size_t)columns);
    }
  auto device_parts = std::make_shared<DeviceArray<ResamplePart>>(parts);
  const size_t count = 3 * (size_t)n * (size_t)n * (size_t)o.batch;
  auto out = std::make_shared<DeviceArray<u8>>(count * (size_t)element_size(dtype));

  ResampleParams p{};
  p.parts = device_parts->data();
  p.out = out->data();
  p.batch = o.batch;
  p.constituents = k;
  p.height = p.width = n;
  p.mode = kRegions;
  p.dtype = dtype;
  p.layout = layout;
  for (int c = 0; c < 3; ++c) p.scale[c] = 1.0f / 255.0f, p.bias[c] = -0.5f;
  const Geometry geometry = compose_prepare(p);
  const auto kernel = resample_kernel(p);

  Case item;
  item.name = join("compose_resampled", kDTypes[dtype], kLayouts[layout], number("k", k),
                   number("b", o.batch), number("size", n));
  item.bytes = (double)(rectangles->bytes() + out->bytes() + device_parts->bytes());
  item.memory = {rectangles, device_parts, out};
  item.reset = [out] { out->reset(); };
  item.launch = [=] { start(kernel, geometry, p); };
  item.check = [=] {
    const std::vector<u8>& in = rectangles->first();
    const std::vector<u8> got = out->read();
    const double tolerance = dtype == kFloat32 ? 1e-5 : dtype == kFloat16 ? 5e-4 : 4e-3;
    Check check;
    for (int b = 0; b < o.batch; ++b)
      for (int j = 0; j < k; ++j) {
        const Region r = regions[(size_t)j];
        const i32 rows = large(height(r)), columns = large(width(r));
        const u8* from = &in[offsets[(size_t)(b * k + j)]];
        std::vector<std::vector<double>> across;
        for (i32 x = 0; x < width(r); ++x) across.push_back(filter_weights(x, width(r), columns));
        for (i32 y = 0; y < height(r); ++y) {
          // One row of the rectangle's columns first.
          const std::vector<double> down = filter_weights(y, height(r), rows);
          std::vector<double> row(3 * (size_t)columns);
          for (i32 i = 0; i < rows; ++i)
            for (size_t e = 0; down[(size_t)i] > 0 && e < row.size(); ++e)
              row[e] += down[(size_t)i] * from[(size_t)i * row.size() + e];
          for (i32 x = 0; x < width(r); ++x)
            for (i32 c = 0; c < 3; ++c) {
              double want = 0;
              for (i32 i = 0; i < columns; ++i)
                want += across[(size_t)x][(size_t)i] * row[3 * (size_t)i + (size_t)c];
              want = want / 255.0 - 0.5;
              const size_t at =
                  (size_t)b * 3 * (size_t)n * (size_t)n + place(layout, n, c, r.y0 + y, r.x0 + x);
              check(std::fabs(element(got, dtype, at) - want) <= tolerance);
            }
        }
      }
    return check;
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

}  // namespace
}  // namespace kernel_bench
