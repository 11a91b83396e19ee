// The textbook dynamic programme with prefix sums, for benchmarks/scheduler.py to compare with: over (units
// done, how many hosts of each kind are used, kind of the next host), O(L^2 M T^2). Reads a problem, prints
// milliseconds and the least period in picoseconds. Memory is not limited in it.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <limits>
#include <vector>

namespace {

using i64 = std::int64_t;

struct Case {
  int units = 0;
  int kinds = 0;
  int hosts = 0;
  std::vector<std::vector<i64>> prefix;                 // kind, cut
  std::vector<std::vector<std::vector<i64>>> transfer;  // kind, kind, cut
};

Case read(const char* path) {
  std::ifstream file(path);
  Case c;
  file >> c.units >> c.kinds >> c.hosts;
  const auto kinds = static_cast<std::size_t>(c.kinds);
  const auto units = static_cast<std::size_t>(c.units);
  c.prefix.assign(kinds, std::vector<i64>(units + 1));
  for (auto& prefix : c.prefix) {
    for (std::size_t u = 0; u < units; ++u) {
      i64 time = 0;
      file >> time;
      prefix[u + 1] = prefix[u] + time;
    }
  }
  std::vector<double> rates(kinds);
  for (double& rate : rates) file >> rate;
  std::vector<double> bytes(units + 1);
  for (double& value : bytes) file >> value;
  c.transfer.assign(kinds, std::vector<std::vector<i64>>(kinds, std::vector<i64>(units + 1)));
  for (std::size_t u = 0; u < kinds; ++u) {
    for (std::size_t v = 0; v < kinds; ++v) {
      for (std::size_t cut = 0; cut <= units; ++cut) {
        c.transfer[u][v][cut] = static_cast<i64>(std::ceil(bytes[cut] * 1e12 / std::min(rates[u], rates[v])));
      }
    }
  }
  return c;
}

i64 least_period(const Case& c) {
  const auto kinds = static_cast<std::size_t>(c.kinds);
  const auto units = static_cast<std::size_t>(c.units);
  std::vector<std::size_t> stride(kinds);
  std::size_t combinations = 1;
  for (auto& value : stride) {
    value = combinations;
    combinations *= static_cast<std::size_t>(c.hosts) + 1;
  }
  const i64 never = std::numeric_limits<i64>::max();
  std::vector<i64> best((units + 1) * combinations * kinds, never);
  const auto at = [&](std::size_t cut, std::size_t used, std::size_t next) -> i64& {
    return best[(cut * combinations + used) * kinds + next];
  };
  const auto spent = [&](std::size_t used, std::size_t kind) {
    return used / stride[kind] % (static_cast<std::size_t>(c.hosts) + 1) == static_cast<std::size_t>(c.hosts);
  };
  for (std::size_t next = 0; next < kinds; ++next) at(0, 0, next) = 0;
  i64 least = never;
  for (std::size_t i = 0; i < units; ++i) {
    for (std::size_t used = 0; used < combinations; ++used) {
      for (std::size_t u = 0; u < kinds; ++u) {
        const i64 so_far = at(i, used, u);
        if (so_far == never || spent(used, u)) continue;
        for (std::size_t j = i + 1; j <= units; ++j) {
          const i64 cost = std::max(so_far, c.prefix[u][j] - c.prefix[u][i]);
          if (j == units) least = std::min(least, cost);
          const std::size_t after = used + stride[u];
          for (std::size_t v = 0; v < kinds; ++v) {
            if (spent(after, v)) continue;
            i64& old = at(j, after, v);
            old = std::min(old, std::max(cost, c.transfer[u][v][j]));
          }
        }
      }
    }
  }
  return least;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const Case c = read(argv[1]);
  const auto begun = std::chrono::steady_clock::now();
  const i64 period = least_period(c);
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - begun;
  std::printf("%.3f %lld\n", spent.count(), static_cast<long long>(period));
  return 0;
}
