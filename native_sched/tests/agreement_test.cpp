// Where the search over furthest cuts applies, it must agree with the bitsets at every period: the two share
// no idea.
#include <algorithm>

#include "check.hpp"
#include "problem/instance.hpp"
#include "search/furthest.hpp"
#include "search/reach.hpp"

using namespace native_sched;

namespace {

int compared = 0;

void test_one(Random& random) {
  ProblemSpec spec = draw(random, 40, 9, false, false);
  if (random.chance(70)) {
    for (auto* buffers : {&spec.entry_bytes, &spec.exit_bytes}) *buffers = spec.cut_bytes;
    for (KindSpec& kind : spec.kinds) {
      if (random.chance(50)) kind.encode_s.clear();
      for (std::size_t c = 0; c < kind.encode_s.size(); ++c)
        kind.encode_s[c] = static_cast<double>(spec.cut_bytes[c]) * 0.1;
      kind.decode_s = kind.encode_s;
    }
  }
  const Instance instance(spec);
  const Model model(instance);
  auto furthest = Furthest::build(model, 1 << 20);
  if (!furthest) return;
  const Graph graph = Graph::build(model);
  Reach reach(model, graph);
  for (int k = 0; k < 12; ++k) {
    const i64 period = random.number(0, model.most_period() / (1 + random.number(0, 60)));
    const auto a = furthest->probe(period);
    const auto b = reach.probe(Limits::of(period));
    CHECK(a.has_value() == b.has_value());
    ++compared;
    if (!a) continue;
    for (const Steps& steps : {*a, *b}) {
      const PlanCost plan = instance.cost(model.assign(steps));
      CHECK(plan.bottleneck.kind == BottleneckKind::kInterface || plan.period_ps <= period);
      for (const StageCost& stage : plan.stages) {
        CHECK(stage.memory_bytes <= spec.hosts[static_cast<std::size_t>(stage.host)].memory_bytes);
      }
    }
  }
}

}  // namespace

int main() {
  Random random(2);
  for (int k = 0; k < 2500; ++k) test_one(random);
  CHECK(compared > 10'000);
  return 0;
}
