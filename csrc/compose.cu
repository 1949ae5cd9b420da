// compose on the GPU. A thread makes one 16-byte vector of an interleaved row (NHWC), or the three
// vectors of one stretch of pixels (NCHW): neighbouring threads store neighbouring vectors, and
// each input byte is loaded by one thread. Nearly all vectors lie in one region; those that cross a
// border are made element by element.
#include "compose.h"
#include "device.h"

namespace mixpipe {

// The constituents that a vector's pixels are summed from: [first, last), each with its weight.
struct Shown {
  i32 first, last;
  bool whole;  // false: pixels differ in what they show
};

__device__ inline Shown find_shown(const ComposeParams& p, const ComposePart* parts, i32 y, i32 x0,
                                   i32 x1) {
  if (p.mode == kBlend) return {0, p.constituents, true};
  if (p.mode == kIndexMap) return {0, 0, false};
  for (i32 k = p.constituents - 1; k >= 0; --k) {
    const Region region = parts[k].region;
    if (y < region.y0 || y >= region.y1 || x1 <= region.x0 || x0 >= region.x1) continue;
    return {k, k + 1, x0 >= region.x0 && x1 <= region.x1};
  }
  return {0, 0, true};
}

// Adds weight * pixels [x, x + kPixels) of a row to sums[3 * kPixels], in planes. The bytes are
// read as aligned words, the two ends, which share a word with somebody else's pixels, byte by
// byte: nothing outside the pixels is touched.
template <i32 kPixels>
__device__ inline void add_pixels(const ComposePart& part, i32 y, i32 x, float weight,
                                  float* sums) {
  constexpr i32 kWords = 3 * kPixels / 4;
  const bool flip = part.column_stride < 0;
  const u8* from = part_pixel(part, y, flip ? x + kPixels - 1 : x);
  const u32 lead = (u32)(u64)from & 3u;
  const u8* base = from - lead;
  u32 ends = 0;
#pragma unroll
  for (u32 i = 0; i < 4; ++i) ends |= (u32)base[i >= lead ? i : i + 3 * kPixels] << (8 * i);
  u32 words[kWords + 1];
  words[0] = words[kWords] = ends;
#pragma unroll
  for (i32 i = 1; i < kWords; ++i) words[i] = reinterpret_cast<const u32*>(base)[i];
#pragma unroll
  for (i32 i = 0; i < kWords; ++i)
    words[i] = (u32)((((u64)words[i + 1] << 32) | words[i]) >> (8 * lead));
#pragma unroll
  for (i32 i = 0; i < 3 * kPixels; ++i) {
    const float value = (float)((words[i / 4] >> (8 * (i % 4))) & 0xffu);
    const i32 pixel = i / 3, channel = i % 3;
    float& same = sums[channel * kPixels + pixel];
    float& mirrored = sums[channel * kPixels + kPixels - 1 - pixel];
    if (flip)
      mirrored = fused_multiply_add(weight, value, mirrored);
    else
      same = fused_multiply_add(weight, value, same);
  }
}

// Adds weight * the interleaved row's elements [3 * x + channel, ... + kSize) to sums.
template <i32 kSize>
__device__ inline void add_interleaved(const ComposePart& part, i32 y, i32 x, i32 channel,
                                       float weight, float* sums) {
  const u8* from = part_pixel(part, y, x) + channel;
  const i32 next_pixel = part.column_stride - 2;
#pragma unroll
  for (i32 i = 0; i < kSize; ++i) {
    sums[i] = fused_multiply_add(weight, (float)*from, sums[i]);
    from += channel == 2 ? next_pixel : 1;
    channel = channel == 2 ? 0 : channel + 1;
  }
}

// compose_element in the order of the result's row: element e of a plane's (or interleaved) row.
template <bool kInterleaved>
__device__ inline float row_element(const ComposeParams& p, const ComposePart* parts, i32 b, i32 y,
                                    i32 element, i32 plane) {
  const i32 x = kInterleaved ? (i32)((u32)element / 3u) : element;
  return compose_element(p, parts, b, y, x, kInterleaved ? element - 3 * x : plane);
}

template <class T, bool kInterleaved, bool kWide>
__device__ inline void compose_thread(const ComposeParams& p) {
  constexpr i32 kSize = Vector<T>::kSize, kPlanes = kInterleaved ? 1 : 3;
  const u32 block = blockIdx.x, b = divide(block, p.by_blocks_per_composite);
  const u32 index = (block - b * (u32)p.blocks_per_composite) * kComposeThreads + threadIdx.x;
  const u32 row = divide(index, p.by_pieces_per_row);
  if (row >= (u32)p.height) return;
  const i32 y = (i32)row;
  const i32 row_size = kInterleaved ? 3 * p.width : p.width;
  const i32 first = (i32)(index - row * (u32)p.pieces_per_row) * kSize;
  const i32 count = kWide ? kSize : min_i32(kSize, row_size - first);
  const i32 x0 = kInterleaved ? (i32)((u32)first / 3u) : first;
  const i32 x1 = kInterleaved ? (i32)((u32)(first + count - 1) / 3u) + 1 : first + count;
  const i32 plane_size = p.height * p.width;
  const ComposePart* parts = p.parts + b * (u32)p.constituents;
  T* out = (T*)p.out + (i64)b * 3 * plane_size + y * row_size + first;

  const Shown shown = find_shown(p, parts, y, x0, x1);
  if (!shown.whole || count < kSize) {
#pragma unroll 1
    for (i32 c = 0; c < kPlanes; ++c) {
      Vector<T> vector{};
#pragma unroll 1
      for (i32 i = 0; i < count; ++i) {
        const float value = row_element<kInterleaved>(p, parts, (i32)b, y, first + i, c);
        if (kWide)
          vector.push(element_bits(T{}, value));
        else
          store_element(out + c * plane_size + i, value);
      }
      if (kWide) vector.store(out + c * plane_size);
    }
    return;
  }

  float values[kPlanes * kSize];
#pragma unroll
  for (i32 i = 0; i < kPlanes * kSize; ++i) values[i] = 0.0f;
  const i32 channel = kInterleaved ? first - 3 * x0 : 0;
  bool covered = false;
#pragma unroll 1
  for (i32 k = shown.first; k < shown.last; ++k) {
    const ComposePart part = parts[k];
    if (is_empty(part.region)) continue;
    covered = true;
    const float weight = p.mode == kBlend ? part.weight : 1.0f;
    if (kInterleaved)
      add_interleaved<kSize>(part, y, x0, channel, weight, values);
    else
      add_pixels<kSize>(part, y, x0, weight, values);
  }

  // The channel of element i is (channel + i) % 3: turned once, then known at compile time.
  float scale[3], bias[3];
#pragma unroll
  for (i32 c = 0; c < 3; ++c) {
    const i32 turned = channel + c < 3 ? channel + c : channel + c - 3;
    scale[c] = of_channel(p.scale, turned);
    bias[c] = of_channel(p.bias, turned);
  }
#pragma unroll
  for (i32 c = 0; c < kPlanes; ++c) {
    float* plane = values + c * kSize;
#pragma unroll
    for (i32 i = 0; i < kSize; ++i) {
      const i32 turned = kInterleaved ? i % 3 : c;
      plane[i] = covered ? fused_multiply_add(plane[i], scale[turned], bias[turned]) : 0.0f;
    }
    T* to = out + c * plane_size;
    if (kWide) {
      pack(T{}, plane).store(to);
    } else {
#pragma unroll
      for (i32 i = 0; i < kSize; ++i) store_element(to + i, plane[i]);
    }
  }
}

}  // namespace mixpipe

// 4 blocks of 256 threads leave each thread 64 registers, which halves no device's occupancy.
#define MIXPIPE_COMPOSE(name, T, interleaved, wide)                         \
  extern "C" __global__ void __launch_bounds__(mixpipe::kComposeThreads, 4) \
      compose_##name(const mixpipe::ComposeParams params) {                 \
    mixpipe::compose_thread<T, interleaved, wide>(params);                  \
  }
#define MIXPIPE_COMPOSE_FORMS(dtype, T)                 \
  MIXPIPE_COMPOSE(dtype##_nchw_wide, T, false, true)    \
  MIXPIPE_COMPOSE(dtype##_nchw_narrow, T, false, false) \
  MIXPIPE_COMPOSE(dtype##_nhwc_wide, T, true, true)     \
  MIXPIPE_COMPOSE(dtype##_nhwc_narrow, T, true, false)

MIXPIPE_COMPOSE_FORMS(f32, float)
MIXPIPE_COMPOSE_FORMS(f16, mixpipe::Half)
MIXPIPE_COMPOSE_FORMS(bf16, mixpipe::BFloat16)
