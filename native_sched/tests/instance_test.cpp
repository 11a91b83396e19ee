// Exact arithmetic, the cost of given plans, and what is refused.
#include "problem/instance.hpp"

#include <functional>
#include <limits>

#include "check.hpp"
#include "native_sched/solver.hpp"

using namespace native_sched;

namespace {

ProblemSpec small() {
  ProblemSpec spec;
  spec.kinds.push_back({{1.0, 2.0, 3.0}, {}, {}, 5, {}});
  spec.hosts = {{0, 100, 10.0}, {0, 100, 20.0}};
  spec.cut_bytes = {10, 20, 30, 40};
  spec.weight_bytes = {1, 2, 3};
  spec.activation_bytes = {4, 5, 6};
  spec.entry_bytes = {1, 1, 1, 1};
  spec.exit_bytes = {2, 2, 2, 2};
  spec.shared_weights = {{{0, 2}, 7}};
  spec.data_host = 0;
  spec.links.latency_s = 0.5;
  spec.state_budget = 1000;
  return spec;
}

void refused(const std::string& field, const std::function<void(ProblemSpec&)>& spoil) {
  ProblemSpec spec = small();
  spoil(spec);
  try {
    (void)solve(spec);
  } catch (const std::invalid_argument& error) {
    if (std::string(error.what()).find(field) != std::string::npos) return;
    std::fprintf(stderr, "%s does not name %s\n", error.what(), field.c_str());
  }
  std::fprintf(stderr, "%s was taken\n", field.c_str());
  std::exit(1);
}

void test_transfer() {
  CHECK(transfer_ps(0, 1.0) == 0);
  CHECK(transfer_ps(1, 3.0) == 333'333'333'334);
  CHECK(transfer_ps(3, 3.0) == 1'000'000'000'000);
  CHECK(transfer_ps(1, 0.5) == 2'000'000'000'000);
  CHECK(transfer_ps(1000, 125e6) == 8'000'000);
  CHECK(transfer_ps(1, 1e300) == 1);
  CHECK(transfer_ps(1, 1e-300) == kLimit);
  CHECK(transfer_ps(1, std::numeric_limits<double>::denorm_min()) == kLimit);
  CHECK(transfer_ps(i64{1} << 62, 1.0) == kLimit);
  CHECK(transfer_ps(i64{1} << 62, 0x1p62) == 1'000'000'000'000);
  // 0.1 is a little above one tenth, so that a byte takes a little less than ten seconds.
  CHECK(transfer_ps(1, 0.1) == 10'000'000'000'000);
}

void test_cost() {
  const PlanCost plan = evaluate(small(), {{0, 1, 1}, {2, 2, 0}});
  CHECK(plan.stages.size() == 2);
  CHECK(plan.stages[0].compute_ps == 3'000'000'000'000);
  CHECK(plan.stages[0].receive_ps == 1'000'000'000'000);
  CHECK(plan.stages[0].send_ps == 3'000'000'000'000);
  CHECK(plan.stages[0].memory_bytes == 5 + 3 + 7 + 5 + 1 + 2);
  CHECK(plan.stages[1].send_ps == 0);
  CHECK(plan.period_ps == 3'000'000'000'000);
  CHECK(plan.latency_ps == 11'000'000'000'000);
  CHECK(plan.bottleneck.kind == BottleneckKind::kStage && plan.bottleneck.stage == 0);
  ProblemSpec lighter = small();
  lighter.kinds[0].saved_bytes = {0, 2, 1};
  CHECK(evaluate(lighter, {{0, 1, 1}, {2, 2, 0}}).stages[0].memory_bytes == plan.stages[0].memory_bytes - 2);
  // Amid the chain the data host sends inputs and its own cut: 1 + 3 seconds.
  ProblemSpec spec = small();
  spec.hosts.push_back({0, 100, 20.0});
  CHECK(evaluate(spec, {{0, 0, 1}, {1, 1, 0}, {2, 2, 2}}).period_ps == 6'000'000'000'000);
  CHECK(evaluate(spec, {{0, 0, 1}, {1, 1, 0}, {2, 2, 2}}).bottleneck.kind == BottleneckKind::kInterface);
  spec.links.model = LinkModel::kMedium;
  spec.links.medium_bytes_per_s = 10.0;
  CHECK(evaluate(spec, {{0, 0, 1}, {1, 1, 0}, {2, 2, 2}}).period_ps == 10'000'000'000'000);
  CHECK(evaluate(spec, {{0, 0, 1}, {1, 1, 0}, {2, 2, 2}}).bottleneck.kind == BottleneckKind::kMedium);
}

void test_refusals() {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  refused("kinds[0].unit_s[1]", [&](ProblemSpec& s) { s.kinds[0].unit_s[1] = nan; });
  refused("kinds[0].unit_s[1]", [&](ProblemSpec& s) { s.kinds[0].unit_s[1] = -1.0; });
  refused("kinds[0].unit_s[1]", [&](ProblemSpec& s) { s.kinds[0].unit_s[1] = infinity; });
  refused("kinds[0].unit_s[2]", [&](ProblemSpec& s) { s.kinds[0].unit_s[2] = 1e30; });
  refused("kinds[0].unit_s", [&](ProblemSpec& s) { s.kinds[0].unit_s.pop_back(); });
  refused("kinds[0].encode_s", [&](ProblemSpec& s) { s.kinds[0].encode_s = {0.0}; });
  refused("kinds", [&](ProblemSpec& s) { s.kinds.clear(); });
  refused("hosts", [&](ProblemSpec& s) { s.hosts.clear(); });
  refused("hosts[1].kind", [&](ProblemSpec& s) { s.hosts[1].kind = 1; });
  refused("kinds[0].saved_bytes[1]", [&](ProblemSpec& s) { s.kinds[0].saved_bytes = {0, 3, 0}; });
  refused("kinds[0].saved_bytes", [&](ProblemSpec& s) { s.kinds[0].saved_bytes = {0, 1}; });
  refused("hosts[1].memory_bytes", [&](ProblemSpec& s) { s.hosts[1].memory_bytes = -1; });
  refused("hosts[0].bandwidth_bytes_per_s", [&](ProblemSpec& s) { s.hosts[0].bandwidth_bytes_per_s = 0.0; });
  refused("hosts[0].bandwidth_bytes_per_s",
          [&](ProblemSpec& s) { s.hosts[0].bandwidth_bytes_per_s = infinity; });
  refused("cut_bytes", [&](ProblemSpec& s) { s.cut_bytes.pop_back(); });
  refused("cut_bytes[3]", [&](ProblemSpec& s) { s.cut_bytes[3] = (i64{1} << 62) + 1; });
  refused("cut_bytes[2]", [&](ProblemSpec& s) { s.cut_bytes[2] = i64{1} << 62; });
  refused("weight_bytes[1]", [&](ProblemSpec& s) { s.weight_bytes[1] = -3; });
  refused("weight_bytes[2]", [&](ProblemSpec& s) { s.weight_bytes = {1, i64{1} << 61, i64{1} << 62}; });
  refused("shared_weights[0].units[1]", [&](ProblemSpec& s) { s.shared_weights[0].units[1] = 3; });
  refused("data_host", [&](ProblemSpec& s) { s.data_host = 2; });
  refused("pins[0].hosts", [&](ProblemSpec& s) { s.pins = {{0, 1, {}}}; });
  refused("pins[0].units[1]", [&](ProblemSpec& s) { s.pins = {{0, 3, {0}}}; });
  refused("together[0]", [&](ProblemSpec& s) { s.together = {{2, 1}}; });
  refused("host_order[1]", [&](ProblemSpec& s) { s.host_order = {{1, 1}}; });
  refused("max_hosts", [&](ProblemSpec& s) { s.max_hosts = 0; });
  refused("state_budget", [&](ProblemSpec& s) { s.state_budget = 0; });
  refused("period_limit_s", [&](ProblemSpec& s) { s.period_limit_s = nan; });
  refused("latency_limit_s", [&](ProblemSpec& s) { s.objective = Objective::kPeriodUnderLatency; });
  refused("links.latency_s", [&](ProblemSpec& s) { s.links.latency_s = -1.0; });
  refused("links.bandwidth_bytes_per_s[0][1]", [&](ProblemSpec& s) {
    s.links.model = LinkModel::kPairwise;
    s.links.bandwidth = {{1.0, nan}, {1.0, 1.0}};
    s.links.latency = {{0.0, 0.0}, {0.0, 0.0}};
  });
}

}  // namespace

int main() {
  test_transfer();
  test_cost();
  test_refusals();
  return 0;
}
