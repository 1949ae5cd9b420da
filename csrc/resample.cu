// compose_resampled on the GPU. A block makes a tile of the result, part by part. First it sums
// rows: for each row of the tile, and each byte of the rectangle's rows that any of its pixels
// needs, the sum over the row's taps goes to shared memory. Then each thread sums those over the
// columns' taps of its pixels. The rectangle is read in words, a byte once for each row it adds to.
// Where a part is made so much smaller that a tile needs more columns, or a row more taps, than
// there is room for, it takes them in turn. The tile goes through shared memory, to be stored in
// vectors of 16 bytes.
#include "device.h"
#include "resample.h"

namespace mixpipe {

constexpr i32 kSpanColumns = 80;  // columns of a rectangle summed at a time
constexpr i32 kSpanBytes = 3 * kSpanColumns;
constexpr i32 kStripWords = 4, kStripBytes = 4 * kStripWords;  // what a thread sums at a time
constexpr i32 kTapsTogether = 8;                               // of a row, summed at a time

struct ResampleShared {
  float sums[kTileRows * kSpanBytes];
  float row_weights[kTileRows * kTapsTogether];
  float row_norms[kTileRows], column_norms[kTileColumns];  // tap_norm()
  i32 row_offsets[kTileRows];                              // bytes to the row of the first tap
};

// Where a part shows in a tile, in pixels of the canvas.
__device__ inline Region shown_in_tile(const Region& r, i32 y0, i32 x0) {
  return {max_i32(r.y0, y0), max_i32(r.x0, x0), min_i32(r.y1, y0 + kTileRows),
          min_i32(r.x1, x0 + kTileColumns)};
}

// sums[kStripBytes] += the weighted bytes from `offset` on of `count` rows. kInside: all that is
// read lies in the memory.
template <bool kInside>
__device__ inline void sum_rows(const u8* memory, i32 size, i32 row_stride, i32 offset,
                                const float* weights, i32 count, float* sums) {
#pragma unroll(kInside ? 2 : 1)
  for (i32 tap = 0; tap < count; ++tap) {
    u32 words[kStripWords];
    if constexpr (kInside)
      load_words<kStripWords>(memory + offset, words);
    else
      load_bytes<kStripWords>(memory, offset, size, words);
    offset += row_stride;
    const float weight = weights[tap];
#pragma unroll
    for (i32 i = 0; i < kStripBytes; ++i)
      sums[i] = fused_multiply_add(weight, byte_value(words, i), sums[i]);
  }
}

// The same in shared memory: a strip of a row, from byte `first` on, over `count` taps from tap
// `tap` on. Those before it are summed already.
__device__ inline void sum_strip(const ResamplePart& part, i32 row_offset, i32 first, i32 tap,
                                 i32 count, const float* weights, float* strip) {
  float sums[kStripBytes];
  float4* stored = reinterpret_cast<float4*>(strip);
#pragma unroll
  for (i32 i = 0; i < kStripBytes; ++i) sums[i] = 0.0f;
  if (tap > 0) {
#pragma unroll
    for (i32 i = 0; i < kStripBytes; ++i) sums[i] = strip[i];
  }
  const i32 row_stride = part.row_stride, row_bytes = 3 * (part.x.last + part.x.taps);
  const i32 size = (part.y.last + part.y.taps - 1) * row_stride + row_bytes;
  const i32 offset = row_offset + tap * row_stride + first;
  const u8* memory = part.pixels;
  if (offset >= 3 && offset + (count - 1) * row_stride + 4 * (kStripWords + 1) <= size)
    sum_rows<true>(memory, size, row_stride, offset, weights, count, sums);
  else
    sum_rows<false>(memory, size, row_stride, offset, weights, count, sums);
#pragma unroll
  for (i32 i = 0; i < kStripWords; ++i) {
    float4 four;
    four.x = sums[4 * i];
    four.y = sums[4 * i + 1];
    four.z = sums[4 * i + 2];
    four.w = sums[4 * i + 3];
    stored[i] = four;
  }
}

// Adds a part to the pixels of the tile at (y0, x0) that show it: weight * value, to this thread's
// sums, channel c of pixel i at [i * kPixelStep + c * kChannelStep]. All threads of a block call.
template <i32 kPixelStep, i32 kChannelStep>
__device__ inline void add_part(const ResamplePart& part, i32 y0, i32 x0, const bool* shows,
                                float weight, ResampleShared& shared, float* sums) {
  const Region shown = shown_in_tile(part.region, y0, x0);
  const i32 thread = (i32)threadIdx.x, row_taps = part.y.taps;
  __syncthreads();  // behind the part before
  if (thread < kTileRows + kTileColumns) {
    const bool row = thread < kTileRows;
    const ResampleAxis axis = row ? part.y : part.x;
    const i32 at = row ? y0 + thread : x0 + thread - kTileRows;
    if (row ? at >= shown.y0 && at < shown.y1 : at >= shown.x0 && at < shown.x1) {
      float& norm = row ? shared.row_norms[thread] : shared.column_norms[thread - kTileRows];
      const Taps taps = taps_at(axis, at);
      norm = tap_norm(axis, taps);
      if (row) shared.row_offsets[thread] = taps.first * part.row_stride;
    }
  }
  // The columns of the rectangle that the tile needs.
  const ResampleAxis columns = part.x;
  const i32 left = columns.step > 0 ? shown.x0 : shown.x1 - 1;
  const i32 right = columns.step > 0 ? shown.x1 - 1 : shown.x0;
  const i32 first = taps_at(columns, left).first;
  const i32 last = taps_at(columns, right).first + columns.taps;

  const i32 column = thread % kTileColumns;
  const i32 row = thread / kTileColumns * kThreadPixels;
  bool any = false;
#pragma unroll
  for (i32 i = 0; i < kThreadPixels; ++i) any |= shows[i];
  const Taps across = taps_at(columns, x0 + column);
  float value[kThreadPixels][3];
#pragma unroll
  for (i32 i = 0; i < 3 * kThreadPixels; ++i) value[i / 3][i % 3] = 0.0f;
#pragma unroll 1
  for (i32 begin = first; begin < last; begin += kSpanColumns) {
    const i32 end = min_i32(begin + kSpanColumns, last);
    const i32 strips = ceil_div(3 * (end - begin), kStripBytes);
#pragma unroll 1
    for (i32 tap = 0; tap < row_taps; tap += kTapsTogether) {
      __syncthreads();
      const i32 count = min_i32(row_taps - tap, kTapsTogether);
      const i32 weighed = y0 + thread / kTapsTogether;
      if (thread < kTileRows * kTapsTogether && weighed >= shown.y0 && weighed < shown.y1) {
        const ResampleAxis rows = part.y;
        shared.row_weights[thread] =
            tap_weight(rows, taps_at(rows, weighed), tap + thread % kTapsTogether) *
            shared.row_norms[weighed - y0];
      }
      __syncthreads();
      // Threads take strips of all rows in turn.
      i32 strip = thread, y = shown.y0;
#pragma unroll 1
      while (true) {
        while (strip >= strips && y < shown.y1) {
          strip -= strips;
          ++y;
        }
        if (y >= shown.y1) break;
        const i32 byte = strip * kStripBytes;
        sum_strip(part, shared.row_offsets[y - y0], 3 * begin + byte, tap, count,
                  shared.row_weights + (y - y0) * kTapsTogether,
                  shared.sums + (y - y0) * kSpanBytes + byte);
        strip += kResampleThreads;
      }
    }
    __syncthreads();
    if (any) {
      const float norm = shared.column_norms[column];
      const i32 tap_end = min_i32(across.first + columns.taps, end);
      const float* from = shared.sums + row * kSpanBytes - 3 * begin;
#pragma unroll 2
      for (i32 j = max_i32(across.first, begin); j < tap_end; ++j) {
        const float tap = tap_weight(columns, across, j - across.first) * norm;
#pragma unroll
        for (i32 i = 0; i < kThreadPixels; ++i)
#pragma unroll
          for (i32 c = 0; c < 3; ++c)
            if (shows[i])
              value[i][c] = fused_multiply_add(tap, from[i * kSpanBytes + 3 * j + c], value[i][c]);
      }
    }
  }
#pragma unroll
  for (i32 i = 0; i < kThreadPixels; ++i)
#pragma unroll
    for (i32 c = 0; c < 3; ++c)
      if (shows[i]) {
        float& sum = sums[i * kPixelStep + c * kChannelStep];
        sum = fused_multiply_add(weight, value[i][c], sum);
      }
}

template <class T, bool kInterleaved, bool kWide>
__device__ inline void resample_tile(const ResampleParams& p) {
  // Rows of the result that a tile holds, and elements of each: of whole pixels, or 3 planes'.
  constexpr i32 kRows = kInterleaved ? kTileRows : 3 * kTileRows;
  constexpr i32 kElements = kInterleaved ? 3 * kTileColumns : kTileColumns;
  constexpr i32 kSize = Vector<T>::kSize, kVectors = kElements / kSize;
  __shared__ __align__(16) ResampleShared shared;  // its sums are stored in fours
  __shared__ __align__(16) float tile[kRows * kElements];

  const u32 block = blockIdx.x, b = divide(block, p.by_blocks_per_composite);
  const u32 index = block - b * (u32)p.blocks_per_composite;
  const u32 tile_row = divide(index, p.by_pieces_per_row);
  const i32 y0 = (i32)tile_row * kTileRows;
  const i32 x0 = (i32)(index - tile_row * (u32)p.pieces_per_row) * kTileColumns;
  const i32 column = (i32)threadIdx.x % kTileColumns;
  const i32 row = (i32)threadIdx.x / kTileColumns * kThreadPixels, x = x0 + column;

  const ResamplePart* parts = p.parts + b * (u32)p.constituents;
  constexpr i32 kPixelStep = kElements, kChannelStep = kInterleaved ? 1 : kTileRows * kElements;
  float* sums = tile + row * kElements + (kInterleaved ? 3 * column : column);
  i32 part[kThreadPixels];
#pragma unroll
  for (i32 i = 0; i < kThreadPixels; ++i) {
    const i32 y = y0 + row + i;
    part[i] = -1;
    if (p.mode == kIndexMap) {
      if (y < p.height && x < p.width) part[i] = part_at(p, parts, (i32)b, y, x);
    } else {
#pragma unroll 1
      for (i32 k = 0; k < p.constituents; ++k) {
        const Region r = parts[(u32)k].region;
        part[i] = contains(r, y, x) ? k : part[i];
      }
    }
  }
#pragma unroll
  for (i32 i = 0; i < 3 * kThreadPixels; ++i)
    sums[i / 3 * kPixelStep + i % 3 * kChannelStep] = 0.0f;
#pragma unroll 1
  for (i32 k = 0; k < p.constituents; ++k) {
    const Region r = shown_in_tile(parts[k].region, y0, x0);
    if (is_empty(r)) continue;  // the same for the whole block
    bool shows[kThreadPixels];
#pragma unroll
    for (i32 i = 0; i < kThreadPixels; ++i)
      shows[i] = p.mode == kBlend ? part[i] >= 0 : part[i] == k;
    const float weight = p.mode == kBlend ? parts[k].weight : 1.0f;
    add_part<kPixelStep, kChannelStep>(parts[k], y0, x0, shows, weight, shared, sums);
  }
#pragma unroll
  for (i32 i = 0; i < kThreadPixels; ++i) {
#pragma unroll
    for (i32 c = 0; c < 3; ++c) {
      float& sum = sums[i * kPixelStep + c * kChannelStep];
      sum = part[i] >= 0 ? fused_multiply_add(sum, p.scale[c], p.bias[c]) : 0.0f;
    }
  }
  __syncthreads();

  const i32 row_size = kInterleaved ? 3 * p.width : p.width;
  const i32 first = kInterleaved ? 3 * x0 : x0;
  const i32 plane_size = p.height * p.width;
  T* out = (T*)p.out + (i64)b * 3 * plane_size;
#pragma unroll 1
  for (i32 i = (i32)threadIdx.x; i < kRows * kVectors; i += kResampleThreads) {
    const i32 stored = i / kVectors, plane = stored / kTileRows;
    const i32 y = y0 + stored - plane * kTileRows, element = first + i % kVectors * kSize;
    if (y >= p.height || element >= row_size) continue;
    T* to = out + (u32)(plane * plane_size + y * row_size + element);
    const float* from = tile + i * kSize;
    if (kWide) {
      pack(T{}, from).store(to);
    } else {
      const i32 count = min_i32(kSize, row_size - element);
#pragma unroll 1
      for (i32 e = 0; e < count; ++e) store_element(to + e, from[e]);
    }
  }
}

}  // namespace mixpipe

// 4 blocks of 256 threads leave each thread 64 registers: at least half of any device's occupancy.
#define MIXPIPE_RESAMPLE(name, T, interleaved, wide)                         \
  extern "C" __global__ void __launch_bounds__(mixpipe::kResampleThreads, 4) \
      compose_resampled_##name(const mixpipe::ResampleParams params) {       \
    mixpipe::resample_tile<T, interleaved, wide>(params);                    \
  }
#define MIXPIPE_RESAMPLE_FORMS(dtype, T)                 \
  MIXPIPE_RESAMPLE(dtype##_nchw_wide, T, false, true)    \
  MIXPIPE_RESAMPLE(dtype##_nchw_narrow, T, false, false) \
  MIXPIPE_RESAMPLE(dtype##_nhwc_wide, T, true, true)     \
  MIXPIPE_RESAMPLE(dtype##_nhwc_narrow, T, true, false)

MIXPIPE_RESAMPLE_FORMS(f32, float)
MIXPIPE_RESAMPLE_FORMS(f16, mixpipe::Half)
MIXPIPE_RESAMPLE_FORMS(bf16, mixpipe::BFloat16)
