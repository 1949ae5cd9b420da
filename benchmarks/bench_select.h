// The cases of kernel_bench that select from a loss table: select_lowest by each of its rules.
#pragma once

#include <algorithm>

#include "bench_data.h"

namespace kernel_bench {
namespace {

const char* const kRules[] = {"mean", "share", "budget"};

// Losses and epochs, some unseen. Losses are multiples of 1/256, so that sums of them are exact and
// many are equal.
struct Table {
  std::vector<float> losses;
  std::vector<i32> epochs;

  explicit Table(int samples) {
    Random random(6);
    for (int i = 0; i < samples; ++i) {
      losses.push_back((float)random.below(2048) / 256.0f);
      epochs.push_back((i32)random.below(10) - 1);
    }
  }
};

// The masks that a rule must give, one of `words` words a tier; by sorting.
std::vector<u32> selected(const SelectParams& p, const Table& table) {
  SelectParams host = p;
  host.losses = table.losses.data();
  host.epochs = table.epochs.data();
  std::vector<i32> ranked;
  double mean = 0;
  for (i32 i = 0; i < p.size; ++i)
    if (is_ranked(host, i)) ranked.push_back(i), mean += table.losses[(size_t)i];
  if (!ranked.empty()) mean /= (double)ranked.size();
  std::sort(ranked.begin(), ranked.end(),
            [&](i32 a, i32 b) { return rank_key(host, a) < rank_key(host, b); });
  // How many of the lowest have a loss of at most a multiple of the mean.
  const auto up_to = [&](double multiple) {
    const float threshold = as_threshold(multiple * mean);
    return (size_t)(std::upper_bound(
                        ranked.begin(), ranked.end(), threshold,
                        [&](float value, i32 i) { return value < table.losses[(size_t)i]; }) -
                    ranked.begin());
  };
  std::vector<size_t> counts((size_t)p.tiers, 0);
  u32 found = 0;
  for (i32 t = 0; t < p.tiers; ++t) {
    if (p.rule == kMean) counts[(size_t)t] = up_to(p.factors[t]);
    if (p.rule == kShare)
      counts[(size_t)t] = (size_t)std::rint(p.factors[t] * (double)ranked.size());
  }
  for (i32 bit = 30; p.rule == kBudget && bit >= 0;
       --bit) {  // the largest scale, as a float's bits
    const float scale = bits_float(found | 1u << bit);
    if (!std::isfinite(scale)) continue;
    std::vector<size_t> candidate;
    double saved = 0;
    for (i32 t = 0; t < p.tiers; ++t) {
      candidate.push_back(up_to(p.factors[t] * (double)scale));
      saved += p.savings[t] * (double)candidate.back();
    }
    if (saved <= p.target) found |= 1u << bit, counts = candidate;
  }
  std::vector<u32> masks((size_t)(p.tiers * p.words));
  for (i32 t = 0; t < p.tiers; ++t)
    for (size_t rank = 0; rank < counts[(size_t)t]; ++rank)
      masks[(size_t)(t * p.words + ranked[rank] / 32)] |= 1u << (ranked[rank] % 32);
  return masks;
}

// All launches of one selection: the table has to be read once, though a search reads it once a
// bit.
Case select_case(const Options& o, i32 rule, int tiers) {
  const Table table(o.samples);
  auto losses = std::make_shared<DeviceArray<float>>(table.losses);
  auto epochs = std::make_shared<DeviceArray<i32>>(table.epochs);
  const i32 words = select_words(o.samples);
  const size_t head = sizeof(SelectState);
  auto result = std::make_shared<DeviceArray<u8>>(head + (size_t)(4 * tiers * words));
  auto sums = std::make_shared<DeviceArray<double>>((size_t)kMostSelectBlocks);

  SelectParams p{};
  p.losses = losses->data();
  p.epochs = epochs->data();
  p.state = (SelectState*)result->data();
  p.masks = (u32*)(result->data() + head);
  p.sums = sums->data();
  p.size = o.samples;
  p.words = words;
  p.rule = rule;
  p.tiers = tiers;
  p.seed = 7;
  for (i32 t = 0; t < tiers; ++t) {
    p.factors[t] = 0.8 / (t + 1);
    p.savings[t] = 0.5 / (t + 1);
  }
  p.target = 0.2 * o.samples;
  const Geometry geometry = select_prepare(p);

  Case item;
  item.name = join("select", kRules[rule], number("tiers", tiers), number("samples", o.samples));
  item.bytes = (double)(losses->bytes() + epochs->bytes() + result->bytes());
  item.memory = {losses, epochs, result, sums};
  item.reset = [result] { result->reset(); };
  item.launch = [=] {
    must(cudaMemset(result->data(), 0, result->bytes()), "cudaMemset");
    SelectParams step = p;
    start(select_measure, geometry, step);
    for (step.bit = select_search_bits(rule) - 1; step.bit >= 0; --step.bit)
      start(select_search, geometry, step);
    start(select_mark, geometry, step);
  };
  item.check = [=] {
    const std::vector<u8> got = result->read();
    const std::vector<u32> want = selected(p, table);
    Check check;
    for (size_t i = 0; i < want.size(); ++i)
      check(std::memcmp(&got[head + 4 * i], &want[i], 4) == 0);
    return check;
  };
  return item;
}

}  // namespace
}  // namespace kernel_bench
