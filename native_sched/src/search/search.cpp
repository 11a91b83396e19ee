#include "search/search.hpp"

#include <algorithm>
#include <cassert>

namespace native_sched {
namespace {

bool better(const Cheapest::Plan& a, const Cheapest::Plan& b) {
  if (a.cost != b.cost) return a.cost < b.cost;
  if (a.steps.size() != b.steps.size()) return a.steps.size() < b.steps.size();
  return comes_before(a.steps, b.steps);
}

}  // namespace

Search::Search(const Model& model) : model_(model), lower_(model.instance().trivial_period_ps()) {}

std::unique_ptr<Search> Search::build(const Model& model, i64 budget) {
  auto search = std::unique_ptr<Search>(new Search(model));
  if (!model.medium()) search->furthest_ = Furthest::build(model, budget);
  search->has_graph_ = Graph::within(model, budget);
  if (!search->furthest_ && !search->has_graph_) return nullptr;
  return search;
}

const Graph& Search::graph() {
  if (!has_graph_) throw TableFull();
  if (!graph_) graph_ = Graph::build(model_);
  return *graph_;
}

Reach& Search::reach() {
  if (!reach_) reach_.emplace(model_, graph());
  return *reach_;
}

Cheapest& Search::by(Cost cost) {
  auto& search = cost == Cost::kLatency ? by_latency_ : by_transfers_;
  if (!search) search.emplace(model_, graph(), cost);
  return *search;
}

PlanCost Search::cost(const Steps& steps) const { return model_.instance().cost(model_.assign(steps)); }

std::optional<PlanCost> Search::probe_medium(i64 period) {
  Cheapest& search = by(Cost::kTransfers);
  const auto plan = search.find(Limits::of(period), period);
  if (!plan) return std::nullopt;
  return cost(plan->steps);
}

std::optional<PlanCost> Search::probe(i64 period) {
  ++num_probes_;
  if (model_.medium()) return probe_medium(period);
  std::optional<Steps> steps = furthest_ ? furthest_->probe(period) : reach().probe(Limits::of(period));
  furthest_cut_ =
      std::max(furthest_cut_, model_.cut_of(furthest_ ? furthest_->furthest_cut() : reach().furthest_cut()));
  if (!steps) return std::nullopt;
  PlanCost plan = cost(*steps);
  if (plan.period_ps <= period) return plan;
  // This plan breaks a limit on what the data host's interface carries; others may not.
  for (const Limits& limits : model_.splits(period)) {
    if ((steps = reach().probe(limits))) return cost(*steps);
  }
  return std::nullopt;
}

std::optional<PlanCost> Search::any_plan() {
  auto plan = probe(model_.most_period());
  if (!plan || plan->latency_ps <= model_.most_latency()) return plan;
  return cheapest(model_.most_period(), model_.most_latency());
}

// No plan has a period above this one and below what this returns. Over a shared medium any sum of transfers
// may be the period, so that the next whole picosecond is the next candidate.
i64 Search::after(i64 period) const {
  return model_.medium() ? period + 1 : std::max(period + 1, model_.next_candidate(period));
}

// The harmonic mean over hosts, as if all could be kept busy, and a little more.
i64 Search::guess() const {
  double rate = 0.0;
  const int last = model_.last_cut();
  for (int c = 0; c < model_.num_classes(); ++c) {
    const double whole = static_cast<double>(model_.end_ps(c)[last] + model_.start_ps(c)[0]);
    rate += static_cast<double>(model_.count(c)) / std::max(whole, 1.0);
  }
  return std::clamp(static_cast<i64>(1.05 / std::max(rate, 1e-18)), lower_, model_.most_period());
}

std::optional<PlanCost> Search::least_period() {
  std::optional<PlanCost> best;
  const i64 most = model_.most_period();
  if (lower_ > most) return std::nullopt;
  i64 period = guess();
  for (int tries = 0; !(best = probe(period)); ++tries) {
    if (period >= most) return std::nullopt;
    lower_ = after(period);
    if (lower_ > most) return std::nullopt;
    period = tries < 5 ? std::clamp(period + period / 3, lower_, most) : most;
  }
  while (lower_ < best->period_ps) {
    period = lower_ + (best->period_ps - lower_) / 2;
    if (auto plan = probe(period)) {
      best = std::move(plan);
    } else {
      lower_ = std::min(best->period_ps, after(period));
    }
  }
  return best;
}

std::vector<std::optional<Search::Plan>> Search::each_with_splits(i64 period, i64 most_latency) {
  Cheapest& search = by(Cost::kLatency);
  std::vector<std::optional<Plan>> best(static_cast<std::size_t>(model_.max_stages()) + 1);
  for (const Limits& limits : model_.splits(period)) {
    auto plans = search.find_each(limits, most_latency);
    for (std::size_t k = 1; k < best.size(); ++k) {
      if (plans[k] && (!best[k] || better(*plans[k], *best[k]))) best[k] = std::move(plans[k]);
    }
  }
  return best;
}

std::vector<std::optional<PlanCost>> Search::cheapest_each(i64 period, i64 most_latency) {
  std::vector<std::optional<PlanCost>> plans(static_cast<std::size_t>(model_.max_stages()) + 1);
  Cheapest& search = by(Cost::kLatency);
  const auto relaxed = search.find_each(Limits::of(period), most_latency);
  bool within = true;
  for (std::size_t k = 1; k < plans.size(); ++k) {
    if (!relaxed[k]) continue;
    plans[k] = cost(relaxed[k]->steps);
    within = within && plans[k]->period_ps <= period;
  }
  if (within) return plans;
  std::ranges::fill(plans, std::nullopt);
  if (model_.medium()) {
    if (!labels_) labels_.emplace(model_, graph());
    const auto exact = labels_->find_each(period, most_latency);
    for (std::size_t k = 1; k < plans.size(); ++k) {
      if (exact[k]) plans[k] = cost(*exact[k]);
    }
    return plans;
  }
  const auto exact = each_with_splits(period, most_latency);
  for (std::size_t k = 1; k < plans.size(); ++k) {
    if (exact[k]) plans[k] = cost(exact[k]->steps);
  }
  return plans;
}

std::optional<PlanCost> Search::cheapest(i64 period, i64 most_latency) {
  ++num_probes_;
  Cheapest& search = by(Cost::kLatency);
  const auto plan = search.find(Limits::of(period), most_latency);
  if (!plan) return std::nullopt;
  PlanCost result = cost(plan->steps);
  if (result.period_ps <= period) return result;
  // Sums over an interface or the medium are too large in this plan.
  std::optional<PlanCost> best;
  for (auto& other : cheapest_each(period, most_latency)) {
    if (other && (!best || other->latency_ps < best->latency_ps)) best = std::move(other);
  }
  return best;
}

PlanCost Search::squeeze(PlanCost found, i64 lower, i64 most_latency) {
  while (lower < found.period_ps) {
    const i64 period = lower + (found.period_ps - lower) / 2;
    if (auto plan = cheapest(period, most_latency)) {
      found = std::move(*plan);
    } else {
      lower = std::min(found.period_ps, after(period));
    }
  }
  return found;
}

}  // namespace native_sched
