// mix_ on the GPU. A thread owns one vector of 16 bytes (or one element, where rows are not made of
// whole vectors) at the same place in every image of a chain, and works through the chain's links
// in order: what it reads, no other thread writes.
#include "device.h"
#include "mix.h"

namespace mixpipe {

// What a thread owns in one image: a vector, or a single element with the same interface.
template <class T, bool kWide>
struct Piece : Vector<T> {};

template <class T>
struct Piece<T, false> {
  static constexpr i32 kSize = 1;
  T element;
  __device__ void load(const T* from) { element = *from; }
  __device__ void store(T* to) const { *to = element; }
};

template <class T>
__device__ inline void unpack(const Piece<T, false>& piece, float* values) {
  values[0] = load_element(&piece.element);
}
template <class T, bool kWide>
__device__ inline Piece<T, kWide> pack_piece(const float* values) {
  Piece<T, kWide> piece;
  if constexpr (kWide)
    static_cast<Vector<T>&>(piece) = pack(T{}, values);
  else
    store_element(&piece.element, values[0]);
  return piece;
}

// Elements [begin, end) of `from`, the others of `to`.
template <class T>
__device__ inline Piece<T, true> merge(const Piece<T, true>& from, const Piece<T, true>& to,
                                       i32 begin, i32 end) {
  constexpr i32 kPerWord = 4 / (i32)sizeof(T);
  Piece<T, true> merged;
#pragma unroll
  for (i32 w = 0; w < 4; ++w) {
    u32 mask = 0;
#pragma unroll
    for (i32 i = 0; i < kPerWord; ++i) {
      const i32 element = w * kPerWord + i;
      if (element >= begin && element < end)
        mask |= (kPerWord == 1 ? 0xffffffffu : 0xffffu) << (16 * i);
    }
    merged.words[w] = (from.words[w] & mask) | (to.words[w] & ~mask);
  }
  return merged;
}
template <class T>
__device__ inline Piece<T, false> merge(const Piece<T, false>& from, const Piece<T, false>&, i32,
                                        i32) {
  return from;
}

// Whether a link's box holds any of the elements [first, first + size) of row y. Without branches:
// the link comes in two loads, not one comparison after the other.
__device__ inline bool shows(const MixLink& link, i32 y, i32 first, i32 size, i32 together) {
  return (y >= link.box.y0) & (y < link.box.y1) & (first < link.box.x1 * together) &
         (first + size > link.box.x0 * together);
}

// Executes one link, whose source is at hand.
template <class T, class P>
__device__ inline void mix_link(const MixLink& link, P source, bool blend, i32 first, i32 together,
                                T* to) {
  const i32 begin = max_i32(link.box.x0 * together - first, 0);
  const i32 end = min_i32(link.box.x1 * together - first, P::kSize);
  P target;
  if (blend) {
    target.load(to);
    float own[P::kSize], other[P::kSize];
    unpack(target, own);
    unpack(source, other);
#pragma unroll
    for (i32 i = 0; i < P::kSize; ++i)
      own[i] = fused_multiply_add(other[i], 1.0f - link.weight, own[i] * link.weight);
    source = pack_piece<T, (P::kSize > 1)>(own);
  } else if (end - begin < P::kSize) {
    target.load(to);
    source = merge(source, target, begin, end);
  }
  source.store(to);
}

constexpr i32 kAhead = 4;

template <class T, bool kWide>
__device__ inline void mix_thread(const MixParams& p) {
  using P = Piece<T, kWide>;
  const u32 block = blockIdx.x, c = divide(block, p.by_blocks_per_chain);
  const u32 index = (block - c * (u32)p.blocks_per_chain) * kMixThreads + threadIdx.x;
  const u32 row = divide(index, p.by_vectors_per_row);
  if (row >= (u32)p.rows) return;
  const i32 y = (i32)(row - divide(row, p.by_height) * (u32)p.height);
  const i32 first = (i32)(index - row * (u32)p.vectors_per_row) * P::kSize;
  const MixChain chain = p.chains[c];
  const i32 together = p.channels_together;
  if (y < chain.bounds.y0 || y >= chain.bounds.y1 || first >= chain.bounds.x1 * together ||
      first + P::kSize <= chain.bounds.x0 * together)
    return;
  const MixLink* links = p.links + chain.first;
  const i64 image_size = image_elements(p);
  T* images = (T*)p.images + ((i64)row * p.row_elements + first);

  if (p.mode == kBlendGroup) {
    float sums[P::kSize];
#pragma unroll
    for (i32 i = 0; i < P::kSize; ++i) sums[i] = 0.0f;
#pragma unroll 1
    for (i32 k = 0; k < chain.count; ++k) {
      const float weight = links[k].weight;
      P source;
      source.load(images + links[k].source * image_size);
      float values[P::kSize];
      unpack(source, values);
#pragma unroll
      for (i32 i = 0; i < P::kSize; ++i) sums[i] = fused_multiply_add(values[i], weight, sums[i]);
    }
    pack_piece<T, kWide>(sums).store(images + links[0].target * image_size);
    return;
  }

  // What the first image was, for the link that closes a cycle.
  P saved{};
  if (chain.cyclic && shows(links[chain.count - 1], y, first, P::kSize, together))
    saved.load(images + links[0].target * image_size);
  // kAhead links at a time, so that their sources are on the way together: a cycle through a batch
  // is one long chain, and link after link the latency of memory would be its time. No link's
  // source is an earlier link's target, but for that which closes a cycle, which was saved.
#pragma unroll 1
  for (i32 k = 0; k < chain.count; k += kAhead) {
    P sources[kAhead];
    bool shown[kAhead];
#pragma unroll
    for (i32 i = 0; i < kAhead; ++i) {
      sources[i] = saved;
      shown[i] = false;
      if (k + i >= chain.count) continue;
      const MixLink link = links[k + i];
      shown[i] = shows(link, y, first, P::kSize, together);
      if (shown[i] && k + i < chain.count - chain.cyclic)
        sources[i].load(images + link.source * image_size);
    }
#pragma unroll
    for (i32 i = 0; i < kAhead; ++i)
      if (shown[i])
        mix_link<T>(links[k + i], sources[i], p.mode == kBlendCycle, first, together,
                    images + links[k + i].target * image_size);
  }
}

}  // namespace mixpipe

#define MIXPIPE_MIX(name, T, wide)                                   \
  extern "C" __global__ void __launch_bounds__(mixpipe::kMixThreads) \
      mix_##name(const mixpipe::MixParams params) {                  \
    mixpipe::mix_thread<T, wide>(params);                            \
  }

MIXPIPE_MIX(f32_wide, float, true)
MIXPIPE_MIX(f32_narrow, float, false)
MIXPIPE_MIX(f16_wide, mixpipe::Half, true)
MIXPIPE_MIX(f16_narrow, mixpipe::Half, false)
MIXPIPE_MIX(bf16_wide, mixpipe::BFloat16, true)
MIXPIPE_MIX(bf16_narrow, mixpipe::BFloat16, false)
