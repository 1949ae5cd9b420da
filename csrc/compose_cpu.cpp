// compose on the CPU: rows are cut into runs that show one constituent, so that no pixel asks whose
// it is, and each run is converted eight elements at a time and stored once.
#include <string.h>

#include <vector>

#include "cpu.h"
#include "parallel.h"
#include "simd.h"

namespace mixpipe {
namespace MIXPIPE_ISA {
namespace {

// Results larger than this go around the caches: reading the lines that are about to be overwritten
// would cost as much as writing them.
constexpr i64 kStreamBytes = 4 << 20;

// Three vectors, after which the channels of an interleaved row repeat; longer by two elements, so
// that a run may begin at any channel.
constexpr i32 kPeriod = 3 * kLanes;
struct Pattern {
  float scale[kPeriod + 2], bias[kPeriod + 2];
};
// channel < 0: the three in turn.
Pattern make_pattern(const ComposeParams& p, i32 channel) {
  Pattern pattern;
  for (i32 i = 0; i < kPeriod + 2; ++i) {
    pattern.scale[i] = p.scale[channel < 0 ? i % 3 : channel];
    pattern.bias[i] = p.bias[channel < 0 ? i % 3 : channel];
  }
  return pattern;
}

template <bool kStream, class T>
MIXPIPE_INLINE void put8(T* to, F8 value) {
  if (kStream)
    stream(to, value);
  else
    store(to, value);
}

// Fewer elements than a vector has: nothing behind them is read or written.
template <class T, class Source>
void normalise_few(const Source* from, T* to, i32 n, const float* scale, const float* bias) {
  Source given[kLanes] = {};
  T result[kLanes];
  memcpy(given, from, n * sizeof(Source));
  store(result, fma(load8(given), load8(scale), load8(bias)));
  memcpy((void*)to, result, n * sizeof(T));
}

// to[i] = fmaf(from[i], scale[i + phase], bias[i + phase]) for n elements. Streaming, `to` starts
// at a multiple of 16 bytes and n is a multiple of the lanes.
template <bool kStream, class T, class Source>
void normalise(const Source* from, T* to, i32 n, const Pattern& pattern, i32 phase) {
  const i32 total = n;
  const float *scale = pattern.scale + phase, *bias = pattern.bias + phase;
  const F8 s0 = load8(scale), s1 = load8(scale + 8), s2 = load8(scale + 16);
  const F8 b0 = load8(bias), b1 = load8(bias + 8), b2 = load8(bias + 16);
  for (; n >= kPeriod; n -= kPeriod, from += kPeriod, to += kPeriod) {
    put8<kStream>(to, fma(load8(from), s0, b0));
    put8<kStream>(to + 8, fma(load8(from + 8), s1, b1));
    put8<kStream>(to + 16, fma(load8(from + 16), s2, b2));
  }
  i32 i = 0;
  for (; i + kLanes <= n; i += kLanes)
    put8<kStream>(to + i, fma(load8(from + i), load8(scale + i), load8(bias + i)));
  if (i == n) return;
  if (total < kLanes) return normalise_few(from, to, n, scale, bias);
  // The last vector again, as far back as it must begin; the pattern repeats every three elements.
  const i32 last = n - kLanes, turned = (last + kPeriod) % 3;
  store(to + last, fma(load8(from + last), load8(scale + turned), load8(bias + turned)));
}

// `last` is the pixel that comes first; the others lie before it.
void reverse_pixels(const u8* last, u8* to, i32 n) {
  const u8* from = last - 3 * (n - 1);
  i32 i = 0;
#if defined(MIXPIPE_AVX2)
  // Five pixels a shuffle, read in the order of memory, as prefetchers like it. A load takes the
  // byte behind its last pixel and a store puts one byte before its first, so both stay inside the
  // row until the last few pixels.
  const __m128i order = _mm_setr_epi8(15, 12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2);
  for (; i + 6 <= n; i += 5) {
    const __m128i pixels = _mm_loadu_si128((const __m128i*)(from + 3 * i));
    _mm_storeu_si128((__m128i*)(to + 3 * (n - 5 - i) - 1), _mm_shuffle_epi8(pixels, order));
  }
#endif
  for (; i < n; ++i) memcpy(to + 3 * (n - 1 - i), from + 3 * i, 3);
}

// Interleaved pixels to three planes, plane_stride bytes apart.
void split_planes(const u8* from, u8* to, i32 plane_stride, i32 n) {
  i32 i = 0;
#if defined(MIXPIPE_AVX2)
  const __m128i r0 = _mm_setr_epi8(0, 3, 6, 9, 12, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m128i r1 = _mm_setr_epi8(-1, -1, -1, -1, -1, -1, 2, 5, 8, 11, 14, -1, -1, -1, -1, -1);
  const __m128i r2 = _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1, 4, 7, 10, 13);
  const __m128i g0 = _mm_setr_epi8(1, 4, 7, 10, 13, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m128i g1 = _mm_setr_epi8(-1, -1, -1, -1, -1, 0, 3, 6, 9, 12, 15, -1, -1, -1, -1, -1);
  const __m128i g2 = _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 2, 5, 8, 11, 14);
  const __m128i b0 = _mm_setr_epi8(2, 5, 8, 11, 14, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m128i b1 = _mm_setr_epi8(-1, -1, -1, -1, -1, 1, 4, 7, 10, 13, -1, -1, -1, -1, -1, -1);
  const __m128i b2 = _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 3, 6, 9, 12, 15);
  const auto gather = [](__m128i a, __m128i b, __m128i c, __m128i x, __m128i y, __m128i z) {
    return _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(a, x), _mm_shuffle_epi8(b, y)),
                        _mm_shuffle_epi8(c, z));
  };
  while (i < n && n >= 16) {
    i = min_i32(i, n - 16);  // the last pixels again, with some before them
    const __m128i a = _mm_loadu_si128((const __m128i*)(from + 3 * i));
    const __m128i b = _mm_loadu_si128((const __m128i*)(from + 3 * i + 16));
    const __m128i c = _mm_loadu_si128((const __m128i*)(from + 3 * i + 32));
    _mm_storeu_si128((__m128i*)(to + i), gather(a, b, c, r0, r1, r2));
    _mm_storeu_si128((__m128i*)(to + plane_stride + i), gather(a, b, c, g0, g1, g2));
    _mm_storeu_si128((__m128i*)(to + 2 * plane_stride + i), gather(a, b, c, b0, b1, b2));
    i += 16;
  }
#endif
  for (; i < n; ++i)
    for (i32 c = 0; c < 3; ++c) to[c * plane_stride + i] = from[3 * i + c];
}

// One thread's work on rows: scratch space and the canvas in hand. Streaming (kStream), only whole
// vectors are written; what a run leaves of one is carried to the next run.
template <class T, bool kStream>
class RowWriter {
 public:
  explicit RowWriter(const ComposeParams& params)
      : p_(params),
        channels_together_(params.layout == kNHWC ? 3 : 1),
        planes_together_(params.layout == kNHWC ? 1 : 3),
        mirrored_(3 * params.width),
        planes_(3 * params.width),
        sums_(params.mode == kBlend ? 3 * params.width : 0) {
    for (i32 c = 0; c < planes_together_; ++c)
      pattern_[c] = make_pattern(params, params.layout == kNHWC ? -1 : c);
  }

  void canvas(i32 b) {
    b_ = b;
    parts_ = p_.parts + b * p_.constituents;
    out_ = (T*)p_.out + (i64)b * 3 * p_.height * p_.width;
  }

  void row(i32 y) {
    y_ = y;
    if (p_.mode == kBlend) return blend_row();
    for (i32 x = 0; x < p_.width;) {
      const Run run = run_at(p_, parts_, b_, y_, x);
      write(run);
      x = run.x1;
    }
  }

 private:
  // Blended constituents fill the whole canvas.
  void blend_row() {
    const i32 n = 3 * p_.width;
    bool covered = false;
    for (i32 k = 0; k < p_.constituents; ++k) {
      if (is_empty(parts_[k].region)) continue;
      add_weighted(pixels(parts_[k], 0, p_.width), parts_[k].weight, n, !covered);
      covered = true;
    }
    if (covered)
      finish(sums_.data(), {0, p_.width, 0});
    else
      write({0, p_.width, -1});
  }

  void add_weighted(const u8* from, float weight, i32 n, bool first) {
    const F8 w = broadcast8(weight), none = broadcast8(0.0f);
    float* sums = sums_.data();
    i32 i = 0;
    for (; i + kLanes <= n; i += kLanes)
      store(sums + i, fma(w, load8(from + i), first ? none : load8(sums + i)));
    for (; i < n; ++i) sums[i] = fused_multiply_add(weight, (float)from[i], first ? 0.0f : sums[i]);
  }

  // n of the constituent's pixels from x0, left to right: interleaved for NHWC, else three planes
  // that are p_.width apart.
  const u8* pixels(const ComposePart& part, i32 x0, i32 n) {
    const u8* from = part_pixel(part, y_, x0);
    if (part.column_stride != 3) {
      reverse_pixels(from, mirrored_.data(), n);
      from = mirrored_.data();
    }
    if (p_.layout == kNHWC) return from;
    split_planes(from, planes_.data(), p_.width, n);
    return planes_.data();
  }

  void write(const Run& run) {
    if (run.part < 0) return finish<u8>(nullptr, run);
    finish(pixels(parts_[run.part], run.x0, run.x1 - run.x0), run);
  }

  // Normalises a run's values into the result; nullptr: zeros.
  template <class Source>
  void finish(const Source* from, const Run& run) {
    const i32 begin = run.x0 * channels_together_, end = run.x1 * channels_together_;
    for (i32 c = 0; c < planes_together_; ++c) {
      T* row = out_ + (c * p_.height + y_) * p_.width * channels_together_;
      const Source* values = from == nullptr ? nullptr : from + c * p_.width;
      i32 at = begin;
      const auto advance = [&](i32 n) {
        at += n;
        if (values != nullptr) values += n;
      };
      if (kStream && carried_[c] > 0) {
        const i32 n = min_i32(kLanes - carried_[c], end - at);
        put_few(values, carry(c) + carried_[c], n, c, at, 0, end - at - n);
        carried_[c] += n;
        advance(n);
        if (carried_[c] < kLanes) continue;
        put8<kStream>(row + at - kLanes, load8(carry(c)));
      }
      const i32 whole = kStream ? (end - at) / kLanes * kLanes : end - at;
      if (values == nullptr)
        zero(row + at, whole);
      else
        normalise<kStream>(values, row + at, whole, pattern_[c], at % channels_together_);
      advance(whole);
      carried_[c] = end - at;
      put_few(values, carry(c), end - at, c, at, min_i32(at - begin, kLanes - (end - at)), 0);
    }
  }

  // n elements, at most a vector, of plane c from element `at` of the row, which has `before` of
  // the run's elements in front. `to` lies in a carry, where what surrounds them may be written
  // over.
  template <class Source>
  void put_few(const Source* values, T* to, i32 n, i32 c, i32 at, i32 before, i32 behind) {
    if (n == 0) return;
    if (values == nullptr) return zero(to, n);
    const bool whole = before + n + behind >= kLanes;
    const i32 back = whole ? before : 0, phase = (at - back) % channels_together_;
    const float *scale = pattern_[c].scale + phase, *bias = pattern_[c].bias + phase;
    if (whole)
      store(to - back, fma(load8(values - back), load8(scale), load8(bias)));
    else
      normalise_few(values, to, n, scale, bias);
  }

  T* carry(i32 c) { return carry_[c] + kLanes; }

  void zero(T* to, i32 n) {
    i32 i = 0;
    for (; i + kLanes <= n; i += kLanes) put8<kStream>(to + i, broadcast8(0.0f));
    for (; i < n; ++i) store_element(to + i, 0.0f);
  }

  const ComposeParams& p_;
  i32 channels_together_, planes_together_;  // NHWC: one plane of three channels; NCHW: 1 of 3
  std::vector<u8> mirrored_, planes_;
  std::vector<float> sums_;
  Pattern pattern_[3];
  T carry_[3][3 * kLanes];  // the middle: a vector's first elements, in each plane
  i32 carried_[3] = {0, 0, 0};
  i32 b_ = 0, y_ = 0;
  const ComposePart* parts_ = nullptr;
  T* out_ = nullptr;
};

template <class T, bool kStream>
void compose_rows(const ComposeParams& p, int threads) {
  const i64 grain = 1 + 16384 / (3 * p.width);
  parallel_for((i64)p.batch * p.height, grain, threads, [&](i64 begin, i64 end) {
    RowWriter<T, kStream> writer(p);
    i32 b = -1;
    for (i64 row = begin; row < end; ++row) {
      if ((i32)(row / p.height) != b) writer.canvas(b = (i32)(row / p.height));
      writer.row((i32)(row % p.height));
    }
    if (kStream) finish_streams();
  });
}

template <class T>
void compose_as(const ComposeParams& p, int threads) {
  const i64 bytes = (i64)p.batch * 3 * p.height * p.width * (i64)sizeof(T);
  const i32 row = p.layout == kNHWC ? 3 * p.width : p.width;
  if (bytes > kStreamBytes && row % kLanes == 0 && (u64)p.out % 16 == 0)
    compose_rows<T, true>(p, threads);
  else
    compose_rows<T, false>(p, threads);
}

}  // namespace

void compose_cpu(const ComposeParams& p, int threads) {
  if (p.dtype == kFloat32) return compose_as<float>(p, threads);
  if (p.dtype == kFloat16) return compose_as<Half>(p, threads);
  compose_as<BFloat16>(p, threads);
}

}  // namespace MIXPIPE_ISA
}  // namespace mixpipe
