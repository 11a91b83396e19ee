// Products of codes are those of doubles, by every version, whatever the sizes and the number of rows.
#include "native_text/products8.hpp"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "random.hpp"

using namespace native_text;  // NOLINT(google-build-using-namespace): every name here is of what is tested

namespace {

std::vector<std::int8_t> whole_numbers(i64 count, unsigned seed) {
  std::mt19937 engine(seed);
  return ::whole_numbers<std::int8_t>(count, -127, 127, engine);
}

struct Coded {
  std::vector<std::int8_t> codes;
  std::vector<float> worth;
  std::vector<std::int32_t> sums;
  i64 rows;
  i64 stride;

  CodedRows from(i64 row, i64 count) const {
    return {codes.data() + row * stride, worth.data() + row, sums.data() + row, count, stride};
  }
};

Coded coded(const std::vector<float>& x, i64 rows, i64 size) {
  const i64 stride = coded_size(size);
  Coded found{std::vector<std::int8_t>(static_cast<std::size_t>(rows * stride), 77),
              std::vector<float>(static_cast<std::size_t>(rows)),
              std::vector<std::int32_t>(static_cast<std::size_t>(rows)), rows, stride};
  for (i64 row = 0; row < rows; ++row) {
    const auto place = static_cast<std::size_t>(row);
    code_row(x.data() + row * size, size, 1e-30F, found.codes.data() + row * stride, found.worth[place],
             found.sums[place]);
  }
  return found;
}

void check_sizes(i64 rows, i64 out, i64 in) {
  const std::vector<std::int8_t> codes = whole_numbers(out * in, 1);
  const std::vector<float> scale = numbers(out, 2);
  const std::vector<float> bias = numbers(out, 3);
  const std::vector<float> added = numbers(rows * (out + 3), 4);
  const Coded x = coded(numbers(rows * in, 5), rows, in);
  std::vector<std::uint8_t> packed(static_cast<std::size_t>(packed_size8(out, in)));
  const i64 half = out / 2;
  pack8(codes.data(), half, in, 0, packed.data());
  pack8(codes.data() + half * in, out - half, in, half, packed.data());
  for (const bool more : {false, true}) {
    const CodedWeights weights{packed.data(), scale.data(), more ? bias.data() : nullptr, in, out};
    const RowsIn also{more ? added.data() : nullptr, rows, out, out + 3};
    const i64 stride = out + 2;
    const float untouched = -1234.5F;
    std::vector<float> together(static_cast<std::size_t>(rows * stride), untouched);
    std::vector<float> plainly = together;
    multiply(x.from(0, rows), weights, also, {together.data(), stride});
    multiply_plainly(x.from(0, rows), weights, also, {plainly.data(), stride});
    for (i64 row = 0; row < rows; ++row) {
      std::vector<float> alone(static_cast<std::size_t>(out));
      const RowsIn its{more ? added.data() + row * (out + 3) : nullptr, 1, out, out + 3};
      multiply(x.from(row, 1), weights, its, {alone.data(), out});
      for (i64 channel = 0; channel < out; ++channel) {
        double total = 0.0;
        for (i64 i = 0; i < in; ++i) {
          total += codes[static_cast<std::size_t>(channel * in + i)] *
                   x.codes[static_cast<std::size_t>(row * x.stride + i)];
        }
        total *= static_cast<double>(x.worth[static_cast<std::size_t>(row)]) *
                 static_cast<double>(scale[static_cast<std::size_t>(channel)]);
        double size = std::abs(total);
        if (more) {
          const auto one = static_cast<double>(bias[static_cast<std::size_t>(channel)]);
          const auto other = static_cast<double>(added[static_cast<std::size_t>(row * (out + 3) + channel)]);
          total += one + other;
          size += std::abs(one) + std::abs(other);
        }
        const float found = together[static_cast<std::size_t>(row * stride + channel)];
        CHECK(std::abs(static_cast<double>(found) - total) <= 1e-6 * size);
        CHECK(found == plainly[static_cast<std::size_t>(row * stride + channel)]);
        CHECK(found == alone[static_cast<std::size_t>(channel)]);
      }
      for (i64 behind = out; behind < stride; ++behind) {
        CHECK(together[static_cast<std::size_t>(row * stride + behind)] == untouched);
      }
    }
  }
}

// The largest sums that there are, of both signs.
void check_extremes() {
  const i64 in = kMostSummed;
  for (const int sign : {-1, 1}) {
    const std::vector<std::int8_t> codes(static_cast<std::size_t>(in), static_cast<std::int8_t>(127 * sign));
    std::vector<std::uint8_t> packed(static_cast<std::size_t>(packed_size8(1, in)));
    pack8(codes.data(), 1, in, 0, packed.data());
    const Coded x = coded(std::vector<float>(static_cast<std::size_t>(in), 1.0F), 1, in);
    const float scale = 1.0F;
    float found = 0.0F;
    multiply(x.from(0, 1), {packed.data(), &scale, nullptr, in, 1}, {}, {&found, 1});
    CHECK(std::abs(found - static_cast<float>(127 * sign * in)) <= 1e-5F * 127.0F * static_cast<float>(in));
  }
}

void check_codes() {
  // 127 times a number over the largest: halves go to the even one of two
  const std::vector<float> x{127.0F, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F, 126.4F};
  const Coded found = coded(x, 1, 7);
  const std::vector<std::int8_t> wanted{127, 0, 2, 2, 0, -2, 126, 0};
  CHECK(found.codes == wanted);
  CHECK(found.sums[0] == 255);
  CHECK(found.worth[0] == 127.0F * (1.0F / 127.0F));
  const Coded nothing = coded({0.0F, 0.0F}, 1, 2);
  CHECK(nothing.codes[0] == 0 && nothing.worth[0] > 0.0F);
  const float huge = std::numeric_limits<float>::infinity();
  for (const float odd : {huge, -huge, std::nanf(""), -std::nanf("")}) {
    CHECK(std::isnan(coded({1.0F, odd, 2.0F}, 1, 3).worth[0]));
  }
}

// Rows that are prepared one by one give the same.
void check_prepared(i64 rows, i64 out, i64 in) {
  const std::vector<std::int8_t> codes = whole_numbers(out * in, 6);
  const std::vector<float> scale = numbers(out, 7);
  const std::vector<float> x = numbers(rows * in, 8);
  std::vector<std::uint8_t> packed(static_cast<std::size_t>(packed_size8(out, in)));
  pack8(codes.data(), out, in, 0, packed.data());
  const CodedWeights plain{packed.data(), scale.data(), nullptr, in, out};
  const EightBits weights(plain);
  std::vector<std::uint8_t> prepared(static_cast<std::size_t>(weights.prepared_size(rows)));
  for (i64 row = 0; row < rows; ++row) weights.prepare(x.data() + row * in, row, rows, prepared.data());
  std::vector<float> found(static_cast<std::size_t>(rows * out));
  std::vector<float> wanted = found;
  weights.multiply(prepared.data(), rows, {}, {found.data(), out});
  multiply(coded(x, rows, in).from(0, rows), plain, {}, {wanted.data(), out});
  CHECK(found == wanted);
}

void check_refusal() {
  try {
    const EightBits weights({nullptr, nullptr, nullptr, kMostSummed + 1, 1});
  } catch (const std::invalid_argument&) {
    return;
  }
  CHECK(false);
}

}  // namespace

int main() {
  for (const i64 rows : {0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 64}) {
    check_sizes(rows, 70, 37);
  }
  for (const i64 out : {1, 15, 16, 17, 63, 64, 65, 128, 200}) check_sizes(5, out, 64);
  for (const i64 in : {1, 2, 3, 4, 5, 31, 576}) check_sizes(7, 67, in);
  for (const i64 rows : {1, 5, 64}) check_prepared(rows, 70, 37);
  check_extremes();
  check_codes();
  check_refusal();
  return 0;
}
