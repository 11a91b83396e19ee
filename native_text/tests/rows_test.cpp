// Each kernel computes what its formula says, in doubles; a number that is not finite spoils its own row
// alone.
#include "native_text/rows.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "random.hpp"

using namespace native_text;  // NOLINT(google-build-using-namespace): every name here is of what is tested

namespace {

constexpr float kLeast = 1e-30F;

bool near(double found, double wanted) {
  return std::abs(found - wanted) <= 1e-5 * std::max(1.0, std::abs(wanted));
}

// Scaled rows are those of `wanted`, (rows, size).
void check_scaled(const std::vector<float>& data, const std::vector<float>& worth,
                  const std::vector<double>& wanted, i64 rows, i64 size) {
  for (i64 row = 0; row < rows; ++row) {
    double largest = 0.0;
    for (i64 i = 0; i < size; ++i) {
      largest = std::max(largest, std::abs(wanted[static_cast<std::size_t>(row * size + i)]));
    }
    const auto found = static_cast<double>(worth[static_cast<std::size_t>(row)]);
    CHECK(near(found, std::max(largest, static_cast<double>(kLeast))));
    for (i64 i = 0; i < size; ++i) {
      const auto place = static_cast<std::size_t>(row * size + i);
      CHECK(std::abs(data[place]) <= 127.0F * 1.000001F);
      CHECK(std::abs(static_cast<double>(data[place]) / 127.0 * found - wanted[place]) <
            1e-5 * std::max(1.0, found));
    }
  }
}

void check_sizes(i64 rows, i64 size) {
  const i64 stride = size + 5;
  const std::vector<float> x = numbers(rows * stride, 1);
  const std::vector<float> y = numbers(rows * stride, 2);
  const std::vector<float> weights = numbers(size, 3);
  std::vector<double> plain;
  std::vector<double> normal;
  std::vector<double> gated;
  for (i64 row = 0; row < rows; ++row) {
    double squares = 0.0;
    for (i64 i = 0; i < size; ++i) {
      squares += std::pow(static_cast<double>(x[static_cast<std::size_t>(row * stride + i)]), 2.0);
    }
    for (i64 i = 0; i < size; ++i) {
      const auto a = static_cast<double>(x[static_cast<std::size_t>(row * stride + i)]);
      const auto b = static_cast<double>(y[static_cast<std::size_t>(row * stride + i)]);
      plain.push_back(a);
      normal.push_back(a / std::sqrt(squares / static_cast<double>(size) + 1e-5) *
                       static_cast<double>(weights[static_cast<std::size_t>(i)]));
      gated.push_back(a / (1.0 + std::exp(-a)) * b);
    }
  }
  std::vector<float> data(plain.size());
  std::vector<float> worth(static_cast<std::size_t>(rows));
  const RowsIn in{x.data(), rows, size, stride};
  const ScaledRows out{data.data(), worth.data(), 127.0F, kLeast};
  scale(in, out);
  check_scaled(data, worth, plain, rows, size);
  normalize_and_scale(in, weights.data(), 1e-5F, out);
  check_scaled(data, worth, normal, rows, size);
  gate_and_scale(in, {y.data(), rows, size, stride}, out);
  check_scaled(data, worth, gated, rows, size);
  normalize(in, weights.data(), 1e-5F, data.data());
  for (std::size_t i = 0; i < data.size(); ++i) CHECK(near(static_cast<double>(data[i]), normal[i]));
}

void check_extremes() {
  const float huge = std::numeric_limits<float>::infinity();
  const std::vector<float> x{0.0F, 0.0F, 0.0F,  1.0F,  std::nanf(""), 2.0F,
                             huge, 1.0F, -1.0F, 3e38F, -200.0F,       200.0F};
  const std::vector<float> up(12, 1.0F);
  std::vector<float> data(12);
  std::vector<float> worth(4);
  const ScaledRows out{data.data(), worth.data(), 127.0F, kLeast};
  const RowsIn in{x.data(), 4, 3, 3};
  scale(in, out);
  CHECK(worth[0] == kLeast && data[0] == 0.0F);
  CHECK(std::isnan(worth[1]) && !std::isfinite(worth[2]));
  CHECK(worth[3] == 3e38F && data[9] == 127.0F);
  gate_and_scale(in, {up.data(), 4, 3, 3}, out);
  CHECK(worth[0] == kLeast && std::isnan(worth[1]) && !std::isfinite(worth[2]));
  CHECK(worth[3] == 3e38F);
}

void check_rotation() {
  const i64 rows = 2;
  const i64 heads = 3;
  const i64 tokens = 5;
  const i64 size = 14;
  const std::vector<float> x = numbers(rows * tokens * heads * size, 4);  // (rows, tokens, heads, size)
  const std::vector<float> cos = numbers(rows * tokens * size, 5);
  const std::vector<float> sin = numbers(rows * tokens * size, 6);
  std::vector<float> found(x.size());
  rotate({x.data(), rows, heads, tokens, size, tokens * heads * size, size, heads * size},
         {cos.data(), tokens * size, size}, {sin.data(), tokens * size, size}, found.data());
  for (i64 row = 0; row < rows; ++row) {
    for (i64 head = 0; head < heads; ++head) {
      for (i64 token = 0; token < tokens; ++token) {
        for (i64 i = 0; i < size; ++i) {
          const float* given = x.data() + ((row * tokens + token) * heads + head) * size;
          const auto angle = static_cast<std::size_t>((row * tokens + token) * size + i);
          const float other = i < size / 2 ? -given[i + size / 2] : given[i - size / 2];
          const float wanted = given[i] * cos[angle] + other * sin[angle];
          CHECK(std::abs(found[static_cast<std::size_t>(((row * heads + head) * tokens + token) * size + i)] -
                         wanted) < 1e-5F);
        }
      }
    }
  }
}

}  // namespace

int main() {
  for (const i64 size : {1, 7, 64, 576, 1536}) check_sizes(3, size);
  check_extremes();
  check_rotation();
  return 0;
}
