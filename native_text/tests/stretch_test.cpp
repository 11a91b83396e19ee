// A stretch computes what its links do one by one, for any number of rows.
#include "native_text/stretch.hpp"

#include <random>
#include <stdexcept>
#include <vector>

#include "check.hpp"

using namespace native_text;  // NOLINT(google-build-using-namespace): every name here is of what is tested

namespace {

constexpr i64 kWidth = 40;
constexpr i64 kInner = 72;

struct Packed {
  std::vector<std::uint8_t> codes;
  std::vector<float> scale;
  i64 out;
  i64 in;

  Weights weights() const { return {codes.data(), scale.data(), nullptr, in, out}; }
};

std::mt19937 engine(7);  // NOLINT(cert-msc51-cpp): the same numbers each time

std::vector<float> numbers(i64 count) {
  std::normal_distribution<float> normal;
  std::vector<float> found(static_cast<std::size_t>(count));
  for (float& number : found) number = normal(engine);
  return found;
}

Packed packed(i64 out, i64 in) {
  std::uniform_int_distribution<int> any(-127, 127);
  std::vector<std::int8_t> codes(static_cast<std::size_t>(out * in));
  for (std::int8_t& code : codes) code = static_cast<std::int8_t>(any(engine));
  Packed found{std::vector<std::uint8_t>(static_cast<std::size_t>(codes_size(out, in))), numbers(out), out,
               in};
  for (float& scale : found.scale) scale /= 1000.0F;
  pack(codes.data(), out, in, found.codes.data());
  return found;
}

std::vector<float> product(const std::vector<float>& x, const Packed& weights,
                           const std::vector<float>* added) {
  const auto rows = static_cast<i64>(x.size()) / weights.in;
  std::vector<float> found(static_cast<std::size_t>(rows * weights.out));
  for (i64 row = 0; row < rows; ++row) {
    std::vector<std::int8_t> codes(static_cast<std::size_t>(coded_size(weights.in)));
    float worth = 0.0F;
    std::int32_t sum = 0;
    code_row(x.data() + row * weights.in, weights.in, 1e-30F, codes.data(), worth, sum);
    const RowsIn also{added == nullptr ? nullptr : added->data() + row * weights.out, 1, weights.out,
                      weights.out};
    multiply_plainly({codes.data(), &worth, &sum, 1, coded_size(weights.in)}, weights.weights(), also,
                     {found.data() + row * weights.out, weights.out});
  }
  return found;
}

// The second half of a layer: a product added to what was there, then a gated perceptron.
void check_layer(i64 rows) {
  const Packed first = packed(kWidth, kWidth);
  const Packed wide = packed(2 * kInner, kWidth);
  const Packed back = packed(kWidth, kInner);
  const std::vector<float> norm = numbers(kWidth);
  const std::vector<float> x = numbers(rows * kWidth);
  const std::vector<float> before = numbers(rows * kWidth);
  const Stretch stretch({kWidth, kWidth}, {{first.weights(), {0, 0}, {}, nullptr, 0.0F, {1, 0}},
                                           {wide.weights(), {2, 0}, {}, norm.data(), 1e-5F, {}},
                                           {back.weights(), {3, 0}, {3, kInner}, nullptr, 0.0F, {2, 0}}});
  std::vector<float> middle(x.size());
  std::vector<float> last(x.size());
  const std::vector<RowsIn> given{{x.data(), rows, kWidth, kWidth}, {before.data(), rows, kWidth, kWidth}};
  stretch.run(rows, given, {middle.data(), nullptr, last.data()});

  const std::vector<float> wanted = product(x, first, &before);
  CHECK(middle == wanted);
  std::vector<float> normal(x.size());
  normalize({wanted.data(), rows, kWidth, kWidth}, norm.data(), 1e-5F, normal.data());
  const std::vector<float> inner = product(normal, wide, nullptr);
  std::vector<float> gated(static_cast<std::size_t>(rows * kInner));
  gate({inner.data(), rows, kInner, 2 * kInner}, {inner.data() + kInner, rows, kInner, 2 * kInner},
       gated.data());
  CHECK(last == product(gated, back, &wanted));
}

template <typename Call>
bool refused(Call call) {
  try {
    call();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

void check_refusals() {
  const Packed one = packed(kWidth, kWidth);
  const Link link{one.weights(), {0, 0}, {}, nullptr, 0.0F, {}};
  CHECK(refused([&] { Stretch({kWidth - 1}, {link}); }));
  Link other = link;
  other.x = {1, 0};  // its own result
  CHECK(refused([&] { Stretch({kWidth}, {other}); }));
  other = link;
  other.added = {0, 1};
  CHECK(refused([&] { Stretch({kWidth}, {other}); }));
  const Stretch whole({kWidth}, {link});
  CHECK(refused([&] { whole.run(0, {}, {nullptr}); }));
  CHECK(refused([&] { whole.run(0, {{}}, {}); }));
}

}  // namespace

int main() {
  for (const i64 rows : {0, 1, 2, 7, 64, 250, 481}) check_layer(rows);
  check_refusals();
  return 0;
}
