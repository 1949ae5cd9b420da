// The cases of kernel_bench that work on classes: dense_targets, composite_cross_entropy.
#pragma once

#include <algorithm>

#include "bench_data.h"

namespace kernel_bench {
namespace {

// Classes, weights and ids of a batch of pairs; weights sum to 1.
struct Pairs {
  std::vector<i64> classes, ids;
  std::vector<float> weights;

  Pairs(int batch, int k, int num_classes) {
    Random random(3);
    for (int i = 0; i < batch * k; ++i) {
      classes.push_back((i64)random.below((uint32_t)num_classes));
      ids.push_back(i);
      weights.push_back(1.0f / (float)k);
    }
  }
};

Case targets_case(const Options& o, i32 dtype, int k) {
  const int num_classes = o.classes;
  const Pairs pairs(o.batch, k, num_classes);
  auto classes = std::make_shared<DeviceArray<i64>>(pairs.classes);
  auto weights = std::make_shared<DeviceArray<float>>(pairs.weights);
  const size_t count = (size_t)o.batch * (size_t)num_classes;
  auto out = std::make_shared<DeviceArray<u8>>(count * (size_t)element_size(dtype));

  TargetsParams p{};
  p.classes = classes->data();
  p.weights = weights->data();
  p.out = out->data();
  p.batch = o.batch;
  p.constituents = k;
  p.num_classes = num_classes;
  p.dtype = dtype;
  p.smoothing = 0.1f;
  const Geometry geometry = targets_prepare(p);
  const auto kernel = targets_kernel(p);

  Case item;
  item.name = join("dense_targets", kDTypes[dtype], number("k", k), number("b", o.batch),
                   number("classes", num_classes));
  item.bytes = (double)(out->bytes() + classes->bytes() + weights->bytes());
  item.memory = {classes, weights, out};
  item.reset = [out] { out->reset(); };
  item.launch = [=] { start(kernel, geometry, p); };
  item.check = [=] {
    const std::vector<u8> got = out->read();
    Check check;
    for (int b = 0; b < o.batch; ++b)
      for (int c = 0; c < num_classes; ++c) {
        double want = 0;
        for (int j = 0; j < k; ++j) {
          const size_t i = (size_t)b * (size_t)k + (size_t)j;
          want += pairs.weights[i] * (0.1 / num_classes + 0.9 * (pairs.classes[i] == c));
        }
        const double value = element(got, dtype, (size_t)b * (size_t)num_classes + (size_t)c);
        check(std::fabs(value - want) <= (dtype == kFloat32 ? 1e-6 : 5e-3) * want);
      }
    return check;
  };
  return item;
}

// What a row of logits must give: its loss without smoothing and with, and d loss / d logits.
struct RowResult {
  double plain, smoothed;
  std::vector<double> gradient;
};

RowResult softmax_result(const std::vector<double>& x, size_t own, double smoothing) {
  const double highest = *std::max_element(x.begin(), x.end()), classes = (double)x.size();
  double sum = 0, mean = 0;
  for (double value : x) {
    sum += std::exp(value - highest);
    mean += (highest - value) / classes;
  }
  mean += std::log(sum);
  RowResult row{std::log(sum) + highest - x[own], 0, {}};
  row.smoothed = (1 - smoothing) * row.plain + smoothing * mean;
  for (size_t c = 0; c < x.size(); ++c)
    row.gradient.push_back(std::exp(x[c] - highest) / sum - (1 - smoothing) * (c == own) -
                           smoothing / classes);
  return row;
}

RowResult sigmoid_result(const std::vector<double>& x, const float* labels, double smoothing) {
  const double classes = (double)x.size();
  RowResult row{0, 0, {}};
  for (size_t c = 0; c < x.size(); ++c) {
    const double label = labels[c], towards = (1 - smoothing) * label + smoothing / 2;
    const double softplus = std::max(x[c], 0.0) + std::log1p(std::exp(-std::fabs(x[c])));
    row.plain += (softplus - x[c] * label) / classes;
    row.smoothed += (softplus - x[c] * towards) / classes;
    row.gradient.push_back((1 / (1 + std::exp(-x[c])) - towards) / classes);
  }
  return row;
}

// Every constituent has logits of its own, and a class or, multi-label, a target for each class.
Case cross_entropy_case(const Options& o, bool multi_label, i32 dtype, int k) {
  const int num_classes = o.classes, rows = o.batch * k;
  const Pairs pairs(o.batch, k, num_classes);
  const size_t count = (size_t)rows * (size_t)num_classes;
  auto logits = std::make_shared<DeviceArray<u8>>(random_elements(count, dtype, -4.0f, 4.0f, 4));
  auto classes = std::make_shared<DeviceArray<i64>>(pairs.classes);
  auto ids = std::make_shared<DeviceArray<i64>>(pairs.ids);
  auto weights = std::make_shared<DeviceArray<float>>(pairs.weights);
  std::vector<float> targets(multi_label ? count : 0);
  Random random(8);
  for (float& target : targets) target = random.uniform();
  auto labels = std::make_shared<DeviceArray<float>>(targets);
  auto gradient = std::make_shared<DeviceArray<u8>>(logits->bytes());
  // per_constituent, table_losses, smoothed and the loss in one array
  auto losses = std::make_shared<DeviceArray<float>>((size_t)(3 * rows + 1));
  auto epochs = std::make_shared<DeviceArray<i32>>((size_t)(rows + 1));  // and the block counter

  CrossEntropyParams p{};
  p.logits = logits->data();
  if (multi_label)
    p.labels = labels->data();
  else
    p.classes = classes->data();
  p.weights = weights->data();
  p.ids = ids->data();
  p.gradient = gradient->data();
  p.per_constituent = losses->data();
  p.table_losses = losses->data() + rows;
  p.smoothed = losses->data() + 2 * rows;
  p.loss = losses->data() + 3 * rows;
  p.table_epochs = epochs->data();
  p.finished_blocks = epochs->data() + rows;
  p.table_size = rows;
  p.ignore_index = -100;
  p.batch = o.batch;
  p.constituents = p.rows_per_composite = k;
  p.num_classes = num_classes;
  p.epoch = 1;
  p.dtype = dtype;
  p.smoothing = 0.1f;
  p.gradient_scale = 1.0f;
  const Geometry geometry = cross_entropy_prepare(p);
  const auto kernel = cross_entropy_kernel(p);

  Case item;
  item.name = join(multi_label ? "multi_label" : "composite_cross_entropy", kDTypes[dtype],
                   number("k", k), number("b", o.batch), number("classes", num_classes));
  item.bytes = (double)(logits->bytes() + gradient->bytes() + ids->bytes() + weights->bytes() +
                        (multi_label ? labels->bytes() : classes->bytes())) +
               12.0 * rows;
  item.memory = {logits, classes, labels, ids, weights, gradient, losses, epochs};
  item.reset = [losses, epochs] { losses->reset(), epochs->reset(); };
  item.launch = [=] { start(kernel, geometry, p); };
  item.check = [=] {
    const std::vector<u8>& in = logits->first();
    const std::vector<u8> got = gradient->read();
    const std::vector<float> found = losses->read();
    const double tolerance = dtype == kFloat32 ? 1e-5 : dtype == kFloat16 ? 2e-3 : 1e-2;
    Check check;
    double loss = 0;
    for (int i = 0; i < rows; ++i) {
      const size_t row = (size_t)i * (size_t)num_classes;
      std::vector<double> x;
      for (int c = 0; c < num_classes; ++c) x.push_back(element(in, dtype, row + (size_t)c));
      const RowResult want = multi_label
                                 ? sigmoid_result(x, &targets[row], p.smoothing)
                                 : softmax_result(x, (size_t)pairs.classes[(size_t)i], p.smoothing);
      const double weight = pairs.weights[(size_t)i];
      loss += weight * want.smoothed / o.batch;
      check(std::fabs(found[(size_t)i] - want.plain) <= 1e-5 * want.plain + 1e-6);
      check(found[(size_t)(rows + i)] == found[(size_t)i]);
      for (int c = 0; c < num_classes; ++c) {
        const double value = element(got, dtype, row + (size_t)c);
        const double slope = weight * want.gradient[(size_t)c];
        check(std::fabs(value - slope) <= tolerance * std::fabs(slope) + 1e-7);
      }
    }
    check(std::fabs(found[(size_t)(3 * rows)] - loss) <= 1e-5 * loss);
    return check;
  };
  return item;
}

}  // namespace
}  // namespace kernel_bench
