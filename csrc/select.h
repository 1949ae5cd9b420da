// select_lowest: which samples have the lowest losses, on the device of the loss table.
//
// A sample is ranked when it has been seen (epoch >= 0) and its loss is finite; its value is
// max(loss, 0). There are up to kMaxTiers thresholds at once, by one of three rules:
//
//   kMean    value <= factor * mean
//   kShare   the round(factor * ranked) samples that come first by (value, a hash of the id), so
//            that equal values are told apart at random and the count is exact
//   kBudget  value <= factor * scale * mean, with the largest scale for which
//            sum over tiers of saving * count stays at or below a target
//
// Launches: measure (ranked, mean), search once a bit of what is looked for, mark (the masks).
// All sums are of integers or in a fixed order, so that the result is the same each time.
#pragma once
#include "common.h"

namespace mixpipe {

constexpr i32 kMaxTiers = kMaxConstituents;

enum SelectRule : i32 { kMean = 0, kShare = 1, kBudget = 2 };

// Head of the result, zeros before the first launch; the masks follow it.
struct SelectState {
  u64 found[kMaxTiers];   // kShare: the last key taken; kBudget: the scale's bits, in found[0]
  u32 wanted[kMaxTiers];  // kShare: how many are taken
  u32 counts[kMaxTiers];  // of the candidate in hand, while searching
  u32 taken[kMaxTiers];   // the result: how many samples each mask holds
  float thresholds[kMaxTiers];
  double mean;
  u32 ranked;
  u32 finished_blocks;
};

struct SelectParams {
  const float* losses;  // [size]
  const i32* epochs;    // [size]
  SelectState* state;
  u32* masks;    // [tiers, words], bit i % 32 of word i / 32
  double* sums;  // [blocks], scratch
  i32 size, words;
  i32 rule, tiers;
  i32 bit;  // of the search
  u32 seed;
  double factors[kMaxTiers];
  double savings[kMaxTiers];
  double target;
};

constexpr i32 kSelectThreads = 256;
constexpr i32 kMostSelectBlocks = 512;

MIXPIPE_INLINE i32 select_words(i32 size) {
  return ceil_div(size, 32);
}

MIXPIPE_INLINE Geometry select_prepare(const SelectParams& p) {
  // A few samples a thread; a warp always takes 32 neighbours, which make one word of a mask.
  const i32 blocks = ceil_div(p.size, 4 * kSelectThreads);
  return {(u32)min_i32(blocks, kMostSelectBlocks), (u32)kSelectThreads, 0};
}

// Bits that a search has to find: of a key below 2^63, or of a float below infinity.
MIXPIPE_INLINE i32 select_search_bits(i32 rule) {
  return rule == kShare ? 63 : rule == kBudget ? 31 : 0;
}

MIXPIPE_INLINE bool is_ranked(const SelectParams& p, i32 i) {
  // Finite: the exponent is not all ones.
  return p.epochs[i] >= 0 && (float_bits(p.losses[i]) & 0x7f800000u) != 0x7f800000u;
}
MIXPIPE_INLINE float rank_value(const SelectParams& p, i32 i) {
  return p.losses[i] > 0.0f ? p.losses[i] : 0.0f;
}

// The largest float32 where it would be more; no sample is taken where it is below 0.
MIXPIPE_INLINE float as_threshold(double value) {
  const double most = 3.4028234663852886e38;
  return (float)(value < most ? value : most);
}

// A one-to-one map of 32-bit numbers (the finaliser of MurmurHash3).
MIXPIPE_INLINE u32 scramble(u32 x) {
  x ^= x >> 16;
  x *= 0x85ebca6bu;
  x ^= x >> 13;
  x *= 0xc2b2ae35u;
  return x ^ (x >> 16);
}

// Orders samples by value, then at random; no two samples have the same.
MIXPIPE_INLINE u64 rank_key(const SelectParams& p, i32 i) {
  return ((u64)float_bits(rank_value(p, i)) << 32) | scramble((u32)i ^ scramble(p.seed));
}

}  // namespace mixpipe
