// compose_resampled: decoded rectangles, uint8 HWC -> normalised composites [B, 3, H, W], in one
// pass and without patches in between.
//
// A part is a patch of compose that nobody has made: the window of a decoded rectangle as it would
// be after resampling to the patch's size. Where it shows,
//
//   value = sum_j wx[j] * (sum_i wy[i] * pixel[i][j])    fused multiply-adds in float32, ascending
//   out   = fmaf(value, scale[c], bias[c])               cast once at the store
//
// with the antialiased triangle filter of Pillow (Image.resize, BILINEAR) and torch (interpolate,
// antialias=True): a tap's weight falls linearly from the centre to nothing at a distance of one
// pixel of the patch, or of the source where that is larger, and the weights of the taps inside the
// rectangle add up to one. Nothing is rounded before the store.
#pragma once
#include "compose.h"

namespace mixpipe {

// How one axis of a patch is filtered from a rectangle.
struct ResampleAxis {
  float start, scale;          // the patch's pixel i is centred at start + (i + 0.5) * scale
  float reach, inverse_reach;  // the filter's half width, in pixels of the rectangle
  i32 taps;                    // pixels that a sum takes
  i32 last;                    // the last pixel that a sum may begin with
  i32 offset, step;            // canvas coordinate v shows the patch's pixel offset + step * v
};

struct alignas(16) ResamplePart {
  const u8* pixels;  // the rectangle
  i32 row_stride;    // bytes to the row below
  float weight;      // its share of a blend
  Region region;     // where it shows; empty: absent
  ResampleAxis y, x;
};

using ResampleParams = CompositeParams<ResamplePart>;

// A block makes a tile of the result, a thread kThreadPixels of it, one below another.
constexpr i32 kTileRows = 16, kTileColumns = 32, kResampleThreads = 256;
constexpr i32 kThreadPixels = kTileRows * kTileColumns / kResampleThreads;

// Fills what follows from sizes and form, as compose_prepare does for patches.
MIXPIPE_INLINE Geometry compose_prepare(ResampleParams& p) {
  const i32 row = p.layout == kNHWC ? 3 * p.width : p.width;
  p.wide = row % compose_vector(p.dtype) == 0 && (u64)p.out % 16 == 0;
  p.pieces_per_row = ceil_div(p.width, kTileColumns);
  p.blocks_per_composite = p.pieces_per_row * ceil_div(p.height, kTileRows);
  p.by_pieces_per_row = make_divisor((u32)p.pieces_per_row);
  p.by_blocks_per_composite = make_divisor((u32)p.blocks_per_composite);
  return {(u32)p.batch * (u32)p.blocks_per_composite, (u32)kResampleThreads, 0};
}

// A sum over pixels first, first + 1, ... with the weights of tap_weight() times tap_norm().
struct Taps {
  float centre;
  i32 first;
};

// `window` is [low, high) of `extent` pixels of the rectangle, resampled to `size`; canvas pixels
// from `shown` on show the patch's from `origin` on: `count` of them, mirrored or not.
MIXPIPE_INLINE ResampleAxis make_axis(float low, float high, i32 extent, i32 size, i32 origin,
                                      i32 shown, i32 count, bool mirrored) {
  ResampleAxis axis{};
  axis.start = low;
  axis.scale = (float)(((double)high - (double)low) / size);
  axis.reach = axis.scale > 1.0f ? axis.scale : 1.0f;
  axis.inverse_reach = 1.0f / axis.reach;
  i32 taps = (i32)(2.0f * axis.reach);
  if ((float)taps < 2.0f * axis.reach) ++taps;
  axis.taps = min_i32(taps, extent);
  axis.last = extent - axis.taps;
  axis.step = mirrored ? -1 : 1;
  axis.offset = mirrored ? origin + count - 1 + shown : origin - shown;
  return axis;
}

MIXPIPE_INLINE Taps taps_at(const ResampleAxis& axis, i32 v) {
  const float position = (float)(axis.offset + axis.step * v) + 0.5f;
  Taps taps;
  taps.centre = fused_multiply_add(position, axis.scale, axis.start);
  // The first pixel whose own centre is nearer than the reach; it may lie outside.
  const i32 first = (i32)(taps.centre - axis.reach + 0.5f);
  taps.first = min_i32(max_i32(first, 0), axis.last);
  return taps;
}

// Not yet divided by the sum over all taps.
MIXPIPE_INLINE float tap_weight(const ResampleAxis& axis, const Taps& taps, i32 tap) {
  const float distance = (float)(taps.first + tap) + 0.5f - taps.centre;
  const float weight =
      fused_multiply_add(distance < 0.0f ? distance : -distance, axis.inverse_reach, 1.0f);
  return weight > 0.0f ? weight : 0.0f;
}

// 1 / the sum of the weights.
MIXPIPE_INLINE float tap_norm(const ResampleAxis& axis, const Taps& taps) {
  float sum = 0.0f;
  for (i32 tap = 0; tap < axis.taps; ++tap) sum += tap_weight(axis, taps, tap);
  return 1.0f / sum;
}

}  // namespace mixpipe
