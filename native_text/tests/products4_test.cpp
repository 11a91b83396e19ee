// Products of packed weights are those of the numbers that the codes stand for, in doubles, by either kernel,
// and a row's results are the same bits however many rows there are.
#include "native_text/products4.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "random.hpp"

using namespace native_text;  // NOLINT(google-build-using-namespace): every name here is of what is tested

namespace {

std::size_t at(i64 place) { return static_cast<std::size_t>(place); }

float to_bf16(float x) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x7FFFU + ((bits >> 16U) & 1U)) & 0xFFFF0000U;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

std::uint32_t upper_half(float x) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  return bits >> 16U;
}

// Codes, and the weights that they stand for; packed in two parts.
struct Random {
  i64 channels, inputs;
  std::vector<float> plain;
  std::vector<std::uint8_t> packed;

  Random(i64 num_channels, i64 num_inputs, unsigned seed)
      : channels(num_channels), inputs(num_inputs), plain(at(channels * inputs)) {
    std::mt19937 engine(seed);
    std::uniform_int_distribution<unsigned> code(0, 15);
    const std::vector<float> steps = numbers(channels * inputs / kPackedGroup * 2, seed + 1);
    std::vector<std::uint8_t> codes(plain.size() / 2);
    const i64 groups = inputs / kPackedGroup;
    const i64 half = channels / 2;
    std::vector<std::uint32_t> lower(at(groups * half));
    std::vector<std::uint32_t> upper(at(groups * (channels - half)));
    for (i64 channel = 0; channel < channels; ++channel) {
      for (i64 input = 0; input < inputs; ++input) {
        const i64 place = channel * groups + input / kPackedGroup;
        const float step = to_bf16(steps[at(2 * place)] * 0.1F);
        const float zero = to_bf16(steps[at(2 * place + 1)] * 0.1F);
        const unsigned one = code(engine);
        const std::uint32_t both_worth = upper_half(step) | upper_half(zero) << 16U;
        if (channel < half) {
          lower[at(input / kPackedGroup * half + channel)] = both_worth;
        } else {
          upper[at(input / kPackedGroup * (channels - half) + channel - half)] = both_worth;
        }
        auto& both = codes[at((channel * inputs + input) / 2)];
        both = static_cast<std::uint8_t>(both | one << (input % 2 * 4));
        plain[at(channel * inputs + input)] = (static_cast<float>(one) - 8.0F) * step + zero;
      }
    }
    packed.resize(at(packed_size4(channels, inputs)));
    pack4(codes.data(), lower.data(), half, inputs, 0, packed.data());
    pack4(codes.data() + half * inputs / 2, upper.data(), channels - half, inputs, half, packed.data());
  }

  // Of one row, before rounding; and the largest that sums on the way may have been.
  std::vector<double> times(const float* row, std::vector<double>& sizes) const {
    std::vector<double> found(at(channels));
    sizes.assign(at(channels), 0.0);
    for (i64 channel = 0; channel < channels; ++channel) {
      for (i64 input = 0; input < inputs; ++input) {
        const auto weight = static_cast<double>(plain[at(channel * inputs + input)]);
        const double part = static_cast<double>(to_bf16(row[input])) * weight;
        found[at(channel)] += part;
        sizes[at(channel)] += std::abs(part);
      }
    }
    return found;
  }
};

// A rounding to bf16, and what float32 loses where large parts cancel.
void check_near(float found, double wanted, double size) {
  CHECK(std::abs(static_cast<double>(found) - wanted) <= std::abs(wanted) / 256.0 + size * 1e-5);
}

std::vector<float> products(const FourBits& weights, const float* x, i64 stride, i64 rows,
                            const RowsIn& added = {}) {
  std::vector<std::uint8_t> prepared(at(weights.prepared_size(rows)));
  for (i64 row = 0; row < rows; ++row) weights.prepare(x + row * stride, row, rows, prepared.data());
  std::vector<float> found(at(rows * weights.out()));
  weights.multiply(prepared.data(), rows, added, {found.data(), weights.out()});
  return found;
}

void check_one(i64 channels, i64 inputs, Kernel kernel) {
  const i64 rows = 61;
  const i64 stride = inputs + 3;
  const Random random(channels, inputs, 7);
  const FourBits weights(random.packed.data(), nullptr, inputs, channels, kernel);
  const std::vector<float> x = numbers(rows * stride, 8);
  const std::vector<float> found = products(weights, x.data(), stride, rows);
  std::vector<double> sizes;
  for (i64 row = 0; row < rows; ++row) {
    const std::vector<double> wanted = random.times(x.data() + row * stride, sizes);
    for (i64 channel = 0; channel < channels; ++channel) {
      const float one = found[at(row * channels + channel)];
      CHECK(one == to_bf16(one));
      check_near(one, wanted[at(channel)], sizes[at(channel)]);
    }
  }
  for (const i64 count : {1, 2, 3, 5, 8, 13, 50}) {  // from another row on: in other tiles
    const std::vector<float> some = products(weights, x.data() + 3 * stride, stride, count);
    CHECK(std::equal(some.begin(), some.end(), found.begin() + 3 * channels));
  }
}

void check_more(i64 channels, Kernel kernel) {
  const i64 rows = 7;
  const i64 inputs = 64;
  const Random random(channels, inputs, 1);
  const std::vector<float> x = numbers(rows * inputs, 2);
  const std::vector<float> bias = numbers(channels, 3);
  const std::vector<float> added = numbers(rows * (channels + 1), 4);
  const FourBits plain(random.packed.data(), nullptr, inputs, channels, kernel);
  const FourBits biased(random.packed.data(), bias.data(), inputs, channels, kernel);
  std::vector<float> wanted = products(plain, x.data(), inputs, rows);
  for (i64 i = 0; i < rows * channels; ++i) {
    wanted[at(i)] =
        (wanted[at(i)] + bias[at(i % channels)]) + added[at(i / channels * (channels + 1) + i % channels)];
  }
  CHECK(products(biased, x.data(), inputs, rows, {added.data(), rows, channels, channels + 1}) == wanted);
}

void check_spoiled_row(Kernel kernel) {
  const Random random(20, 32, 11);
  std::vector<float> x = numbers(3 * 32, 12);
  x[35] = std::nanf("");
  const std::vector<float> found =
      products(FourBits(random.packed.data(), nullptr, 32, 20, kernel), x.data(), 32, 3);
  for (i64 i = 0; i < 60; ++i) CHECK(std::isnan(found[at(i)]) == (i / 20 == 1));
}

void check_refusal() {
  try {
    const FourBits weights(nullptr, nullptr, 48, 16);
  } catch (const std::invalid_argument&) {
    return;
  }
  CHECK(false);
}

}  // namespace

int main() {
  for (const Kernel kernel : {Kernel::fastest, Kernel::portable}) {
    for (const i64 channels : {1, 16, 40, 64}) {
      for (const i64 inputs : {32, 96, 576}) check_one(channels, inputs, kernel);
    }
    for (const i64 channels : {5, 16, 40}) check_more(channels, kernel);
    check_spoiled_row(kernel);
  }
  check_refusal();
  return 0;
}
