// The searches put together: least period, least latency, least period under a latency limit, the Pareto
// front.
#pragma once

#include <vector>

#include "native_sched/spec.hpp"

namespace native_sched {

// Raises std::invalid_argument for a malformed problem, naming field and index.
Solution solve(const ProblemSpec& spec);

// Plans none of which another beats or equals in period, latency and number of hosts together; in order of
// hosts, then period. Empty where no plan exists. Raises std::invalid_argument as `solve` does, and
// std::length_error where the problem is over its state budget.
std::vector<PlanCost> pareto(const ProblemSpec& spec);

// What the given assignments cost; constraints, limits and memory are not looked at. Raises
// std::invalid_argument for a malformed problem or plan.
PlanCost evaluate(const ProblemSpec& spec, const std::vector<AssignmentSpec>& assignments);

}  // namespace native_sched
