// Spoiled problems are refused or solved, and never do anything else.
#include <limits>

#include "check.hpp"
#include "native_sched/solver.hpp"

using namespace native_sched;

namespace {

double odd_number(Random& random) {
  const double values[] = {0.0,
                           -0.0,
                           -1.0,
                           1e-320,
                           1e-12,
                           1e6,
                           1e18,
                           1e300,
                           std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity(),
                           std::numeric_limits<double>::quiet_NaN()};
  return values[random.number(0, 10)];
}

i64 odd_integer(Random& random) {
  const i64 values[] = {0,
                        -1,
                        1,
                        7,
                        i64{1} << 31,
                        i64{1} << 32,
                        i64{1} << 61,
                        i64{1} << 62,
                        (i64{1} << 62) + 1,
                        std::numeric_limits<i64>::max(),
                        std::numeric_limits<i64>::min()};
  return values[random.number(0, 10)];
}

template <typename T, typename Odd>
void spoil_list(Random& random, std::vector<T>& values, Odd odd) {
  if (random.chance(20)) values.resize(static_cast<std::size_t>(random.number(0, 9)));
  if (!values.empty())
    values[static_cast<std::size_t>(random.number(0, static_cast<i64>(values.size()) - 1))] = odd(random);
}

void spoil(Random& random, ProblemSpec& spec) {
  switch (random.number(0, 19)) {
    case 0:
      spoil_list(random, spec.kinds[0].unit_s, odd_number);
      break;
    case 1:
      spoil_list(random, spec.kinds[0].encode_s, odd_number);
      break;
    case 2:
      spoil_list(random, spec.kinds[0].decode_s, odd_number);
      break;
    case 3:
      spec.kinds[0].runtime_bytes = odd_integer(random);
      spec.kinds[0].saved_bytes = {odd_integer(random)};
      break;
    case 4:
      spec.hosts[0].bandwidth_bytes_per_s = odd_number(random);
      break;
    case 5:
      spec.hosts[0].memory_bytes = odd_integer(random);
      break;
    case 6:
      spec.hosts[0].kind = odd_integer(random);
      break;
    case 7:
      spoil_list(random, spec.cut_bytes, odd_integer);
      break;
    case 8:
      spoil_list(random, spec.weight_bytes, odd_integer);
      break;
    case 9:
      spoil_list(random, spec.activation_bytes, odd_integer);
      break;
    case 10:
      spoil_list(random, spec.entry_bytes, odd_integer);
      break;
    case 11:
      spoil_list(random, spec.exit_bytes, odd_integer);
      break;
    case 12:
      spec.links.medium_bytes_per_s = odd_number(random);
      break;
    case 13:
      spec.links.latency_s = odd_number(random);
      break;
    case 14:
      spec.data_host = odd_integer(random);
      break;
    case 15:
      spec.pins = {{odd_integer(random), odd_integer(random), {odd_integer(random)}}};
      break;
    case 16:
      spec.together = {{odd_integer(random), odd_integer(random)}};
      break;
    case 17:
      spec.host_order = std::vector<i64>{odd_integer(random), 0};
      break;
    case 18:
      spec.period_limit_s = odd_number(random);
      break;
    default:
      spec.links.model = static_cast<LinkModel>(random.number(0, 2));
      break;
  }
}

}  // namespace

int main() {
  Random random(3);
  for (int k = 0; k < 30'000; ++k) {
    ProblemSpec spec = draw(random, 7, 4, k % 3 == 1, k % 3 == 2);
    spec.objective = static_cast<Objective>(random.number(0, 2));
    if (random.chance(50)) spec.latency_limit_s = odd_number(random);
    for (i64 times = random.number(1, 2); times > 0; --times) spoil(random, spec);
    try {
      (void)solve(spec);
    } catch (const std::invalid_argument&) {
      continue;
    }
  }
  return 0;
}
