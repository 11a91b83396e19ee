// What a simulation leaves behind, and how long each piece of work takes; both ways of playing it use these.
#pragma once

#include <limits>

#include "native_sched/simulation.hpp"

namespace native_sched {

inline constexpr double kNever = std::numeric_limits<double>::infinity();

inline double compute_time(const PipelineSpec& spec, std::size_t stage, i64 microbatch) {
  double time = spec.compute_s[stage];
  if (microbatch < spec.num_warm_up) time *= spec.warm_up_factor;
  if (spec.sigma > 0.0) time *= jitter(spec.seed, static_cast<i64>(stage), microbatch, spec.sigma);
  return time;
}

inline double ready_time(const PipelineSpec& spec, i64 microbatch) {
  return spec.ready_s.empty() ? 0.0 : spec.ready_s[static_cast<std::size_t>(microbatch)];
}

class Record {
 public:
  explicit Record(const PipelineSpec& spec);

  void fed(i64 microbatch, double time) { result_.fed_s[static_cast<std::size_t>(microbatch)] = time; }
  void arrived(i64 microbatch, double time) { result_.result_s[static_cast<std::size_t>(microbatch)] = time; }
  // `free`: when the stage had handed on the microbatch before.
  void computed(std::size_t stage, i64 microbatch, double free, double start, double end, double published) {
    if (microbatch >= count_from_) {
      result_.starved_s[stage] += start - free;
      result_.busy_s[stage] += end - start;
      result_.blocked_s[stage] += published - end;
    }
    if (traced(microbatch)) keep(stage, microbatch, start, end, published);
  }
  void sent(std::size_t boundary, i64 microbatch, double start, double end) {
    if (microbatch >= count_from_) result_.sending_s[boundary] += end - start;
    if (traced(microbatch)) keep(boundary, microbatch, start, end);
  }
  SimulationResult take() { return std::move(result_); }

 private:
  [[nodiscard]] bool traced(i64 microbatch) const {
    return microbatch >= trace_from_ && microbatch < trace_to_;
  }
  void keep(std::size_t stage, i64 microbatch, double start, double end, double published);
  void keep(std::size_t boundary, i64 microbatch, double start, double end);

  i64 count_from_;
  i64 trace_from_;
  i64 trace_to_;
  SimulationResult result_;
};

SimulationResult play_recurrence(const PipelineSpec& spec);
SimulationResult play_events(const PipelineSpec& spec);

}  // namespace native_sched
