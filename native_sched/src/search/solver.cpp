#include "native_sched/solver.hpp"

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "search/bounded.hpp"
#include "search/search.hpp"

namespace native_sched {
namespace {

Solution give(const Search& search, PlanCost plan, i64 lower_bound, Method method = Method::kExact) {
  Solution solution;
  solution.feasible = true;
  solution.plan = std::move(plan);
  solution.method = method;
  solution.lower_bound_ps = lower_bound;
  solution.num_probes = search.num_probes();
  return solution;
}

Solution none(const Search& search) {
  Solution solution;
  solution.furthest_cut = search.furthest_cut();
  solution.num_probes = search.num_probes();
  return solution;
}

Solution solve_latency(const Model& model, Search& search) {
  auto plan = search.cheapest(model.most_period(), model.most_latency());
  if (!plan) return none(search);
  const i64 latency = plan->latency_ps;
  try {
    return give(search, search.squeeze(*plan, search.lower_bound(), latency), latency);
  } catch (const TableFull&) {
    return give(search, std::move(*plan), latency, Method::kExactTiesOpen);
  }
}

Solution solve_period(const Model& model, Search& search, bool settle_ties) {
  auto fastest = search.least_period();
  if (!fastest) return none(search);
  const i64 period = fastest->period_ps;
  const bool within = fastest->latency_ps <= model.most_latency();
  if (within && !settle_ties) return give(search, std::move(*fastest), period);
  try {
    const i64 most = within ? fastest->latency_ps : model.most_latency();
    if (auto plan = search.cheapest(period, most)) return give(search, std::move(*plan), period);
  } catch (const TableFull&) {
    if (within) return give(search, std::move(*fastest), period, Method::kExactTiesOpen);
    throw;
  }
  auto plan = search.cheapest(model.most_period(), model.most_latency());
  if (!plan) return none(search);
  PlanCost squeezed = search.squeeze(std::move(*plan), period + 1, model.most_latency());
  const i64 lower_bound = squeezed.period_ps;
  return give(search, std::move(squeezed), lower_bound);
}

bool beats(const PlanCost& a, const PlanCost& b) {
  return a.period_ps <= b.period_ps && a.latency_ps <= b.latency_ps && a.stages.size() <= b.stages.size();
}

std::vector<PlanCost> trade_offs(const Model& model, Search& search) {
  std::vector<PlanCost> found;
  for (i64 period = model.most_period(); period >= 0;) {
    i64 next = -1;
    for (auto& plan : search.cheapest_each(period, model.most_latency())) {
      if (!plan) continue;
      next = std::max(next, plan->period_ps - 1);
      found.push_back(std::move(*plan));
    }
    period = next;
  }
  return found;
}

}  // namespace

Solution solve(const ProblemSpec& spec) {
  const Instance instance(spec);
  const Model model(instance);
  if (model.num_classes() == 0) return {};
  const auto search = Search::build(model, spec.state_budget);
  if (!search) return solve_bounded(spec, 0);
  try {
    if (spec.any_plan) {
      auto plan = search->any_plan();
      return plan ? give(*search, std::move(*plan), 0, Method::kBounded) : none(*search);
    }
    if (spec.objective == Objective::kLatency) return solve_latency(model, *search);
    return solve_period(model, *search, spec.settle_ties);
  } catch (const TableFull&) {
    return solve_bounded(spec, spec.objective == Objective::kLatency ? 0 : search->lower_bound());
  }
}

std::vector<PlanCost> pareto(const ProblemSpec& spec) {
  const Instance instance(spec);
  const Model model(instance);
  if (model.num_classes() == 0) return {};
  const auto search = Search::build(model, spec.state_budget);
  if (!search)
    throw std::length_error("state_budget is " + std::to_string(spec.state_budget) +
                            ": a Pareto front needs more");
  std::vector<PlanCost> found;
  try {
    found = trade_offs(model, *search);
  } catch (const TableFull&) {
    throw std::length_error(
        "hosts: their combinations are too many for a Pareto front; set max_hosts or latency_limit_s");
  }
  std::ranges::stable_sort(found, [](const PlanCost& a, const PlanCost& b) {
    if (a.stages.size() != b.stages.size()) return a.stages.size() < b.stages.size();
    if (a.period_ps != b.period_ps) return a.period_ps < b.period_ps;
    return a.latency_ps < b.latency_ps;
  });
  std::vector<PlanCost> front;
  for (PlanCost& plan : found) {
    if (std::ranges::none_of(front, [&](const PlanCost& other) { return beats(other, plan); }))
      front.push_back(std::move(plan));
  }
  return front;
}

PlanCost evaluate(const ProblemSpec& spec, const std::vector<AssignmentSpec>& assignments) {
  return Instance(spec).cost(assignments);
}

}  // namespace native_sched
