// For problems over their state budget: a plan found by search among host orders, and a bound that is a true
// one since it is the exact optimum of an easier problem, in which hosts that differ a little are each given
// the best of all of them.
#pragma once

#include "native_sched/spec.hpp"

namespace native_sched {

// The same problem with hosts in groups; each host has the least times, the most memory and the best links of
// its group. Groups are merged, the most similar first, until there are at most `budget` states. No plan is
// worse in it.
ProblemSpec relax(const ProblemSpec& spec, i64 budget);

// A plan with what is proved of it. `lower_ps` is a bound that is known already. The method is kExact where
// the bound is met, and also where no plan exists; an infeasible kBounded means that none was found.
Solution solve_bounded(const ProblemSpec& spec, i64 lower_ps);

}  // namespace native_sched
