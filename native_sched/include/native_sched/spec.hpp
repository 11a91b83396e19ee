// What a caller states and what it gets back, in the caller's units (seconds, bytes). No invariant holds
// here: `Instance` checks everything.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace native_sched {

using i64 = std::int64_t;

inline constexpr double kNoBandwidth = std::numeric_limits<double>::infinity();

struct KindSpec {
  std::vector<double> unit_s;
  std::vector<double> encode_s;  // per cut; empty for zeros
  std::vector<double> decode_s;  // per cut; empty for zeros
  i64 runtime_bytes = 0;
  std::vector<i64> saved_bytes;  // per unit, of weight_bytes: what this kind need not hold; empty for zeros
};

struct HostSpec {
  i64 kind = 0;
  i64 memory_bytes = 0;
  double bandwidth_bytes_per_s = kNoBandwidth;
};

enum class LinkModel { kHost, kPairwise, kMedium };

struct LinksSpec {
  LinkModel model = LinkModel::kHost;
  double medium_bytes_per_s = kNoBandwidth;    // kMedium
  double latency_s = 0.0;                      // kHost, kMedium
  std::vector<std::vector<double>> bandwidth;  // kPairwise, bytes per second, [from][to]
  std::vector<std::vector<double>> latency;    // kPairwise, seconds, [from][to]
};

struct SharedWeightSpec {
  std::vector<i64> units;
  i64 num_bytes = 0;
};

struct PinSpec {
  i64 first = 0;
  i64 last = 0;
  std::vector<i64> hosts;
};

struct RangeSpec {
  i64 first = 0;
  i64 last = 0;
};

enum class Objective { kPeriod, kLatency, kPeriodUnderLatency };

struct ProblemSpec {
  std::vector<KindSpec> kinds;
  std::vector<HostSpec> hosts;
  LinksSpec links;
  std::vector<i64> cut_bytes;
  std::vector<i64> weight_bytes;
  std::vector<i64> activation_bytes;
  std::vector<SharedWeightSpec> shared_weights;
  std::vector<i64> entry_bytes;
  std::vector<i64> exit_bytes;
  std::optional<i64> data_host;
  Objective objective = Objective::kPeriod;
  std::optional<double> latency_limit_s;
  std::vector<PinSpec> pins;
  std::vector<RangeSpec> together;
  std::vector<i64> excluded_hosts;
  std::optional<std::vector<i64>> host_order;
  std::optional<i64> max_hosts;
  std::optional<double> period_limit_s;
  i64 state_budget = 0;
  bool settle_ties = true;  // false: any plan of least period will do
  bool any_plan = false;    // true: any plan within the limits will do
};

struct AssignmentSpec {
  i64 first = 0;
  i64 last = 0;
  i64 host = 0;
};

struct StageCost {
  i64 first = 0;
  i64 last = 0;
  i64 host = 0;
  i64 compute_ps = 0;
  i64 receive_ps = 0;
  i64 send_ps = 0;
  i64 memory_bytes = 0;
};

enum class BottleneckKind { kStage, kLink, kInterface, kMedium };

struct Bottleneck {
  BottleneckKind kind = BottleneckKind::kStage;
  i64 stage = -1;          // kStage
  std::vector<i64> hosts;  // the stage's host, the link's two ends, the interface's host
};

struct PlanCost {
  std::vector<StageCost> stages;
  i64 period_ps = 0;
  i64 latency_ps = 0;
  Bottleneck bottleneck;
};

enum class Method { kExact, kExactTiesOpen, kBounded };

struct Solution {
  bool feasible = false;
  PlanCost plan;
  Method method = Method::kExact;
  i64 lower_bound_ps = 0;  // of the objective's figure: period, or latency for kLatency
  i64 furthest_cut = 0;    // where infeasible: no plan covers more units than this
  i64 num_probes = 0;
};

}  // namespace native_sched
