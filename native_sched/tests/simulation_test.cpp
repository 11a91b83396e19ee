// Playing a pipeline through: known cases, and both ways of playing it against each other.
#include "native_sched/simulation.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "check.hpp"

using namespace native_sched;  // NOLINT(google-build-using-namespace): a test of that namespace

namespace {

bool close(double one, double other) {
  return std::abs(one - other) <= 1e-9 * std::max({1.0, std::abs(one), std::abs(other)});
}

bool close(const std::vector<double>& one, const std::vector<double>& other) {
  return std::ranges::equal(one, other, [](double a, double b) { return close(a, b); });
}

PipelineSpec line(std::vector<double> compute, std::vector<double> transfer, i64 count) {
  PipelineSpec spec;
  spec.latency_s.assign(transfer.size(), 0.0);
  spec.local.assign(transfer.size(), 0);
  spec.compute_s = std::move(compute);
  spec.transfer_s = std::move(transfer);
  spec.num_microbatches = count;
  return spec;
}

double last_step(const SimulationResult& result) {
  return result.result_s.back() - result.result_s[result.result_s.size() - 2];
}

void the_slowest_sets_the_period() {
  PipelineSpec spec = line({1.0, 3.0, 2.0}, {0.5, 0.5, 0.5, 0.5}, 50);
  spec.num_buffers_in = spec.num_buffers_out = 2;
  const SimulationResult result = simulate(spec);
  CHECK(close(result.result_s[0], 8.0));
  CHECK(close(last_step(result), 3.0));
}

void one_buffer_lets_transfer_and_compute_take_turns() {
  // The only receive buffer is free again once the stage has handed its result on.
  const SimulationResult result = simulate(line({1.0, 1.0}, {0.0, 2.0, 0.0}, 30));
  CHECK(close(last_step(result), 3.0));
}

void shared_interfaces_add_up() {
  PipelineSpec spec = line({0.1, 0.1, 0.1}, {2.0, 2.0, 0.0, 0.0}, 200);
  spec.num_buffers_in = spec.num_buffers_out = 2;
  spec.shared = {{{0, 1}, {1.0, 1.0}}};
  const SimulationResult even = simulate(spec);
  CHECK(close((even.result_s[150] - even.result_s[50]) / 100.0, 4.0));
  spec.shared = {{{0, 1}, {1.0, 0.5}}};  // the second takes half of the interface at its full speed
  const SimulationResult uneven = simulate(spec);
  CHECK(close((uneven.result_s[150] - uneven.result_s[50]) / 100.0, 3.0));
  spec.shared = {{{0, 1}, {0.5, 0.5}}};  // both fit
  const SimulationResult both = simulate(spec);
  CHECK(close((both.result_s[150] - both.result_s[50]) / 100.0, 2.0));
}

void jitter_has_the_asked_quantiles() {
  std::vector<double> values;
  const double sigma = std::log(1.3) / 1.6448536269514722;
  for (i64 k = 0; k < 20'001; ++k) values.push_back(jitter(7, 3, k, sigma));
  std::ranges::sort(values);
  CHECK(std::abs(values[10'000] - 1.0) < 0.01);
  CHECK(std::abs(values[19'000] - 1.3) < 0.02);
  CHECK(jitter(7, 3, 5, sigma) == jitter(7, 3, 5, sigma));
  CHECK(jitter(8, 3, 5, sigma) != jitter(7, 3, 5, sigma));
}

void both_ways_agree() {
  Random random(4);
  for (int round = 0; round < 3000; ++round) {
    const auto stages = static_cast<std::size_t>(random.number(1, 6));
    PipelineSpec spec =
        line(random.seconds(stages, 20), random.seconds(stages + 1, 20), random.number(1, 40));
    spec.latency_s = random.seconds(stages + 1, 4);
    for (auto& local : spec.local) local = random.chance(25) ? 1 : 0;
    spec.num_buffers_in = random.number(1, 3);
    spec.num_buffers_out = random.number(1, 3);
    spec.sigma = random.chance(50) ? 0.2 : 0.0;
    spec.num_warm_up = random.number(0, 3);
    spec.warm_up_factor = 2.5;
    spec.count_from = random.number(0, 5);
    spec.trace_to = std::min<i64>(spec.num_microbatches, 10);
    if (random.chance(40)) {
      double due = 0.0;
      for (i64 k = 0; k < spec.num_microbatches; ++k) {
        spec.ready_s.push_back(due);
        due += static_cast<double>(random.number(0, 20)) * 0.25;
      }
    }
    const SimulationResult fast = simulate(spec);
    spec.by_events = true;
    const SimulationResult events = simulate(spec);
    CHECK(close(fast.fed_s, events.fed_s));
    CHECK(close(fast.result_s, events.result_s));
    CHECK(close(fast.busy_s, events.busy_s));
    CHECK(close(fast.starved_s, events.starved_s));
    CHECK(close(fast.blocked_s, events.blocked_s));
    CHECK(close(fast.sending_s, events.sending_s));
    CHECK(close(fast.trace_published_s, events.trace_published_s));
    CHECK(close(fast.trace_send_start_s, events.trace_send_start_s));
  }
}

void times_have_the_same_bits_on_every_machine() {
  Random random(11);
  std::uint64_t digest = 0xcbf29ce484222325U;  // FNV-1a
  for (int round = 0; round < 300; ++round) {
    const auto stages = static_cast<std::size_t>(random.number(1, 6));
    PipelineSpec spec = line({}, {}, random.number(2, 40));
    for (std::size_t s = 0; s < stages; ++s)
      spec.compute_s.push_back(0.001 * static_cast<double>(random.number(1, 999)));
    for (std::size_t s = 0; s <= stages; ++s)
      spec.transfer_s.push_back(0.0007 * static_cast<double>(random.number(0, 999)));
    spec.latency_s.assign(stages + 1, 0.0003);
    spec.local.assign(stages + 1, 0);
    spec.num_buffers_in = spec.num_buffers_out = random.number(1, 3);
    spec.sigma = 0.1;
    spec.seed = round;
    for (const double time : simulate(spec).result_s)
      digest = (digest ^ std::bit_cast<std::uint64_t>(time)) * 0x100000001b3U;
  }
  std::printf("digest of the times: %llx\n", static_cast<unsigned long long>(digest));
  CHECK(digest == 0x4927ac22883fb30eU);
}

void malformed_pipelines_are_refused() {
  const auto refused = [](auto change) {
    PipelineSpec spec = line({1.0}, {1.0, 1.0}, 3);
    change(spec);
    try {
      simulate(spec);
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  CHECK(!refused([](PipelineSpec&) {}));
  CHECK(refused([](PipelineSpec& spec) { spec.compute_s = {}; }));
  CHECK(refused([](PipelineSpec& spec) { spec.compute_s = {-1.0}; }));
  CHECK(refused([](PipelineSpec& spec) { spec.transfer_s = {1.0}; }));
  CHECK(refused([](PipelineSpec& spec) { spec.num_buffers_in = 0; }));
  CHECK(refused([](PipelineSpec& spec) { spec.num_microbatches = 0; }));
  CHECK(refused([](PipelineSpec& spec) { spec.ready_s = {0.0}; }));
  CHECK(refused([](PipelineSpec& spec) { spec.sigma = NAN; }));
  CHECK(refused([](PipelineSpec& spec) { spec.trace_to = 4; }));
  CHECK(refused([](PipelineSpec& spec) { spec.shared = {{{0, 0}, {1.0, 1.0}}}; }));
  CHECK(refused([](PipelineSpec& spec) { spec.shared = {{{0}, {0.0}}}; }));
  CHECK(refused([](PipelineSpec& spec) { spec.shared = {{{5}, {1.0}}}; }));
}

}  // namespace

int main() {
  the_slowest_sets_the_period();
  one_buffer_lets_transfer_and_compute_take_turns();
  shared_interfaces_add_up();
  jitter_has_the_asked_quantiles();
  both_ways_agree();
  times_have_the_same_bits_on_every_machine();
  malformed_pipelines_are_refused();
}
