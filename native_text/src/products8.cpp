#include "native_text/products8.hpp"

#include <stdexcept>

#include "products8_kernels.hpp"
#include "simd.hpp"

namespace native_text {
namespace {

using Multiply = void (*)(const CodedRows&, const CodedWeights&, const RowsIn&, const RowsOut&);

Multiply fastest() {
#ifdef NATIVE_TEXT_AVX512
  if (avx512_runs()) return multiply_avx512;
#endif
#ifdef NATIVE_TEXT_DOTPROD
  if (dotprod_runs()) return multiply_dotprod;
#endif
  return multiply_plainly;
}

i64 groups_of(i64 in) { return (in + kGroup - 1) / kGroup; }

constexpr float kLeast = 1e-30F;

// What the worth and the sum of each row take, before their codes.
i64 head_size(i64 rows) { return rows * static_cast<i64>(sizeof(float) + sizeof(std::int32_t)); }

}  // namespace

std::string_view product_instructions() {
#ifdef NATIVE_TEXT_AVX512
  if (avx512_runs()) return "avx512vnni";
#endif
#ifdef NATIVE_TEXT_DOTPROD
  if (dotprod_runs()) return "dotprod";
#endif
  return "";
}

i64 packed_size8(i64 out, i64 in) { return (out + kPanel - 1) / kPanel * kPanel * groups_of(in) * kGroup; }

void pack8(const std::int8_t* codes, i64 out, i64 in, i64 first, std::uint8_t* packed) {
  const i64 groups = groups_of(in);
  for (i64 channel = 0; channel < out; ++channel) {
    const i64 within = (first + channel) % kPanel;
    std::uint8_t* place = packed + (first + channel - within) * groups * kGroup + within * kGroup;
    for (i64 group = 0; group < groups; ++group, place += kPanel * kGroup) {
      for (i64 i = 0; i < kGroup; ++i) {
        const i64 input = group * kGroup + i;
        const int code = input < in ? codes[channel * in + input] : 0;
        place[i] = static_cast<std::uint8_t>(code + kZero);
      }
    }
  }
}

FOR_EACH_PROCESSOR void code_row(const float* x, i64 size, float least, std::int8_t* codes, float& worth,
                                 std::int32_t& sum) {
  constexpr float kNearest = 12582912.0F;  // 1.5 * 2**23: what is added to it becomes a whole number
  constexpr std::uint32_t kBits = 0x4B400000;
  const auto [largest, spoiled] = largest_of(x, size, least);
  const float factor = 127.0F / largest;
  std::int32_t total = 0;
#pragma omp simd reduction(+ : total)
  for (i64 i = 0; i < size; ++i) {
    const float shifted = x[i] * factor + kNearest;
    std::uint32_t bits = 0;
    std::memcpy(&bits, &shifted, sizeof bits);
    const auto code = static_cast<std::int8_t>(bits - kBits);
    codes[i] = code;
    total += code;
  }
  for (i64 i = size; i < coded_size(size); ++i) codes[i] = 0;
  worth = largest * (1.0F / 127.0F) + spoiled;
  sum = total;
}

void multiply(const CodedRows& rows, const CodedWeights& weights, const RowsIn& added,
              const RowsOut& result) {
  static const Multiply kFastest = fastest();
  kFastest(rows, weights, added, result);
}

void multiply_plainly(const CodedRows& rows, const CodedWeights& weights, const RowsIn& added,
                      const RowsOut& result) {
  const i64 groups = groups_of(weights.in);
  for (i64 row = 0; row < rows.rows; ++row) {
    const std::int8_t* codes = rows.codes + row * rows.stride;
    for (i64 channel = 0; channel < weights.out; ++channel) {
      const i64 within = channel % kPanel;
      const std::uint8_t* packed = weights.packed + (channel - within) * groups * kGroup + within * kGroup;
      std::int32_t total = 0;
      for (i64 group = 0; group < groups; ++group) {
        for (i64 i = 0; i < kGroup; ++i) {
          const int code = static_cast<std::int8_t>(packed[group * kPanel * kGroup + i] ^ kZero);
          total += code * codes[group * kGroup + i];
        }
      }
      float value = static_cast<float>(total) * rows.worth[row] * weights.scale[channel];
      if (weights.bias != nullptr) value += weights.bias[channel];
      if (added.data != nullptr) value += added.data[row * added.stride + channel];
      result.data[row * result.stride + channel] = value;
    }
  }
}

EightBits::EightBits(const CodedWeights& weights) : Weights(weights.out, weights.in), weights_(weights) {
  if (weights.in > kMostSummed) throw std::invalid_argument("sums of so many codes could wrap");
}

i64 EightBits::most_rows() const { return 240; }

i64 EightBits::prepared_size(i64 rows) const { return head_size(rows) + rows * coded_size(in()); }

void EightBits::prepare(const float* x, i64 row, i64 rows, std::uint8_t* prepared) const {
  float* worth = reinterpret_cast<float*>(prepared) + row;
  std::int32_t* sum = reinterpret_cast<std::int32_t*>(prepared) + rows + row;
  std::uint8_t* codes = prepared + head_size(rows) + row * coded_size(in());
  code_row(x, in(), kLeast, reinterpret_cast<std::int8_t*>(codes), *worth, *sum);
}

void EightBits::multiply(const std::uint8_t* prepared, i64 rows, const RowsIn& added,
                         const RowsOut& result) const {
  native_text::multiply({reinterpret_cast<const std::int8_t*>(prepared + head_size(rows)),
                         reinterpret_cast<const float*>(prepared),
                         reinterpret_cast<const std::int32_t*>(prepared) + rows, rows, coded_size(in())},
                        weights_, added, result);
}

}  // namespace native_text
