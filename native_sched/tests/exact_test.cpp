// The solver against every plan there is, costed with Instance::cost.
#include <algorithm>
#include <optional>
#include <tuple>

#include "check.hpp"
#include "native_sched/solver.hpp"
#include "problem/instance.hpp"

using namespace native_sched;

namespace {

using Figures = std::tuple<i64, i64, std::size_t>;

struct All {
  const ProblemSpec& spec;
  const Instance instance;
  std::vector<AssignmentSpec> stages{};
  std::vector<Figures> found{};

  [[nodiscard]] bool cut_allowed(i64 cut) const {
    return std::ranges::none_of(spec.together,
                                [&](const RangeSpec& r) { return r.first < cut && cut <= r.last; });
  }
  [[nodiscard]] bool stage_allowed(const AssignmentSpec& stage) const {
    const int kind = instance.kind_of(static_cast<int>(stage.host));
    const i64 memory =
        instance.stage_memory(kind, static_cast<int>(stage.first), static_cast<int>(stage.last) + 1);
    if (memory > spec.hosts[static_cast<std::size_t>(stage.host)].memory_bytes) return false;
    return std::ranges::all_of(spec.pins, [&](const PinSpec& pin) {
      const bool apart = stage.last < pin.first || stage.first > pin.last;
      return apart || std::ranges::find(pin.hosts, stage.host) != pin.hosts.end();
    });
  }
  void extend(i64 first) {
    if (first == instance.num_units()) {
      const PlanCost plan = instance.cost(stages);
      const bool latency = spec.objective == Objective::kLatency;
      if (latency) {
        found.emplace_back(plan.latency_ps, plan.period_ps, stages.size());
      } else {
        found.emplace_back(plan.period_ps, plan.latency_ps, stages.size());
      }
      return;
    }
    if (spec.max_hosts && static_cast<i64>(stages.size()) >= *spec.max_hosts) return;
    for (i64 host = 0; host < instance.num_hosts(); ++host) {
      if (std::ranges::any_of(stages, [&](const AssignmentSpec& s) { return s.host == host; })) continue;
      for (i64 last = first; last < instance.num_units(); ++last) {
        const AssignmentSpec stage{first, last, host};
        if ((last + 1 < instance.num_units() && !cut_allowed(last + 1)) || !stage_allowed(stage)) continue;
        stages.push_back(stage);
        extend(last + 1);
        stages.pop_back();
      }
    }
  }
};

void test_one(Random& random, int k) {
  ProblemSpec spec = draw(random, 6, 4, k % 3 == 1, k % 3 == 2);
  if (k % 4 == 0) spec.objective = Objective::kLatency;
  All all{spec, Instance(spec)};
  all.extend(0);
  const Solution solution = solve(spec);
  CHECK(solution.feasible == !all.found.empty());
  if (!solution.feasible) return;
  const PlanCost& plan = solution.plan;
  const bool latency = spec.objective == Objective::kLatency;
  const i64 first = latency ? plan.latency_ps : plan.period_ps;
  const i64 second = latency ? plan.period_ps : plan.latency_ps;
  CHECK(std::tuple(first, second, plan.stages.size()) == std::ranges::min(all.found));
  CHECK(solution.method == Method::kExact);
  CHECK(solution.lower_bound_ps == first);
  if (k % 10 != 0) return;
  spec.state_budget = 4;
  const Solution bounded = solve(spec);
  if (!bounded.feasible) return;
  CHECK(bounded.lower_bound_ps <= first);
  CHECK((latency ? bounded.plan.latency_ps : bounded.plan.period_ps) >= first);
}

}  // namespace

int main() {
  Random random(1);
  for (int k = 0; k < 3000; ++k) test_one(random, k);
  return 0;
}
