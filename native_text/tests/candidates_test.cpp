// Candidates are what sorting all scores gives, equal ones by their place.
#include "native_text/candidates.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "check.hpp"

using namespace native_text;  // NOLINT(google-build-using-namespace): every name here is of what is tested

int main() {
  std::mt19937 engine(1);
  for (int round = 0; round < 300; ++round) {
    const auto size = static_cast<i64>(1 + engine() % 3000);
    const i64 count = 1 + static_cast<i64>(engine()) % std::min<i64>(size, 100);
    const bool equal = engine() % 3 == 0;  // many scores are
    std::normal_distribution<float> normal(0.0F, 30.0F);
    std::vector<float> scores(static_cast<std::size_t>(size));
    for (float& score : scores) score = equal ? static_cast<float>(engine() % 7) : normal(engine);
    std::vector<i64> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](i64 one, i64 other) {
      return scores[static_cast<std::size_t>(one)] > scores[static_cast<std::size_t>(other)];
    });
    std::vector<float> best(static_cast<std::size_t>(count));
    std::vector<i64> places(static_cast<std::size_t>(count));
    float log_sum = 0.0F;
    candidates(scores.data(), size, count, best.data(), places.data(), &log_sum);
    const auto most = static_cast<double>(scores[static_cast<std::size_t>(order[0])]);
    double sum = 0.0;
    for (const float score : scores) sum += std::exp(static_cast<double>(score) - most);
    CHECK(std::abs(static_cast<double>(log_sum) - (most + std::log(sum))) <
          1e-5 * std::max(1.0, std::abs(most)));
    for (std::size_t i = 0; i < best.size(); ++i) {
      CHECK(places[i] == order[i]);
      CHECK(best[i] == scores[static_cast<std::size_t>(order[i])]);
    }
  }
  std::vector<float> spoiled(500, 1.0F);
  spoiled[300] = std::nanf("");
  std::vector<float> best(3);
  std::vector<i64> places(3);
  float log_sum = 0.0F;
  candidates(spoiled.data(), 500, 3, best.data(), places.data(), &log_sum);
  CHECK(std::isnan(log_sum));
  for (const i64 place : places) CHECK(place >= 0 && place < 500);
  return 0;
}
