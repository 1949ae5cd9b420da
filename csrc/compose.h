// compose: ragged uint8 HWC patches -> normalised composites [B, 3, H, W], in one pass.
//
//   out[b, c, y, x] = fmaf(pixel, scale[c], bias[c])   cast once at the store
//
// where pixel is the value of the last constituent whose region holds (y, x), or the weighted sum
// of all constituents (a blend), or that of the constituent an index map names. A pixel that no
// constituent covers is 0, the mean colour.
#pragma once
#include "common.h"

namespace mixpipe {

enum ComposeMode : i32 { kRegions = 0, kBlend = 1, kIndexMap = 2 };

// One constituent of one composite, ready to read: crop and mirror are already in the addresses.
// Parts are aligned so that a GPU loads four words at once.
struct alignas(16) ComposePart {
  const u8* pixels;   // the pixel shown at (region.y0, region.x0)
  i32 row_stride;     // bytes to the pixel below
  i32 column_stride;  // bytes to the pixel on the right: 3, or -3 when mirrored
  Region region;      // where it shows; empty: absent
  float weight;       // its share of a blend
};

// Part: a ComposePart, or what else can show in a region.
template <class Part>
struct CompositeParams {
  // data
  const Part* parts;    // [B, K]
  const u8* index_map;  // [B, H, W], kIndexMap only
  void* out;            // [B, 3, H, W] in the given layout, dense
  // sizes
  i32 batch, constituents, height, width;
  // form
  i32 mode, dtype, layout;
  i32 wide;  // 1: every vector of a row starts at a multiple of 16 bytes
  // arithmetic
  float scale[3], bias[3];
  // launch
  i32 pieces_per_row;  // tiles side by side
  i32 blocks_per_composite;
  Divisor by_pieces_per_row, by_blocks_per_composite;
};
using ComposeParams = CompositeParams<ComposePart>;

constexpr i32 kComposeThreads = 256;
// A warp's tile is so many pixels wide, and a vector's number of elements rows high: so only the
// few tiles across which a region's border runs have threads with more to do than others.
constexpr i32 kComposeColumns = 32;

// Elements of one 16-byte store, and pixels that a thread makes: three vectors, whatever the
// layout.
MIXPIPE_INLINE i32 compose_vector(i32 dtype) {
  return 16 / element_size(dtype);
}

// Fills what follows from sizes and form: vector width, divisors, geometry.
template <class Part>
MIXPIPE_INLINE Geometry compose_prepare(CompositeParams<Part>& p) {
  const i32 vector = compose_vector(p.dtype);
  const i32 row = p.layout == kNHWC ? 3 * p.width : p.width;
  p.wide = row % vector == 0 && (u64)p.out % 16 == 0;
  p.pieces_per_row = ceil_div(p.width, kComposeColumns);
  p.blocks_per_composite =
      ceil_div(p.pieces_per_row * ceil_div(p.height, vector), kComposeThreads / 32);
  p.by_pieces_per_row = make_divisor((u32)p.pieces_per_row);
  p.by_blocks_per_composite = make_divisor((u32)p.blocks_per_composite);
  return {(u32)p.batch * (u32)p.blocks_per_composite, (u32)kComposeThreads, 0};
}

MIXPIPE_INLINE const u8* part_pixel(const ComposePart& part, i32 y, i32 x) {
  return part.pixels + (y - part.region.y0) * part.row_stride +
         (x - part.region.x0) * part.column_stride;
}

// The constituent that shows at (y, x) of composite b, or -1.
template <class Part>
MIXPIPE_INLINE i32 part_at(const CompositeParams<Part>& p, const Part* parts, i32 b, i32 y, i32 x) {
  if (p.mode == kIndexMap) {
    const i32 k = p.index_map[(b * p.height + y) * p.width + x];
    return k < p.constituents && contains(parts[k].region, y, x) ? k : -1;
  }
  for (i32 k = p.constituents - 1; k >= 0; --k)
    if (contains(parts[k].region, y, x)) return k;
  return -1;
}

// A stretch of a row that shows one constituent, or none: part -1.
struct Run {
  i32 x0, x1, part;
};

// The run of row y that starts at x.
template <class Part>
MIXPIPE_INLINE Run run_at(const CompositeParams<Part>& p, const Part* parts, i32 b, i32 y, i32 x) {
  const i32 part = part_at(p, parts, b, y, x);
  if (p.mode == kIndexMap) {
    i32 end = x + 1;
    while (end < p.width && part_at(p, parts, b, y, end) == part) ++end;
    return {x, end, part};
  }
  // It ends where its constituent does or a later one begins.
  i32 end = part < 0 ? p.width : parts[part].region.x1;
  for (i32 k = part + 1; k < p.constituents; ++k) {
    const Region& r = parts[k].region;
    if (y >= r.y0 && y < r.y1 && r.x1 > r.x0 && r.x0 > x && r.x0 < end) end = r.x0;
  }
  return {x, end, part};
}

}  // namespace mixpipe
