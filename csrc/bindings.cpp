// mixpipe._C: parameters, launch geometry and CPU kernels for mixpipe.kernels, which checks shapes,
// dtypes and devices of tensors first. Addresses travel as integers; no torch header is needed.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>

#include "cpu.h"
#include "device_sources.h"

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

// A params struct with the kernel that takes it and the geometry it is launched with.
template <class Params>
struct Launch {
  Params params;
  Geometry geometry;
  std::string kernel;

  py::bytes bytes() const {
    return py::bytes(reinterpret_cast<const char*>(&params), sizeof params);
  }
};

template <class Params>
void bind_launch(py::module_& module, const char* name, void (*cpu)(const Params&, int)) {
  py::class_<Launch<Params>>(module, name)
      .def_readonly("kernel", &Launch<Params>::kernel, "Name of the CUDA kernel")
      .def_property_readonly("grid", [](const Launch<Params>& l) { return l.geometry.grid; })
      .def_property_readonly("block", [](const Launch<Params>& l) { return l.geometry.block; })
      .def_property_readonly("shared_bytes",
                             [](const Launch<Params>& l) { return l.geometry.shared_bytes; })
      .def_property_readonly("params", &Launch<Params>::bytes,
                             "Bytes of the struct that the kernel takes by value")
      .def(
          "run_cpu", [cpu](const Launch<Params>& l, int threads) { cpu(l.params, threads); },
          py::arg("threads"), py::call_guard<py::gil_scoped_release>(),
          "Runs the CPU kernel on host addresses");
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

// The constituents of a batch as the kernel reads them, [B, K] structs of bytes. patches holds one
// row (address, height, width, bytes a row) a patch.
Array<u8> compose_parts(const Array<i64>& patches, const Array<i32>& source,
                        const std::optional<Array<i32>>& regions,
                        const std::optional<Array<i32>>& origins,
                        const std::optional<Array<bool>>& flips,
                        const std::optional<Array<float>>& blend, std::array<i32, 2> size) {
  const auto [height, width] = size;
  const i64 batch = source.shape(0), constituents = source.shape(1), count = patches.shape(0);
  Array<u8> bytes({batch, constituents, (i64)sizeof(ComposePart)});
  auto* parts = reinterpret_cast<ComposePart*>(bytes.mutable_data());
  for (i64 b = 0; b < batch; ++b)
    for (i64 k = 0; k < constituents; ++k) {
      const i64 i = b * constituents + k;
      ComposePart& part = parts[i] = ComposePart{};
      const i32 index = source.data()[i];
      if (index == -1) continue;
      if (index < 0 || index >= count)
        throw py::value_error(at("source", b, k) + " is " + std::to_string(index) +
                              ", expected -1" + " (absent) or the index of one of the " +
                              std::to_string(count) + " patches");
      Region region{0, 0, height, width};
      if (blend) {
        part.weight = blend->data()[i];
      } else {
        const i32* row = regions->data() + 4 * i;
        region = {row[0], row[1], row[2], row[3]};
        check_region(region, height, width, at("regions", b, k));
      }
      if (is_empty(region)) continue;
      const i64* patch = patches.data() + 4 * index;
      const i32 y = origins ? origins->data()[2 * i] : 0,
                x = origins ? origins->data()[2 * i + 1] : 0;
      const i32 region_height = region.y1 - region.y0, region_width = region.x1 - region.x0;
      if (y < 0 || x < 0 || y + region_height > patch[1] || x + region_width > patch[2])
        throw py::value_error("patches[" + std::to_string(index) + "] is " +
                              size_text(patch[1], patch[2]) + ", but " +
                              (blend ? "a blend" : at("regions", b, k)) + " shows " +
                              size_text(region_height, region_width) + " pixels of it from (" +
                              std::to_string(y) + ", " + std::to_string(x) + ")");
      const bool flip = flips && flips->data()[i];
      part.region = region;
      part.row_stride = (i32)patch[3];
      part.column_stride = flip ? -3 : 3;
      part.pixels =
          pointer<const u8>((u64)patch[0]) + y * patch[3] + 3 * (flip ? x + region_width - 1 : x);
    }
  return bytes;
}

Launch<ComposeParams> compose(u64 parts, u64 index_map, u64 out, i32 batch, i32 constituents,
                              std::array<i32, 2> size, i32 mode, i32 dtype, i32 layout,
                              std::array<float, 3> scale, std::array<float, 3> bias) {
  ComposeParams p{};
  p.parts = pointer<const ComposePart>(parts);
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
  const std::string kernel = std::string("compose_") + dtype_name(dtype) + "_" +
                             layout_name(layout) + (p.wide ? "_wide" : "_narrow");
  return {p, geometry, kernel};
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

  bind_launch<ComposeParams>(module, "Compose", &compose_cpu);
  module.def("compose_parts", &compose_parts, py::arg("patches"), py::arg("source"),
             py::arg("regions"), py::arg("origins"), py::arg("flips"), py::arg("blend"),
             py::arg("size"));
  module.def("compose", &compose, py::kw_only(), py::arg("parts"), py::arg("index_map"),
             py::arg("out"), py::arg("batch"), py::arg("constituents"), py::arg("size"),
             py::arg("mode"), py::arg("dtype"), py::arg("layout"), py::arg("scale"),
             py::arg("bias"));
}
