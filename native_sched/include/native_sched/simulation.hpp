// A pipeline played through in time, as the runtime behaves: bounded buffers, one message at a time on each
// link, one compute thread a stage. Boundary 0 feeds stage 0, boundary i + 1 comes out of stage i; the last
// one ends at the data host. All times in seconds.
#pragma once

#include <cstdint>
#include <vector>

#include "native_sched/spec.hpp"

namespace native_sched {

// An interface or a medium that several boundaries cross. A message alone takes `share` of it; those under
// way together divide it evenly, and none gets more than its own share.
struct SharedSpec {
  std::vector<i64> boundaries;
  std::vector<double> share;  // above 0, at most 1
};

struct PipelineSpec {
  std::vector<double> compute_s;   // a stage: one microbatch, with decoding and encoding
  std::vector<double> transfer_s;  // a boundary: one message alone on its way
  std::vector<double> latency_s;   // a boundary
  std::vector<i64> local;          // a boundary: 1 where both its ends are on one host
  std::vector<SharedSpec> shared;
  i64 num_buffers_in = 1;
  i64 num_buffers_out = 1;
  i64 num_microbatches = 1;
  std::vector<double> ready_s;  // when each microbatch is there to be fed; empty: all at once
  double sigma = 0.0;           // of the logarithm of compute times, whose median is compute_s
  i64 seed = 0;
  i64 num_warm_up = 0;          // so many first microbatches of each stage ...
  double warm_up_factor = 1.0;  // ... take so many times as long
  i64 count_from = 0;           // the first microbatch that the sums below count
  i64 trace_from = 0;
  i64 trace_to = 0;        // exclusive
  bool by_events = false;  // true: play events even where no boundary shares anything
};

struct SimulationResult {
  std::vector<double> fed_s;  // a microbatch: when it got a buffer at the data host
  std::vector<double> result_s;
  std::vector<double> busy_s;     // a stage: sum of compute times
  std::vector<double> starved_s;  // a stage: sum of waits for input
  std::vector<double> blocked_s;  // a stage: sum of waits for a free send buffer
  std::vector<double> sending_s;  // a boundary: sum of transfers
  // Row by row, a stage or boundary each, for the traced microbatches.
  std::vector<double> trace_start_s;
  std::vector<double> trace_end_s;
  std::vector<double> trace_published_s;
  std::vector<double> trace_send_start_s;
  std::vector<double> trace_send_end_s;
};

SimulationResult simulate(const PipelineSpec& spec);

// What a stage's compute time is multiplied by: lognormal, median 1. The same wherever and in whatever order.
double jitter(i64 seed, i64 stage, i64 microbatch, double sigma);

}  // namespace native_sched
