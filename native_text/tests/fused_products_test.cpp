// Fused products compute what they do one by one, of each kind and of several, for any number of rows.
#include "native_text/fused_products.hpp"

#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "native_text/products4.hpp"
#include "native_text/products8.hpp"
#include "random.hpp"

using namespace native_text;  // NOLINT(google-build-using-namespace): every name here is of what is tested

namespace {

constexpr i64 kWidth = 64;
constexpr i64 kInner = 96;
constexpr i64 kNext = 40;

std::size_t at(i64 place) { return static_cast<std::size_t>(place); }

std::mt19937 engine(7);  // NOLINT(cert-msc51-cpp): the same numbers each time

// What weights read, and they.
struct Packed {
  std::vector<std::uint8_t> codes;
  std::vector<float> scale, bias;
  std::shared_ptr<const Weights> weights;
};

enum class Kind { eight, four, portable_four };

Packed packed(Kind kind, i64 out, i64 in) {
  Packed found{{}, numbers(out, engine), numbers(out, engine), nullptr};
  if (kind == Kind::eight) {
    for (float& scale : found.scale) scale /= 1000.0F;
    found.codes.resize(at(packed_size8(out, in)));
    pack8(whole_numbers<std::int8_t>(out * in, -127, 127, engine).data(), out, in, 0, found.codes.data());
    found.weights = std::make_shared<EightBits>(
        CodedWeights{found.codes.data(), found.scale.data(), found.bias.data(), in, out});
    return found;
  }
  found.codes.resize(at(packed_size4(out, in)));
  // a step of 1/16, and nothing added
  const std::vector<std::uint32_t> worth(at(out * in / kPackedGroup), 0x3D80U);
  pack4(whole_numbers<std::uint8_t>(out * in / 2, 0, 255, engine).data(), worth.data(), out, in, 0,
        found.codes.data());
  found.weights = std::make_shared<FourBits>(found.codes.data(), found.bias.data(), in, out,
                                             kind == Kind::four ? Kernel::fastest : Kernel::portable);
  return found;
}

std::vector<float> product(const std::vector<float>& x, const Packed& of, const std::vector<float>* added) {
  const Weights& weights = *of.weights;
  const auto rows = static_cast<i64>(x.size()) / weights.in();
  std::vector<float> found(at(rows * weights.out()));
  std::vector<std::uint8_t> prepared(at(weights.prepared_size(1)));
  for (i64 row = 0; row < rows; ++row) {
    const i64 place = row * weights.out();
    weights.prepare(x.data() + row * weights.in(), 0, 1, prepared.data());
    weights.multiply(prepared.data(), 1,
                     {added == nullptr ? nullptr : added->data() + place, 1, weights.out(), weights.out()},
                     {found.data() + place, weights.out()});
  }
  return found;
}

// All between two attentions: a product added to what was there, a gated perceptron, and the next product.
void check_layer(i64 rows, Kind kind, Kind other) {
  const Packed first = packed(kind, kWidth, kWidth);
  const Packed wide = packed(other, 2 * kInner, kWidth);
  const Packed back = packed(kind, kWidth, kInner);
  const Packed next = packed(kind, kNext, kWidth);
  const std::vector<float> norms = numbers(2 * kWidth, engine);
  const std::vector<float> x = numbers(rows * kWidth, engine);
  const std::vector<float> before = numbers(rows * (kWidth + 1), engine);
  const FusedProducts products({kWidth, kWidth},
                               {{first.weights, {0, 0}, {}, nullptr, 0.0F, {1, 0}},
                                {wide.weights, {2, 0}, {}, norms.data(), 1e-5F, {}},
                                {back.weights, {3, 0}, {3, kInner}, nullptr, 0.0F, {2, 0}},
                                {next.weights, {4, 0}, {}, norms.data() + kWidth, 1e-6F, {}}});
  std::vector<float> middle(x.size());
  std::vector<float> stream(x.size());
  std::vector<float> last(at(rows * kNext));
  const std::vector<RowsIn> given{{x.data(), rows, kWidth, kWidth},
                                  {before.data(), rows, kWidth, kWidth + 1}};
  products.run(rows, given, {middle.data(), nullptr, stream.data(), last.data()});

  std::vector<float> dense(x.size());
  for (i64 i = 0; i < rows * kWidth; ++i) dense[at(i)] = before[at(i / kWidth * (kWidth + 1) + i % kWidth)];
  const std::vector<float> wanted = product(x, first, &dense);
  CHECK(middle == wanted);
  std::vector<float> normal(x.size());
  normalize({wanted.data(), rows, kWidth, kWidth}, norms.data(), 1e-5F, normal.data());
  const std::vector<float> inner = product(normal, wide, nullptr);
  std::vector<float> gated(at(rows * kInner));
  gate({inner.data(), rows, kInner, 2 * kInner}, {inner.data() + kInner, rows, kInner, 2 * kInner},
       gated.data());
  CHECK(stream == product(gated, back, &wanted));
  normalize({stream.data(), rows, kWidth, kWidth}, norms.data() + kWidth, 1e-6F, normal.data());
  CHECK(last == product(normal, next, nullptr));
  std::vector<float> alone(last.size());
  products.run(rows, given, {nullptr, nullptr, nullptr, alone.data()});
  CHECK(alone == last);
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
  const Packed one = packed(Kind::eight, kWidth, kWidth);
  const Product first{one.weights, {0, 0}, {}, nullptr, 0.0F, {}};
  CHECK(refused([&] { FusedProducts({kWidth - 1}, {first}); }));
  Product other = first;
  other.x = {1, 0};  // its own result
  CHECK(refused([&] { FusedProducts({kWidth}, {other}); }));
  other = first;
  other.added = {0, 1};
  CHECK(refused([&] { FusedProducts({kWidth}, {other}); }));
  const FusedProducts whole({kWidth}, {first});
  CHECK(refused([&] { whole.run(0, {}, {nullptr}); }));
  CHECK(refused([&] { whole.run(0, {{}}, {}); }));
}

}  // namespace

int main() {
  for (const Kind kind : {Kind::eight, Kind::four, Kind::portable_four}) {
    for (const i64 rows : {0, 1, 2, 7, 64, 250, 481}) check_layer(rows, kind, kind);
    check_layer(53, Kind::eight, kind);
    check_layer(53, kind, Kind::eight);
  }
  check_refusals();
  return 0;
}
