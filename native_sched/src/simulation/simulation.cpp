#include "native_sched/simulation.hpp"

#include <cmath>
#include <string>
#include <utility>

#include "problem/refuse.hpp"
#include "simulation/sim_record.hpp"

namespace native_sched {
namespace {

void check_times(const std::string& field, const std::vector<double>& values, std::size_t want) {
  check_length(field, values.size(), want);
  for (std::size_t k = 0; k < values.size(); ++k) {
    if (!(values[k] >= 0.0) || !std::isfinite(values[k]))
      fail(item(field, k) + " is " + std::to_string(values[k]) + ": a time is finite and 0 or more");
  }
}

void check_shared(const PipelineSpec& spec) {
  std::vector<bool> taken(spec.transfer_s.size());
  for (std::size_t r = 0; r < spec.shared.size(); ++r) {
    const SharedSpec& shared = spec.shared[r];
    const std::string name = item("shared", r);
    check_length(name + ".share", shared.share.size(), shared.boundaries.size());
    for (std::size_t k = 0; k < shared.boundaries.size(); ++k) {
      check_index(item(name + ".boundaries", k), shared.boundaries[k], static_cast<int>(taken.size()));
      const auto boundary = static_cast<std::size_t>(shared.boundaries[k]);
      if (spec.local[boundary] != 0 || taken[boundary])
        fail(item(name + ".boundaries", k) + ": a boundary between hosts shares one thing only");
      taken[boundary] = true;
      if (!(shared.share[k] > 0.0 && shared.share[k] <= 1.0))
        fail(item(name + ".share", k) + " is " + std::to_string(shared.share[k]) +
             ": expected more than 0, at most 1");
    }
  }
}

void check(const PipelineSpec& spec) {
  const std::size_t stages = spec.compute_s.size();
  if (stages == 0) fail("compute_s is empty: a pipeline has one stage at least");
  check_times("compute_s", spec.compute_s, stages);
  check_times("transfer_s", spec.transfer_s, stages + 1);
  check_times("latency_s", spec.latency_s, stages + 1);
  check_length("local", spec.local.size(), stages + 1);
  for (const auto& [name, value] :
       {std::pair{"num_buffers_in", spec.num_buffers_in}, std::pair{"num_buffers_out", spec.num_buffers_out},
        std::pair{"num_microbatches", spec.num_microbatches}}) {
    if (value < 1 || value > 1'000'000'000)
      fail(std::string(name) + " is " + std::to_string(value) + ": expected 1 to 1000000000");
  }
  if (!spec.ready_s.empty())
    check_times("ready_s", spec.ready_s, static_cast<std::size_t>(spec.num_microbatches));
  if (!(spec.sigma >= 0.0) || !std::isfinite(spec.sigma)) fail("sigma must be finite and 0 or more");
  if (!(spec.warm_up_factor > 0.0) || !std::isfinite(spec.warm_up_factor))
    fail("warm_up_factor must be finite and greater than 0");
  if (spec.trace_from < 0 || spec.trace_to > spec.num_microbatches)
    fail("trace goes beyond the microbatches");
  check_shared(spec);
}

std::uint64_t mixed(std::uint64_t x) {  // the finaliser of splitmix64
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27U)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31U);
}

// The normal quantile: P. J. Acklam's rational approximation, relative error below 1.2e-9.
double normal_quantile(double p) {
  const double low = 0.02425;
  if (p < low || p > 1.0 - low) {
    const double q = std::sqrt(-2.0 * std::log(p < low ? p : 1.0 - p));
    const double x =
        (((((-7.784894002430293e-03 * q - 3.223964580411365e-01) * q - 2.400758277161838e+00) * q -
           2.549732539343734e+00) *
              q +
          4.374664141464968e+00) *
             q +
         2.938163982698783e+00) /
        ((((7.784695709041462e-03 * q + 3.224671290700398e-01) * q + 2.445134137142996e+00) * q +
          3.754408661907416e+00) *
             q +
         1.0);
    return p < low ? x : -x;
  }
  const double q = p - 0.5;
  const double r = q * q;
  return (((((-3.969683028665376e+01 * r + 2.209460984245205e+02) * r - 2.759285104469687e+02) * r +
            1.383577518672690e+02) *
               r -
           3.066479806614716e+01) *
              r +
          2.506628277459239e+00) *
         q /
         (((((-5.447609879822406e+01 * r + 1.615858368580409e+02) * r - 1.556989798598866e+02) * r +
            6.680131188771972e+01) *
               r -
           1.328068155288572e+01) *
              r +
          1.0);
}

}  // namespace

double jitter(i64 seed, i64 stage, i64 microbatch, double sigma) {
  const std::uint64_t place = mixed(static_cast<std::uint64_t>(seed)) ^ static_cast<std::uint64_t>(stage);
  const std::uint64_t bits = mixed(mixed(place) ^ static_cast<std::uint64_t>(microbatch));
  const double uniform = (static_cast<double>(bits >> 11U) + 0.5) * 0x1p-53;
  // Libraries differ in the last bit of exp and log: rounded to a float, the factor is the same everywhere.
  return static_cast<double>(static_cast<float>(std::exp(sigma * normal_quantile(uniform))));
}

Record::Record(const PipelineSpec& spec)
    : count_from_(spec.count_from), trace_from_(spec.trace_from), trace_to_(spec.trace_to) {
  const std::size_t stages = spec.compute_s.size();
  const auto microbatches = static_cast<std::size_t>(spec.num_microbatches);
  result_.fed_s.resize(microbatches);
  result_.result_s.resize(microbatches);
  result_.busy_s.resize(stages);
  result_.starved_s.resize(stages);
  result_.blocked_s.resize(stages);
  result_.sending_s.resize(stages + 1);
  const auto traced = static_cast<std::size_t>(std::max<i64>(0, trace_to_ - trace_from_));
  for (auto* rows : {&result_.trace_start_s, &result_.trace_end_s, &result_.trace_published_s})
    rows->resize(stages * traced);
  for (auto* rows : {&result_.trace_send_start_s, &result_.trace_send_end_s})
    rows->resize((stages + 1) * traced);
}

void Record::keep(std::size_t stage, i64 microbatch, double start, double end, double published) {
  const auto index = stage * static_cast<std::size_t>(trace_to_ - trace_from_) +
                     static_cast<std::size_t>(microbatch - trace_from_);
  result_.trace_start_s[index] = start;
  result_.trace_end_s[index] = end;
  result_.trace_published_s[index] = published;
}

void Record::keep(std::size_t boundary, i64 microbatch, double start, double end) {
  const auto index = boundary * static_cast<std::size_t>(trace_to_ - trace_from_) +
                     static_cast<std::size_t>(microbatch - trace_from_);
  result_.trace_send_start_s[index] = start;
  result_.trace_send_end_s[index] = end;
}

SimulationResult simulate(const PipelineSpec& spec) {
  check(spec);
  return spec.shared.empty() && !spec.by_events ? play_recurrence(spec) : play_events(spec);
}

}  // namespace native_sched
