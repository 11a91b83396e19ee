#include "search/bounded.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "problem/instance.hpp"
#include "search/search.hpp"

namespace native_sched {
namespace {

constexpr i64 kRelaxedStates = 100'000;
constexpr int kLeastOrders = 20;
constexpr int kMostOrders = 400;
constexpr int kOrderWork = 120'000;  // an order's cost grows with the square of its hosts

std::size_t at(i64 index) { return static_cast<std::size_t>(index); }

double whole_chain_s(const KindSpec& kind) {
  return std::accumulate(kind.unit_s.begin(), kind.unit_s.end(), 0.0);
}

double distance(const ProblemSpec& spec, int u, int v) {
  const HostSpec& a = spec.hosts[at(u)];
  const HostSpec& b = spec.hosts[at(v)];
  const auto ratio = [](double x, double y) {
    return x == y ? 0.0 : std::abs(std::log((x + 1e-12) / (y + 1e-12)));
  };
  double sum = a.kind == b.kind ? 0.0
                                : 0.05 + ratio(whole_chain_s(spec.kinds[at(a.kind)]),
                                               whole_chain_s(spec.kinds[at(b.kind)]));
  sum += 0.2 * ratio(static_cast<double>(a.memory_bytes), static_cast<double>(b.memory_bytes));
  if (std::isfinite(a.bandwidth_bytes_per_s) && std::isfinite(b.bandwidth_bytes_per_s)) {
    sum += 0.2 * ratio(a.bandwidth_bytes_per_s, b.bandwidth_bytes_per_s);
  }
  return sum;
}

std::vector<std::vector<int>> group_hosts(const ProblemSpec& spec, i64 budget) {
  std::vector<int> hosts(spec.hosts.size());
  std::iota(hosts.begin(), hosts.end(), 0);
  std::ranges::stable_sort(hosts, {}, [&](int h) {
    const HostSpec& host = spec.hosts[at(h)];
    return std::tuple(spec.data_host == h, whole_chain_s(spec.kinds[at(host.kind)]), host.kind,
                      host.memory_bytes);
  });
  std::vector<std::vector<int>> groups;
  for (const int host : hosts) groups.push_back({host});
  const auto states = [&] {
    double product = static_cast<double>(groups.size());
    for (const auto& group : groups) product *= static_cast<double>(group.size()) + 1.0;
    return product;
  };
  std::vector<double> gaps;  // between neighbours; the data host, last in order, keeps its own group
  const std::size_t mergeable = groups.size() - (spec.data_host ? 1 : 0);
  for (std::size_t g = 0; g + 1 < mergeable; ++g) gaps.push_back(distance(spec, hosts[g], hosts[g + 1]));
  while (states() > static_cast<double>(budget) && !gaps.empty()) {
    const auto least = std::ranges::min_element(gaps) - gaps.begin();
    auto& group = groups[at(least)];
    const auto& next = groups[at(least + 1)];
    group.insert(group.end(), next.begin(), next.end());
    groups.erase(groups.begin() + least + 1);
    // A wide group is dear to widen: its members all pass for the best of them.
    if (least > 0) gaps[at(least - 1)] += gaps[at(least)] / 2;
    if (at(least + 1) < gaps.size()) gaps[at(least + 1)] += gaps[at(least)] / 2;
    gaps.erase(gaps.begin() + least);
  }
  return groups;
}

void take_best(std::vector<double>& best, const std::vector<double>& other) {
  if (best.empty() || other.empty()) {
    best.clear();  // nothing to encode or decode is the least
    return;
  }
  for (std::size_t k = 0; k < best.size(); ++k) best[k] = std::min(best[k], other[k]);
}

void relax_links(ProblemSpec& relaxed, const ProblemSpec& spec, const std::vector<std::vector<int>>& groups) {
  if (spec.links.model != LinkModel::kPairwise) return;
  for (const auto& from : groups) {
    for (const auto& to : groups) {
      double bandwidth = 0.0;
      double latency = kNoBandwidth;
      for (const int u : from) {
        for (const int v : to) {
          if (u == v) continue;
          bandwidth = std::max(bandwidth, spec.links.bandwidth[at(u)][at(v)]);
          latency = std::min(latency, spec.links.latency[at(u)][at(v)]);
        }
      }
      for (const int u : from) {
        for (const int v : to) {
          if (u == v) continue;
          relaxed.links.bandwidth[at(u)][at(v)] = bandwidth;
          relaxed.links.latency[at(u)][at(v)] = latency;
        }
      }
    }
  }
}

i64 figure(const ProblemSpec& spec, const PlanCost& plan) {
  return spec.objective == Objective::kLatency ? plan.latency_ps : plan.period_ps;
}

// The best plan whose hosts appear in `order`, or nothing.
struct Trial {
  std::vector<i64> order;
  std::optional<PlanCost> plan;
  i64 covered = 0;  // where there is no plan: how far one gets
};

void try_order(const ProblemSpec& spec, Trial& trial, bool settle_ties) {
  ProblemSpec ordered = spec;
  ordered.host_order = trial.order;
  ordered.settle_ties = settle_ties;
  const Instance instance(ordered);
  const Model model(instance);
  const auto search = Search::build(model, i64{1} << 24);
  if (!search) return;
  try {
    if (spec.objective == Objective::kLatency) {
      trial.plan = search->cheapest(model.most_period(), model.most_latency());
    } else {
      trial.plan = search->least_period();
      const bool late = trial.plan && trial.plan->latency_ps > model.most_latency();
      if (trial.plan && (late || settle_ties)) {
        auto plan =
            search->cheapest(late ? model.most_period() : trial.plan->period_ps, model.most_latency());
        if (plan && late)
          plan = search->squeeze(std::move(*plan), trial.plan->period_ps, model.most_latency());
        if (plan || late) trial.plan = std::move(plan);
      }
    }
  } catch (const TableFull&) {
    trial.plan.reset();
  }
  trial.covered = trial.plan ? instance.num_units() : search->furthest_cut();
}

bool better(const ProblemSpec& spec, const Trial& a, const Trial& b) {
  if (a.plan.has_value() != b.plan.has_value()) return a.plan.has_value();
  if (!a.plan) return a.covered > b.covered;
  return figure(spec, *a.plan) < figure(spec, *b.plan);
}

// Swaps and moves of single hosts, in an order that is the same in every run, as long as they help.
Trial improve(const ProblemSpec& spec, Trial best, i64 lower) {
  const std::size_t hosts = best.order.size();
  std::uint64_t state = 0x9E3779B97F4A7C15U;
  const auto draw = [&](std::size_t count) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return static_cast<std::size_t>(state >> 33) % count;
  };
  const int orders = std::clamp(kOrderWork / static_cast<int>(hosts * hosts), kLeastOrders, kMostOrders);
  for (int k = 0; k < orders && hosts > 1; ++k) {
    if (best.plan && figure(spec, *best.plan) <= lower) break;
    Trial trial{best.order, {}, 0};
    const std::size_t a = draw(hosts);
    const std::size_t b = draw(hosts);
    if (k % 2 == 0) {
      std::swap(trial.order[a], trial.order[b]);
    } else {
      const i64 host = trial.order[a];
      trial.order.erase(trial.order.begin() + static_cast<std::ptrdiff_t>(a));
      trial.order.insert(trial.order.begin() + static_cast<std::ptrdiff_t>(b), host);
    }
    if (a == b) continue;
    try_order(spec, trial, false);
    if (better(spec, trial, best)) best = std::move(trial);
  }
  return best;
}

// Hosts in the order of a plan's stages; those that it leaves unused come after the last of their like.
std::vector<i64> order_of(const ProblemSpec& spec, const PlanCost& plan) {
  std::vector<i64> order;
  for (const StageCost& stage : plan.stages) order.push_back(stage.host);
  for (i64 host = 0; host < static_cast<i64>(spec.hosts.size()); ++host) {
    if (std::ranges::find(order, host) != order.end()) continue;
    const auto like = std::find_if(order.rbegin(), order.rend(), [&](i64 other) {
      return spec.hosts[at(other)].kind == spec.hosts[at(host)].kind;
    });
    order.insert(like.base(), host);
  }
  return order;
}

struct Relaxation {
  std::optional<PlanCost> plan;
  i64 lower = 0;
  bool infeasible = false;
};

Relaxation bound(const ProblemSpec& relaxed) {
  const Instance instance(relaxed);
  const Model model(instance);
  const auto search = Search::build(model, i64{1} << 24);
  Relaxation result;
  if (!search) return result;
  try {
    result.plan = search->least_period();
    result.infeasible = !result.plan;
    if (relaxed.objective != Objective::kLatency) result.lower = search->lower_bound();
    if (relaxed.objective == Objective::kLatency && result.plan) {
      result.plan = search->cheapest(model.most_period(), model.most_latency());
      result.infeasible = !result.plan;
      if (result.plan) result.lower = result.plan->latency_ps;
    }
  } catch (const TableFull&) {
    if (relaxed.objective != Objective::kLatency) result.lower = search->lower_bound();
  }
  return result;
}

}  // namespace

ProblemSpec relax(const ProblemSpec& spec, i64 budget) {
  ProblemSpec relaxed = spec;
  const auto groups = group_hosts(spec, budget);
  relaxed.kinds.clear();
  for (const auto& group : groups) {
    HostSpec best = spec.hosts[at(group.front())];
    KindSpec kind = spec.kinds[at(best.kind)];
    for (const int h : group) {
      const HostSpec& host = spec.hosts[at(h)];
      const KindSpec& other = spec.kinds[at(host.kind)];
      best.memory_bytes = std::max(best.memory_bytes, host.memory_bytes);
      best.bandwidth_bytes_per_s = std::max(best.bandwidth_bytes_per_s, host.bandwidth_bytes_per_s);
      kind.runtime_bytes = std::min(kind.runtime_bytes, other.runtime_bytes);
      take_best(kind.unit_s, other.unit_s);
      take_best(kind.encode_s, other.encode_s);
      take_best(kind.decode_s, other.decode_s);
    }
    best.kind = static_cast<i64>(relaxed.kinds.size());
    relaxed.kinds.push_back(std::move(kind));
    for (const int h : group) relaxed.hosts[at(h)] = best;
    for (PinSpec& pin : relaxed.pins) {
      const bool any = std::ranges::any_of(
          group, [&](int h) { return std::ranges::find(pin.hosts, h) != pin.hosts.end(); });
      if (any) pin.hosts.insert(pin.hosts.end(), group.begin(), group.end());
    }
  }
  relax_links(relaxed, spec, groups);
  return relaxed;
}

Solution solve_bounded(const ProblemSpec& spec, i64 lower_ps) {
  const Instance instance(spec);
  Solution solution;
  const Relaxation relaxation = bound(relax(spec, std::min(spec.state_budget, kRelaxedStates)));
  if (relaxation.infeasible) return solution;
  solution.lower_bound_ps = std::max(lower_ps, relaxation.lower);
  std::vector<Trial> starts;
  if (spec.host_order) {
    starts.push_back({*spec.host_order, {}, 0});
  } else {
    if (relaxation.plan) starts.push_back({order_of(spec, *relaxation.plan), {}, 0});
    std::vector<i64> by_speed(spec.hosts.size());
    std::iota(by_speed.begin(), by_speed.end(), 0);
    std::ranges::stable_sort(by_speed, {},
                             [&](i64 h) { return whole_chain_s(spec.kinds[at(spec.hosts[at(h)].kind)]); });
    starts.push_back({by_speed, {}, 0});
    std::ranges::reverse(by_speed);
    starts.push_back({by_speed, {}, 0});
  }
  for (Trial& start : starts) try_order(spec, start, false);
  Trial best =
      *std::ranges::min_element(starts, [&](const Trial& a, const Trial& b) { return better(spec, a, b); });
  if (!spec.host_order) best = improve(spec, std::move(best), solution.lower_bound_ps);
  if (best.plan) {
    Trial settled = best;
    try_order(spec, settled, true);
    if (settled.plan) best = std::move(settled);
  }
  solution.feasible = best.plan.has_value();
  solution.method = Method::kBounded;
  if (best.plan) {
    const bool met = figure(spec, *best.plan) <= solution.lower_bound_ps;
    solution.method = met ? Method::kExactTiesOpen : Method::kBounded;
    solution.plan = std::move(*best.plan);
  }
  return solution;
}

}  // namespace native_sched
