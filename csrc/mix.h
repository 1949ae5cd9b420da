// mix_: mixes an already loaded batch in place.
//
// The work is a list of chains. A chain is a list of links "image `target` takes from image
// `source`"; a chain's links are executed in order for each pixel by one thread, and no two chains
// touch the same image, so that nothing is read after another thread has overwritten it.
//
//   groups  [kB, ...] -> first B: chain b holds b <- B + b, b <- 2B + b, ...
//   cycles  N -> N by a permutation: chain c0 <- c1, c1 <- c2, ..., last <- what c0 was
//
// Cut: a link copies its box. Blend of a group: the weighted sum of the links' sources. Blend of a
// cycle: weight * target + (1 - weight) * source. Sums are fused multiply-adds in float32, rounded
// once.
#pragma once
#include "common.h"

namespace mixpipe {

enum MixMode : i32 { kCut = 0, kBlendGroup = 1, kBlendCycle = 2 };

struct alignas(16) MixLink {
  i32 target, source;
  float weight;  // of the source (group), of the target (cycle)
  i32 reserved;
  Region box;  // empty where nothing moves
};

struct alignas(16) MixChain {
  i32 first, count;  // its links
  i32 cyclic;        // 1: the last link takes what the first link's target was
  i32 reserved;
  Region bounds;  // holds every box of its links
};

struct MixParams {
  // data
  void* images;  // [N, C, H, W], dense NCHW or NHWC
  const MixChain* chains;
  const MixLink* links;
  // sizes
  i32 num_chains, channels, height, width;
  // form
  i32 mode, dtype, layout;
  i32 wide;  // 1: every vector of a row starts at a multiple of 16 bytes
  // launch
  i32 row_elements;       // elements of a row that lie together
  i32 rows;               // such rows an image has
  i32 channels_together;  // NHWC: all, NCHW: 1
  i32 vectors_per_row;
  i32 blocks_per_chain;
  Divisor by_vectors_per_row, by_blocks_per_chain, by_height;
};

constexpr i32 kMixThreads = 256;

// Fills what follows from sizes and form. A thread owns one vector of 16 bytes (or one element,
// where rows do not start at multiples of 16 bytes) of every image of its chain.
MIXPIPE_INLINE Geometry mix_prepare(MixParams& p) {
  const i32 vector = 16 / element_size(p.dtype);
  p.channels_together = p.layout == kNHWC ? p.channels : 1;
  p.row_elements = p.width * p.channels_together;
  p.rows = p.height * (p.layout == kNHWC ? 1 : p.channels);
  p.wide = p.row_elements % vector == 0 && (u64)p.images % 16 == 0;
  p.vectors_per_row = p.wide ? p.row_elements / vector : p.row_elements;
  p.blocks_per_chain = ceil_div(p.vectors_per_row * p.rows, kMixThreads);
  p.by_vectors_per_row = make_divisor((u32)p.vectors_per_row);
  p.by_blocks_per_chain = make_divisor((u32)p.blocks_per_chain);
  p.by_height = make_divisor((u32)p.height);
  return {(u32)p.num_chains * (u32)p.blocks_per_chain, (u32)kMixThreads, 0};
}

MIXPIPE_INLINE i64 image_elements(const MixParams& p) {
  return (i64)p.row_elements * p.rows;
}

}  // namespace mixpipe
