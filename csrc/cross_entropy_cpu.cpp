// composite_cross_entropy on the CPU: a row is read from memory once and worked on in the L1 cache.
#include <math.h>

#include <vector>

#include "cpu.h"
#include "parallel.h"
#include "vector_math.h"

namespace mixpipe {
namespace MIXPIPE_ISA {
namespace {

// Sums of floats are carried on in double after this many, so that long rows keep their accuracy.
constexpr i32 kChunk = 512;

// A row padded to whole vectors, as floats.
class Row {
 public:
  explicit Row(i32 size)
      : size_(size), values_((size + kWideLanes - 1) / kWideLanes * kWideLanes) {}

  // Returns the largest of each lane.
  template <class T>
  F16 load(const T* from, float padding) {
    F16 largest = broadcast16(-HUGE_VALF);
    for (i32 i = 0; i < whole(); i += kWideLanes) {
      const F16 values = load16(from + i);
      largest = max(values, largest);
      store(&values_[i], values);
    }
    if (whole() == size_) return largest;
    for (i32 i = whole(); i < padded(); ++i)
      values_[i] = i < size_ ? load_element(from + i) : padding;
    return max(load16(&values_[whole()]), largest);
  }
  template <class T>
  void write(T* to) const {
    for (i32 i = 0; i < whole(); i += kWideLanes) store(to + i, load16(&values_[i]));
    for (i32 i = whole(); i < size_; ++i) store_element(to + i, values_[i]);
  }
  void fill(float value) {
    for (float& v : values_) v = value;
  }
  float* data() { return values_.data(); }
  i32 padded() const { return (i32)values_.size(); }
  // How many of the elements fill whole vectors.
  i32 whole() const { return size_ / kWideLanes * kWideLanes; }

 private:
  i32 size_;
  std::vector<float> values_;
};

struct RowLosses {
  float* per_constituent;  // [B, K]
  double* weighted;        // [B, K], smoothed and weighted
};

// Softmax of one row and what its constituents [first, first + count) make of it.
template <class T>
void softmax_row(const CrossEntropyParams& p, i32 row, Row& values, const RowLosses& losses) {
  const i32 count = p.constituents / p.rows_per_composite, first = row * count;
  const i64 offset = (i64)row * p.num_classes;
  const T* logits = (const T*)p.logits + offset;
  T* gradient = p.gradient ? (T*)p.gradient + offset : nullptr;

  float total_weight = 0.0f;
  bool any = false;
  for (i32 i = first; i < first + count; ++i) {
    if (class_of(p, i) < 0) continue;
    total_weight += p.weights[i];
    any = true;
  }
  if (!any) {
    values.fill(0.0f);
    if (gradient) values.write(gradient);
    return;
  }

  const float most = largest_lane(values.load(logits, -HUGE_VALF));
  float* x = values.data();

  double sum = 0.0, sum_shifted = 0.0;
  const F16 shift = broadcast16(most);
  for (i32 begin = 0; begin < values.whole(); begin += kChunk) {
    const i32 end = min_i32(begin + kChunk, values.whole());
    F16 sums = broadcast16(0.0f), sums_shifted = broadcast16(0.0f);
    for (i32 i = begin; i < end; i += kWideLanes) {
      const F16 d = subtract(load16(x + i), shift);
      const F16 e = exp(d);
      sums = add(sums, e);
      sums_shifted = add(sums_shifted, d);
      store(x + i, e);
    }
    sum += sum_lanes(sums);
    sum_shifted += sum_lanes(sums_shifted);
  }
  if (values.whole() < p.num_classes) {
    for (i32 i = values.whole(); i < p.num_classes; ++i) sum_shifted += (double)x[i] - most;
    // The padding is -inf, of which exp makes 1e-38: nothing beside the largest logit's 1.
    const F16 e = exp(subtract(load16(x + values.whole()), shift));
    sum += sum_lanes(e);
    store(x + values.whole(), e);
  }
  const double log_sum = log(sum);
  // Nothing times the mean would not be nothing where a logit is -inf.
  const double mean_loss = p.smoothing == 0.0f ? 0.0 : log_sum - sum_shifted / p.num_classes;

  // softmax * total weight - the targets, all times the scale
  const float scale = p.gradient_scale, factor = (float)(total_weight * scale / sum);
  const float smooth = total_weight * scale * p.smoothing / p.num_classes;
  if (gradient) {
    for (i32 i = 0; i < values.whole(); i += kWideLanes)
      store(gradient + i, fma(load16(x + i), broadcast16(factor), broadcast16(-smooth)));
    for (i32 i = values.whole(); i < p.num_classes; ++i)
      store_element(gradient + i, fused_multiply_add(x[i], factor, -smooth));
  }
  for (i32 i = first; i < first + count; ++i) {
    const i32 index = class_of(p, i);
    if (index < 0) continue;
    const double loss = log_sum + ((double)most - load_element(logits + index));
    losses.per_constituent[i] = (float)loss;
    losses.weighted[i] =
        p.weights[i] * ((1.0 - (double)p.smoothing) * loss + (double)p.smoothing * mean_loss);
    if (!gradient) continue;
    float share = 0.0f;  // of all constituents of this class
    for (i32 j = first; j < first + count; ++j)
      if (class_of(p, j) == index) share += p.weights[j];
    const float softmax = fused_multiply_add(x[index], factor, -smooth);
    store_element(gradient + index, softmax - share * (1.0f - p.smoothing) * scale);
  }
}

// Binary cross-entropy of one row against the labels of its constituents.
template <class T>
void sigmoid_row(const CrossEntropyParams& p, i32 row, Row& values, Row& slopes, Row& labels,
                 const RowLosses& losses) {
  const i32 count = p.constituents / p.rows_per_composite, first = row * count;
  const i32 num_classes = p.num_classes;
  const i64 offset = (i64)row * num_classes;
  values.load((const T*)p.logits + offset, 0.0f);
  slopes.fill(0.0f);
  const float keep = 1.0f - p.smoothing, half = 0.5f * p.smoothing;
  const F16 zero = broadcast16(0.0f), one = broadcast16(1.0f);
  const float *x = values.data(), *t = labels.data();
  for (i32 k = first; k < first + count; ++k) {
    const float weight = p.weights[k];
    if (weight == 0.0f) continue;
    labels.load(p.labels + (i64)k * num_classes, 0.0f);
    const F16 factor = broadcast16(weight * p.gradient_scale / num_classes);
    // The loss without smoothing, and what smoothing adds to it for each unit of smoothing.
    double plain_sum = 0.0, smooth_sum = 0.0;
    F16 plain, smoothing;
    const auto add_vector = [&](i32 i) {
      const F16 value = load16(x + i), target = load16(t + i);
      const F16 positive = max(zero, value), negative = min(zero, value);
      const F16 e = exp(subtract(negative, positive));  // e^-|x|
      // max(x, 0) - x t + log(1 + e^-|x|): no cancellation where a sure logit is right
      const F16 wrong = fma(subtract(zero, value), target, positive);
      plain = add(plain, add(wrong, log1p(e)));
      smoothing = fma(value, subtract(target, broadcast16(0.5f)), smoothing);
      // sigmoid(x) = (x < 0 ? e : 1) / (1 + e), where e^min(x, 0) is the numerator
      const F16 sigmoid = divide(exp(negative), add(one, e));
      const F16 smooth = fma(target, broadcast16(keep), broadcast16(half));
      store(slopes.data() + i, fma(subtract(sigmoid, smooth), factor, load16(slopes.data() + i)));
    };
    for (i32 begin = 0; begin < values.whole(); begin += kChunk) {
      const i32 end = min_i32(begin + kChunk, values.whole());
      plain = smoothing = zero;
      for (i32 i = begin; i < end; i += kWideLanes) add_vector(i);
      plain_sum += sum_lanes(plain);
      smooth_sum += sum_lanes(smoothing);
    }
    if (values.whole() < num_classes) {
      plain = smoothing = zero;
      add_vector(values.whole());
      float lanes[kWideLanes];
      store(lanes, plain);
      for (i32 i = values.whole(); i < num_classes; ++i) plain_sum += lanes[i - values.whole()];
      smooth_sum += sum_lanes(smoothing);  // the padding's logits are 0
    }
    losses.per_constituent[k] = (float)(plain_sum / num_classes);
    losses.weighted[k] = weight * (plain_sum + (double)p.smoothing * smooth_sum) / num_classes;
  }
  if (p.gradient) slopes.write((T*)p.gradient + offset);
}

template <class T>
void cross_entropy_as(const CrossEntropyParams& p, int threads) {
  const i32 count = p.batch * p.constituents;
  std::vector<double> weighted(count, 0.0);
  for (i32 i = 0; i < count; ++i) p.per_constituent[i] = 0.0f;
  const RowLosses losses{p.per_constituent, weighted.data()};
  const i64 grain = 1 + 8192 / p.num_classes;
  parallel_for(cross_entropy_rows(p), grain, threads, [&](i64 begin, i64 end) {
    Row values(p.num_classes), slopes(p.labels ? p.num_classes : 0),
        labels(p.labels ? p.num_classes : 0);
    for (i64 row = begin; row < end; ++row) {
      if (p.labels)
        sigmoid_row<T>(p, (i32)row, values, slopes, labels, losses);
      else
        softmax_row<T>(p, (i32)row, values, losses);
    }
  });
  // In the order of (b, k), whatever the threads did: the sum is deterministic, and so is which of
  // several entries for one id stays.
  double loss = 0.0;
  for (i32 i = 0; i < count; ++i) {
    loss += weighted[i];
    if (!has_entry(p, i)) continue;
    p.table_losses[p.ids[i]] = p.per_constituent[i];
    p.table_epochs[p.ids[i]] = epoch_of(p);
  }
  p.loss[0] = (float)(p.batch > 0 ? loss / p.batch : 0.0);
}

template <class T>
void scale_as(const ScaleParams& p, int threads) {
  const float scale = p.grad_loss[0] * p.factor;
  const T* from = (const T*)p.gradient;
  T* to = (T*)p.result;
  parallel_for(p.count, 1 << 16, threads, [&](i64 begin, i64 end) {
    i64 i = begin;
    for (; i + kLanes <= end; i += kLanes)
      store(to + i, multiply(load8(from + i), broadcast8(scale)));
    for (; i < end; ++i) store_element(to + i, load_element(from + i) * scale);
  });
}

}  // namespace

void cross_entropy_cpu(const CrossEntropyParams& p, int threads) {
  if (p.dtype == kFloat32) return cross_entropy_as<float>(p, threads);
  if (p.dtype == kFloat16) return cross_entropy_as<Half>(p, threads);
  cross_entropy_as<BFloat16>(p, threads);
}

void scale_gradient_cpu(const ScaleParams& p, int threads) {
  if (p.dtype == kFloat32) return scale_as<float>(p, threads);
  if (p.dtype == kFloat16) return scale_as<Half>(p, threads);
  scale_as<BFloat16>(p, threads);
}

}  // namespace MIXPIPE_ISA
}  // namespace mixpipe
