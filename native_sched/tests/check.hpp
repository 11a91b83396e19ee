// The least a test needs, and random problems for all of them.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>

#include "native_sched/spec.hpp"

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                \
    }                                                                              \
  } while (false)

namespace native_sched {

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  // From low to high, both included; the same on every machine, unlike std::uniform_int_distribution.
  i64 number(i64 low, i64 high) {
    return low + static_cast<i64>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool chance(int percent) { return number(1, 100) <= percent; }
  std::vector<i64> numbers(std::size_t count, i64 high) {
    const i64 top = chance(30) ? number(0, 2) : high;
    std::vector<i64> values(count);
    for (i64& value : values) value = number(0, top);
    return values;
  }
  std::vector<double> seconds(std::size_t count, i64 high) {
    std::vector<double> values;
    for (const i64 value : numbers(count, high)) values.push_back(static_cast<double>(value) * 0.25);
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

inline ProblemSpec draw(Random& random, i64 most_units, i64 most_hosts, bool pairwise, bool medium) {
  ProblemSpec spec;
  const auto units = static_cast<std::size_t>(random.number(1, most_units));
  const auto hosts = static_cast<std::size_t>(random.number(1, most_hosts));
  const auto kinds = static_cast<std::size_t>(random.number(1, 3));
  const bool coded = random.chance(20);
  for (std::size_t k = 0; k < kinds; ++k) {
    KindSpec kind{random.seconds(units, 40), {}, {}, random.number(0, 5), {}};
    if (coded) kind.encode_s = random.seconds(units + 1, 4);
    if (coded && random.chance(60)) kind.decode_s = random.seconds(units + 1, 4);
    spec.kinds.push_back(std::move(kind));
  }
  const i64 room = random.chance(50) ? random.number(30, 200) : 1'000'000;
  for (std::size_t h = 0; h < hosts; ++h) {
    const double rate = static_cast<double>(random.number(1, 4)) * 0.7;
    spec.hosts.push_back(
        {random.number(0, static_cast<i64>(kinds) - 1), room + random.number(0, 1) * 20, rate});
  }
  spec.links.latency_s = random.chance(50) ? 0.5 : 0.0;
  if (medium) {
    spec.links.model = LinkModel::kMedium;
    spec.links.medium_bytes_per_s = static_cast<double>(random.number(1, 9));
  }
  if (pairwise) {
    spec.links.model = LinkModel::kPairwise;
    spec.links.bandwidth.assign(hosts, std::vector<double>(hosts, 1.0));
    spec.links.latency.assign(hosts, std::vector<double>(hosts, 0.25));
    for (auto& row : spec.links.bandwidth) {
      for (double& rate : row) rate = static_cast<double>(random.number(1, 4));
    }
  }
  spec.cut_bytes = random.numbers(units + 1, 40);
  spec.weight_bytes = random.numbers(units, 40);
  for (KindSpec& kind : spec.kinds) {
    if (!random.chance(30)) continue;
    for (const i64 weight : spec.weight_bytes) kind.saved_bytes.push_back(random.number(0, weight));
  }
  spec.activation_bytes = random.numbers(units, 20);
  spec.entry_bytes = random.chance(50) ? spec.cut_bytes : random.numbers(units + 1, 20);
  spec.exit_bytes = random.chance(50) ? spec.cut_bytes : random.numbers(units + 1, 20);
  if (random.chance(30))
    spec.shared_weights.push_back({{0, static_cast<i64>(units) - 1}, random.number(0, 30)});
  if (random.chance(50)) spec.data_host = random.number(0, static_cast<i64>(hosts) - 1);
  if (random.chance(20))
    spec.together.push_back({random.number(0, static_cast<i64>(units) - 1), static_cast<i64>(units) - 1});
  if (random.chance(20)) spec.pins.push_back({0, 0, {random.number(0, static_cast<i64>(hosts) - 1)}});
  if (random.chance(20)) spec.max_hosts = random.number(1, most_hosts);
  spec.state_budget = 1'000'000;
  return spec;
}

}  // namespace native_sched
