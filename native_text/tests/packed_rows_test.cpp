// Products of packed weights are those of the numbers that the codes stand for, in doubles, by either kernel,
// and a row's results are the same bits however many rows there are.
#include "native_text/packed_rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.hpp"

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

std::vector<float> numbers(i64 count, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> found(at(count));
  for (float& number : found) number = normal(engine);
  return found;
}

// Random codes, and the weights that they stand for.
struct Weights {
  i64 channels, inputs;
  std::vector<float> plain;
  std::vector<std::uint8_t> packed;

  Weights(i64 num_channels, i64 num_inputs, unsigned seed)
      : channels(num_channels), inputs(num_inputs), plain(at(channels * inputs)) {
    std::mt19937 engine(seed);
    std::uniform_int_distribution<unsigned> code(0, 15);
    const std::vector<float> steps = numbers(channels * inputs / kPackedGroup * 2, seed + 1);
    std::vector<std::uint8_t> codes(plain.size() / 2);
    std::vector<std::uint32_t> worth(plain.size() / at(kPackedGroup));
    for (i64 channel = 0; channel < channels; ++channel) {
      for (i64 input = 0; input < inputs; ++input) {
        const i64 group = input / kPackedGroup * channels + channel;
        const float step = to_bf16(steps[at(2 * group)] * 0.1F);
        const float zero = to_bf16(steps[at(2 * group + 1)] * 0.1F);
        const unsigned one = code(engine);
        worth[at(group)] = upper_half(step) | upper_half(zero) << 16U;
        auto& both = codes[at((channel * inputs + input) / 2)];
        both = static_cast<std::uint8_t>(both | one << (input % 2 * 4));
        plain[at(channel * inputs + input)] = (static_cast<float>(one) - 8.0F) * step + zero;
      }
    }
    packed.resize(at(packed_size(channels, inputs)));
    pack_weights(codes.data(), worth.data(), channels, inputs, packed.data());
  }

  Product product() const { return {packed.data(), channels, inputs}; }

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

void check_one(i64 channels, i64 inputs, Kernel kernel) {
  const i64 rows = 61;
  const i64 stride = inputs + 3;
  const Weights weights(channels, inputs, 7);
  const std::vector<float> x = numbers(rows * stride, 8);
  std::vector<float> found(at(rows * channels));
  multiply({x.data(), rows, inputs, stride}, {}, {weights.product()}, found.data(), nullptr, kernel);
  std::vector<double> sizes;
  for (i64 row = 0; row < rows; ++row) {
    const std::vector<double> wanted = weights.times(x.data() + row * stride, sizes);
    for (i64 channel = 0; channel < channels; ++channel) {
      const float one = found[at(row * channels + channel)];
      CHECK(one == to_bf16(one));
      check_near(one, wanted[at(channel)], sizes[at(channel)]);
    }
  }
  for (const i64 count : {1, 2, 3, 5, 8, 13, 50}) {  // from another row on: in other tiles
    std::vector<float> some(at(count * channels));
    multiply({x.data() + 3 * stride, count, inputs, stride}, {}, {weights.product()}, some.data(), nullptr,
             kernel);
    CHECK(std::equal(some.begin(), some.end(), found.begin() + 3 * channels));
  }
}

// Several products in one call give what they give one by one.
void check_chain(Kernel kernel) {
  const i64 rows = 53;
  const i64 width = 64;
  const i64 wide = 96;
  const Weights out(width, width, 1);
  const Weights gates(2 * wide, width, 2);
  const Weights down(width, wide, 3);
  const Weights next(40, width, 4);
  const std::vector<float> x = numbers(rows * width, 5);
  const std::vector<float> kept = numbers(rows * (width + 1), 6);
  const std::vector<float> norms = numbers(2 * width, 9);
  const std::vector<float> bias = numbers(width, 10);

  Product first = out.product();
  first.bias = bias.data();
  first.added = true;
  Product second = gates.product();
  second.norm = norms.data();
  second.epsilon = 1e-5F;
  Product third = down.product();
  third.gated = third.added = true;
  Product fourth = next.product();
  fourth.norm = norms.data() + width;
  fourth.epsilon = 1e-6F;

  std::vector<float> result(at(rows * 40));
  std::vector<float> last(at(rows * width));
  multiply({x.data(), rows, width, width}, {kept.data(), rows, width, width + 1},
           {first, second, third, fourth}, result.data(), last.data(), kernel);

  const auto alone = [kernel](const std::vector<float>& in, i64 size, const Weights& weights) {
    const auto count = static_cast<i64>(in.size()) / size;
    std::vector<float> found(at(count * weights.channels));
    multiply({in.data(), count, size, size}, {}, {weights.product()}, found.data(), nullptr, kernel);
    return found;
  };
  std::vector<float> stream = alone(x, width, out);
  for (i64 i = 0; i < rows * width; ++i) {
    stream[at(i)] = (stream[at(i)] + bias[at(i % width)]) + kept[at(i / width * (width + 1) + i % width)];
  }
  std::vector<float> normal(stream.size());
  normalize({stream.data(), rows, width, width}, norms.data(), 1e-5F, normal.data());
  const std::vector<float> both = alone(normal, width, gates);
  std::vector<float> gated(at(rows * wide));
  gate({both.data(), rows, wide, 2 * wide}, {both.data() + wide, rows, wide, 2 * wide}, gated.data());
  const std::vector<float> more = alone(gated, wide, down);
  for (i64 i = 0; i < rows * width; ++i) stream[at(i)] += more[at(i)];
  normalize({stream.data(), rows, width, width}, norms.data() + width, 1e-6F, normal.data());
  CHECK(last == stream);
  CHECK(result == alone(normal, width, next));
}

void check_spoiled_row(Kernel kernel) {
  const Weights weights(20, 32, 11);
  std::vector<float> x = numbers(3 * 32, 12);
  x[35] = std::nanf("");
  std::vector<float> found(60);
  multiply({x.data(), 3, 32, 32}, {}, {weights.product()}, found.data(), nullptr, kernel);
  for (i64 i = 0; i < 60; ++i) CHECK(std::isnan(found[at(i)]) == (i / 20 == 1));
}

}  // namespace

int main() {
  for (const Kernel kernel : {Kernel::fastest, Kernel::portable}) {
    for (const i64 channels : {1, 16, 40, 64}) {
      for (const i64 inputs : {32, 96, 576}) check_one(channels, inputs, kernel);
    }
    check_chain(kernel);
    check_spoiled_row(kernel);
  }
  return 0;
}
