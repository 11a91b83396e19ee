// One problem's exact searches, with what they share.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "search/cheapest.hpp"
#include "search/furthest.hpp"
#include "search/graph.hpp"
#include "search/labels.hpp"
#include "search/model.hpp"
#include "search/reach.hpp"

namespace native_sched {

// Every search raises TableFull where it outgrows its memory; what is proved until then stays.
class Search {
 public:
  // Nothing where the host combinations are more than `budget`.
  static std::unique_ptr<Search> build(const Model& model, i64 budget);

  // A plan of least period, or nothing where there is none within the period limit.
  std::optional<PlanCost> least_period();
  // Any plan within both limits of the problem.
  std::optional<PlanCost> any_plan();
  // Of the plans within both limits the one of least latency, then fewest hosts, then first in order.
  std::optional<PlanCost> cheapest(i64 period, i64 most_latency);
  // The same for each number of hosts.
  std::vector<std::optional<PlanCost>> cheapest_each(i64 period, i64 most_latency);
  // Of the plans of at most this latency the one of least period, and among those what `cheapest` says; no
  // such plan has a period below `lower`. `found` is one such plan.
  PlanCost squeeze(PlanCost found, i64 lower, i64 most_latency);

  [[nodiscard]] i64 num_probes() const { return num_probes_; }
  [[nodiscard]] int furthest_cut() const { return furthest_cut_; }
  // No plan has a smaller period than this, as far as is proved.
  [[nodiscard]] i64 lower_bound() const { return lower_; }

 private:
  using Plan = Cheapest::Plan;

  explicit Search(const Model& model);
  const Graph& graph();
  Reach& reach();
  Cheapest& by(Cost cost);
  std::optional<PlanCost> probe(i64 period);
  std::optional<PlanCost> probe_medium(i64 period);
  std::vector<std::optional<Plan>> each_with_splits(i64 period, i64 most_latency);
  [[nodiscard]] i64 after(i64 period) const;
  [[nodiscard]] i64 guess() const;
  [[nodiscard]] PlanCost cost(const Steps& steps) const;

  const Model& model_;
  std::optional<Furthest> furthest_;
  // Made when first needed: many problems are settled without them.
  std::optional<Graph> graph_;
  bool has_graph_ = false;  // does it fit the budget and memory
  std::optional<Reach> reach_;
  std::optional<Cheapest> by_latency_, by_transfers_;
  std::optional<Labels> labels_;
  i64 num_probes_ = 0;
  i64 lower_ = 0;
  int furthest_cut_ = 0;
};

}  // namespace native_sched
