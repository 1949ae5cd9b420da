// compose_resampled on the GPU. A block makes a tile of 32 x 8 pixels, a thread one of them: the
// lanes of a warp read neighbouring stretches of the same rows of a rectangle, which the L1 cache
// keeps while their taps overlap. The tile goes through shared memory, so that it is stored in
// vectors of 16 bytes.
#include "device.h"
#include "resample.h"

namespace mixpipe {

// sums[c] += weight * value of channel c, where the part shows at (y, x). The weights are computed
// where they are used: a table of them would have to be indexed at run time.
__device__ inline void add_resampled(const ResamplePart& part, i32 y, i32 x, float weight,
                                     float* sums) {
  const ResampleAxis rows = part.y, columns = part.x;
  const Taps down = taps_at(rows, y), across = taps_at(columns, x);
  const float norm_down = tap_norm(rows, down), norm_across = tap_norm(columns, across);
  const u8* top = part.pixels + down.first * part.row_stride + 3 * across.first;
  float value[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll 1
  for (i32 j = 0; j < columns.taps; ++j, top += 3) {
    const u8* pixel = top;
    float column[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll 2
    for (i32 i = 0; i < rows.taps; ++i, pixel += part.row_stride) {
      const float tap = tap_weight(rows, down, i) * norm_down;
#pragma unroll
      for (i32 c = 0; c < 3; ++c) column[c] = fused_multiply_add(tap, (float)pixel[c], column[c]);
    }
    const float tap = tap_weight(columns, across, j) * norm_across;
#pragma unroll
    for (i32 c = 0; c < 3; ++c) value[c] = fused_multiply_add(tap, column[c], value[c]);
  }
#pragma unroll
  for (i32 c = 0; c < 3; ++c) sums[c] = fused_multiply_add(weight, value[c], sums[c]);
}

template <class T, bool kInterleaved, bool kWide>
__device__ inline void resample_tile(const ResampleParams& p) {
  // Rows of the result that a tile holds, and elements of each: 8 of whole pixels, or 3 x 8
  // planes'.
  constexpr i32 kRows = kInterleaved ? kTileRows : 3 * kTileRows;
  constexpr i32 kElements = kInterleaved ? 3 * kTileColumns : kTileColumns;
  constexpr i32 kSize = Vector<T>::kSize, kVectors = kElements / kSize;
  static_assert(kRows * kVectors <= kResampleThreads, "a thread stores one vector");
  __shared__ __align__(16) float tile[kRows * kElements];

  const u32 block = blockIdx.x, b = divide(block, p.by_blocks_per_composite);
  const u32 index = block - b * (u32)p.blocks_per_composite;
  const u32 tile_row = divide(index, p.by_pieces_per_row);
  const i32 y0 = (i32)tile_row * kTileRows;
  const i32 tile_column = (i32)(index - tile_row * (u32)p.pieces_per_row);
  const i32 row = (i32)threadIdx.x / kTileColumns, column = (i32)threadIdx.x % kTileColumns;
  const i32 y = y0 + row, x = tile_column * kTileColumns + column;

  if (y < p.height && x < p.width) {
    const ResamplePart* parts = p.parts + b * (u32)p.constituents;
    const i32 shown = p.mode == kBlend ? 0 : part_at(p, parts, (i32)b, y, x);
    const i32 last = p.mode == kBlend ? p.constituents : shown + 1;
    float sums[3] = {0.0f, 0.0f, 0.0f};
    bool covered = false;
#pragma unroll 1
    for (i32 k = max_i32(shown, 0); k < last; ++k) {
      if (is_empty(parts[k].region)) continue;
      covered = true;
      add_resampled(parts[k], y, x, p.mode == kBlend ? parts[k].weight : 1.0f, sums);
    }
#pragma unroll
    for (i32 c = 0; c < 3; ++c) {
      const float value = covered ? fused_multiply_add(sums[c], p.scale[c], p.bias[c]) : 0.0f;
      if (kInterleaved)
        tile[row * kElements + 3 * column + c] = value;
      else
        tile[(c * kTileRows + row) * kElements + column] = value;
    }
  }
  __syncthreads();

  const i32 stored = (i32)threadIdx.x / kVectors;
  const i32 first = (i32)threadIdx.x % kVectors * kSize;
  const i32 plane = stored / kTileRows, out_y = y0 + stored - plane * kTileRows;
  const i32 row_size = kInterleaved ? 3 * p.width : p.width;
  const i32 element = tile_column * kElements + first;
  if (stored >= kRows || out_y >= p.height || element >= row_size) return;
  const i32 plane_size = p.height * p.width;
  T* to = (T*)p.out + (i64)b * 3 * plane_size + plane * plane_size + out_y * row_size + element;
  const float* from = tile + stored * kElements + first;
  if (kWide) {
    pack(T{}, from).store(to);
  } else {
    const i32 count = min_i32(kSize, row_size - element);
    for (i32 i = 0; i < count; ++i) store_element(to + i, from[i]);
  }
}

}  // namespace mixpipe

// 4 blocks of 256 threads leave each thread 64 registers, which halves no device's occupancy.
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
