// compose_resampled on the CPU. A row of a composite is made in float32: for every run of it, first
// the run's rows of the rectangle are summed to one (which costs least where many pixels become
// few), then the columns of that one. The finished row is cast and stored.
#include <vector>

#include "cpu.h"
#include "parallel.h"
#include "simd.h"

namespace mixpipe {
namespace MIXPIPE_ISA {
namespace {

// Writes the weights of the taps of canvas coordinate v; returns the first pixel.
i32 fill_weights(const ResampleAxis& axis, i32 v, float* weights) {
  const Taps taps = taps_at(axis, v);
  float sum = 0.0f;
  for (i32 tap = 0; tap < axis.taps; ++tap) sum += weights[tap] = tap_weight(axis, taps, tap);
  const float norm = 1.0f / sum;
  for (i32 tap = 0; tap < axis.taps; ++tap) weights[tap] *= norm;
  return taps.first;
}

// The taps of every canvas column of one part.
class Columns {
 public:
  void prepare(const ResamplePart& part) {
    const i32 count = part.region.x1 - part.region.x0;
    x0_ = part.region.x0;
    taps_ = part.x.taps;
    if ((i32)first_.size() < count) first_.resize(count);
    if ((i64)weights_.size() < (i64)count * taps_) weights_.resize((i64)count * taps_);
    for (i32 i = 0; i < count; ++i)
      first_[i] = fill_weights(part.x, x0_ + i, weights_.data() + (i64)i * taps_);
  }
  i32 taps() const { return taps_; }
  i32 first(i32 x) const { return first_[x - x0_]; }
  const i32* firsts(i32 x) const { return first_.data() + x - x0_; }
  const float* weights(i32 x) const { return weights_.data() + (i64)(x - x0_) * taps_; }

 private:
  i32 x0_ = 0, taps_ = 0;
  std::vector<i32> first_;
  std::vector<float> weights_;
};

// Calls f with the number of taps where it is small, which lets loops over taps unroll, else with
// 0.
template <i32 kTaps>
struct Known {
  static constexpr i32 taps = kTaps;
};
template <class F>
void with_taps(i32 taps, const F& f) {
  switch (taps) {
    case 2:
      return f(Known<2>{});
    case 3:
      return f(Known<3>{});
    case 4:
      return f(Known<4>{});
    case 5:
      return f(Known<5>{});
    case 6:
      return f(Known<6>{});
    default:
      return f(Known<0>{});
  }
}

// to[i] = sum of weights[r] * rows[r][i] over kRows rows (0: `count`).
template <i32 kRows>
void sum_rows(const u8* from, i64 stride, const float* weights, i32 count, float* __restrict to,
              i32 n) {
  const i32 rows = kRows ? kRows : count;
  i32 i = 0;
  const auto step = [&] {
    F8 sum = multiply(broadcast8(weights[0]), load8(from + i));
    for (i32 r = 1; r < rows; ++r)
      sum = fma(broadcast8(weights[r]), load8(from + r * stride + i), sum);
    store(to + i, sum);
  };
  for (; i + kLanes <= n; i += kLanes) step();
  if (i == n) return;
  if (n >= kLanes) {  // the last whole vector again, shifted: nothing past the end is read
    i = n - kLanes;
    return step();
  }
  for (; i < n; ++i) {
    float sum = weights[0] * (float)from[i];
    for (i32 r = 1; r < rows; ++r)
      sum = fused_multiply_add(weights[r], (float)from[r * stride + i], sum);
    to[i] = sum;
  }
}

// Pixel i of n: the sum over kTaps (0: `count`) pixels from firsts[i] on, each of three channels,
// put through `finish`. `from` begins with pixel `left`. Four floats are read and written where
// three count.
template <i32 kTaps, class Finish>
void sum_columns(const float* from, i32 left, const i32* firsts, const float* weights, i32 count,
                 float* __restrict to, i32 n, const Finish& finish) {
  const i32 taps = kTaps ? kTaps : count;
  for (i32 i = 0; i < n; ++i, weights += taps, to += 3) {
    const float* pixel = from + 3 * (firsts[i] - left);
    F4 sum = multiply(broadcast4(weights[0]), load4(pixel));
    for (i32 tap = 1; tap < taps; ++tap)
      sum = fma(broadcast4(weights[tap]), load4(pixel + 3 * tap), sum);
    store(to, finish(sum));
  }
}

// One thread's work on rows: scratch space and the composite in hand.
template <class T>
class ResampledRows {
 public:
  explicit ResampledRows(const ResampleParams& params) : p_(params), row_(3 * params.width + 8) {
    scale_ = pixel4(params.scale);
    bias_ = pixel4(params.bias);
    if (params.mode == kBlend) sums_.resize(row_.size());
  }

  void composite(i32 b) {
    b_ = b;
    parts_ = p_.parts + (i64)b * p_.constituents;
    out_ = (T*)p_.out + (i64)b * 3 * p_.height * p_.width;
    for (i32 k = 0; k < p_.constituents; ++k) prepared_[k] = false;
  }

  void row(i32 y) {
    if (p_.mode == kBlend) {
      blend(y);
    } else {
      for (i32 x = 0; x < p_.width;) {
        const Run run = run_at(p_, parts_, b_, y, x);
        if (run.part < 0)
          for (i32 i = 3 * run.x0; i < 3 * run.x1; ++i) row_[i] = 0.0f;
        else
          resample(run.part, y, run.x0, run.x1, [this](F4 sum) { return fma(sum, scale_, bias_); });
        x = run.x1;
      }
    }
    write(y);
  }

 private:
  // Columns [x0, x1) of a part into row_.
  template <class Finish>
  void resample(i32 k, i32 y, i32 x0, i32 x1, const Finish& finish) {
    const ResamplePart& part = parts_[k];
    Columns& columns = columns_[k];
    if (!prepared_[k]) {
      columns.prepare(part);
      prepared_[k] = true;
    }
    if ((i32)weights_.size() < part.y.taps) weights_.resize(part.y.taps);
    const i32 top = fill_weights(part.y, y, weights_.data());
    const i32 ends[] = {columns.first(x0), columns.first(x1 - 1)};  // mirrored: the other way
    const i32 left = min_i32(ends[0], ends[1]);
    const i32 size = 3 * (max_i32(ends[0], ends[1]) + columns.taps() - left);
    // Zeroed, since the last pixel's fourth float is read, though not used.
    if ((i32)summed_.size() < size + 8) summed_.resize(size + 8);
    const u8* from = part.pixels + (i64)top * part.row_stride + 3 * left;
    with_taps(part.y.taps, [&](auto known) {
      sum_rows<known.taps>(from, part.row_stride, weights_.data(), part.y.taps, summed_.data(),
                           size);
    });
    with_taps(columns.taps(), [&](auto known) {
      sum_columns<known.taps>(summed_.data(), left, columns.firsts(x0), columns.weights(x0),
                              columns.taps(), row_.data() + 3 * x0, x1 - x0, finish);
    });
  }

  // Blended constituents fill the whole canvas.
  void blend(i32 y) {
    const i32 n = 3 * p_.width;
    bool covered = false;
    for (i32 i = 0; i < n; ++i) sums_[i] = 0.0f;
    for (i32 k = 0; k < p_.constituents; ++k) {
      if (is_empty(parts_[k].region)) continue;
      covered = true;
      resample(k, y, 0, p_.width, [](F4 sum) { return sum; });
      const F8 weight = broadcast8(parts_[k].weight);
      for (i32 i = 0; i < n; i += kLanes)  // both have room for whole vectors
        store(&sums_[i], fma(weight, load8(&row_[i]), load8(&sums_[i])));
    }
    for (i32 i = 0; i < n; i += 3)
      store(&row_[i], covered ? fma(load4(&sums_[i]), scale_, bias_) : broadcast4(0.0f));
  }

  void write(i32 y) {
    if (p_.layout == kNHWC) {
      const i32 n = 3 * p_.width;
      T* to = out_ + (i64)y * n;
      i32 i = 0;
      for (; i + kLanes <= n; i += kLanes) store(to + i, load8(&row_[i]));
      for (; i < n; ++i) store_element(to + i, row_[i]);
      return;
    }
    T* planes[3];
    for (i32 c = 0; c < 3; ++c) planes[c] = out_ + ((i64)c * p_.height + y) * p_.width;
    i32 x = 0;
    for (; x + kLanes <= p_.width; x += kLanes) {
      F8 channels[3];
      load_pixels8(&row_[3 * x], channels);
      for (i32 c = 0; c < 3; ++c) store(planes[c] + x, channels[c]);
    }
    for (; x < p_.width; ++x)
      for (i32 c = 0; c < 3; ++c) store_element(planes[c] + x, row_[3 * x + c]);
  }

  static F4 pixel4(const float* values) {
    const float four[] = {values[0], values[1], values[2], 0.0f};
    return load4(four);
  }

  const ResampleParams& p_;
  F4 scale_, bias_;
  std::vector<float> row_, sums_, summed_, weights_;
  Columns columns_[kMaxConstituents];
  bool prepared_[kMaxConstituents] = {};
  i32 b_ = 0;
  const ResamplePart* parts_ = nullptr;
  T* out_ = nullptr;
};

// Multiply-adds of a pixel's channels, of the whole batch.
double work(const ResampleParams& p) {
  double sum = 0;
  for (i64 i = 0; i < (i64)p.batch * p.constituents; ++i) {
    const ResamplePart& part = p.parts[i];
    const double rows = part.region.y1 - part.region.y0, columns = part.region.x1 - part.region.x0;
    sum += rows * columns * (part.y.taps * part.x.scale + part.x.taps);
  }
  return sum;
}

template <class T>
void resampled_rows(const ResampleParams& p, int threads) {
  // Less than this, some half a millisecond, is not worth a thread that wakes, and looks for more
  // when it is done: 127 images of 28 x 28 took 1.35 ms of CPU by two threads, and 0.72 by one.
  constexpr double kPieceWork = 1 << 19;
  const i64 rows = (i64)p.batch * p.height;
  const i64 grain = 1 + (i64)(rows * (kPieceWork / (work(p) + 1)));
  parallel_for(rows, grain, threads, [&](i64 begin, i64 end) {
    ResampledRows<T> rows(p);
    i32 b = -1;
    for (i64 row = begin; row < end; ++row) {
      if ((i32)(row / p.height) != b) rows.composite(b = (i32)(row / p.height));
      rows.row((i32)(row % p.height));
    }
  });
}

}  // namespace

void compose_resampled_cpu(const ResampleParams& p, int threads) {
  if (p.dtype == kFloat32) return resampled_rows<float>(p, threads);
  if (p.dtype == kFloat16) return resampled_rows<Half>(p, threads);
  resampled_rows<BFloat16>(p, threads);
}

}  // namespace MIXPIPE_ISA
}  // namespace mixpipe
