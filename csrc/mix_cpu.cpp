// mix_ on the CPU: whole stretches of rows are moved or summed, and only a box's bytes are touched.
#include <string.h>

#include <vector>

#include "cpu.h"
#include "parallel.h"
#include "simd.h"

namespace mixpipe {
namespace MIXPIPE_ISA {
namespace {

// One row of one chain, in all of the chain's images.
template <class T>
class ChainRow {
 public:
  explicit ChainRow(const MixParams& params)
      : p_(params),
        saved_(params.row_elements),
        sums_(params.mode == kBlendGroup ? params.row_elements : 0) {}

  void mix(const MixChain& chain, i32 row) {
    const i32 y = row % p_.height;
    if (y < chain.bounds.y0 || y >= chain.bounds.y1) return;
    row_ = row;
    y_ = y;
    const MixLink* links = p_.links + chain.first;
    if (p_.mode == kBlendGroup) return sum(links, chain.count);
    const MixLink& last = links[chain.count - 1];
    if (chain.cyclic && shows(last)) {
      const i32 begin = last.box.x0 * p_.channels_together;
      memcpy((void*)(saved_.data() + begin), at(links[0].target) + begin, bytes(last));
    }
    for (i32 i = 0; i < chain.count; ++i) {
      const bool from_saved = chain.cyclic && i == chain.count - 1;
      if (shows(links[i])) take(links[i], from_saved ? saved_.data() : at(links[i].source));
    }
  }

 private:
  T* at(i32 image) {
    return (T*)p_.images + image * image_elements(p_) + (i64)row_ * p_.row_elements;
  }
  bool shows(const MixLink& link) const { return y_ >= link.box.y0 && y_ < link.box.y1; }
  i32 elements(const MixLink& link) const {
    return (link.box.x1 - link.box.x0) * p_.channels_together;
  }
  u64 bytes(const MixLink& link) const { return elements(link) * sizeof(T); }

  void take(const MixLink& link, const T* source) {
    const i32 begin = link.box.x0 * p_.channels_together, n = elements(link);
    T* to = at(link.target) + begin;
    const T* from = source + begin;
    if (p_.mode == kCut) {
      memcpy((void*)to, from, bytes(link));
      return;
    }
    const float own = link.weight, other = 1.0f - link.weight;
    i32 i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const F8 kept = multiply(load8(to + i), broadcast8(own));
      store(to + i, fma(load8(from + i), broadcast8(other), kept));
    }
    for (; i < n; ++i)
      store_element(to + i,
                    fused_multiply_add(load_element(from + i), other, load_element(to + i) * own));
  }

  void sum(const MixLink* links, i32 count) {
    const i32 n = p_.row_elements;
    for (i32 k = 0; k < count; ++k) {
      const T* from = at(links[k].source);
      const F8 w = broadcast8(links[k].weight);
      float* sums = sums_.data();
      i32 i = 0;
      for (; i + kLanes <= n; i += kLanes) {
        const F8 before = k == 0 ? broadcast8(0.0f) : load8(sums + i);
        store(sums + i, fma(load8(from + i), w, before));
      }
      for (; i < n; ++i)
        sums[i] =
            fused_multiply_add(load_element(from + i), links[k].weight, k == 0 ? 0.0f : sums[i]);
    }
    T* to = at(links[0].target);
    i32 i = 0;
    for (; i + kLanes <= n; i += kLanes) store(to + i, load8(sums_.data() + i));
    for (; i < n; ++i) store_element(to + i, sums_[i]);
  }

  const MixParams& p_;
  std::vector<T> saved_;
  std::vector<float> sums_;
  i32 row_ = 0, y_ = 0;
};

template <class T>
void mix_as(const MixParams& p, int threads) {
  const i64 grain = 1 + 16384 / p.row_elements;
  parallel_for((i64)p.num_chains * p.rows, grain, threads, [&](i64 begin, i64 end) {
    ChainRow<T> chain_row(p);
    for (i64 i = begin; i < end; ++i) chain_row.mix(p.chains[i / p.rows], (i32)(i % p.rows));
  });
}

}  // namespace

void mix_cpu(const MixParams& p, int threads) {
  if (p.dtype == kFloat32) return mix_as<float>(p, threads);
  if (p.dtype == kFloat16) return mix_as<Half>(p, threads);
  mix_as<BFloat16>(p, threads);
}

}  // namespace MIXPIPE_ISA
}  // namespace mixpipe
