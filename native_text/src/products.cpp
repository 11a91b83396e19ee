#include "native_text/products.hpp"

#include "product_kernels.hpp"
#include "simd.hpp"

namespace native_text {
namespace {

using Multiply = void (*)(const CodedRows&, const Weights&, const RowsIn&, const RowsOut&);

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

i64 codes_size(i64 out, i64 in) { return (out + kPanel - 1) / kPanel * kPanel * groups_of(in) * kGroup; }

void pack(const std::int8_t* codes, i64 out, i64 in, std::uint8_t* packed) {
  const i64 groups = groups_of(in);
  for (i64 panel = 0; panel < out; panel += kPanel) {
    for (i64 channel = panel; channel < panel + kPanel; ++channel) {
      std::uint8_t* place = packed + panel * groups * kGroup + (channel - panel) * kGroup;
      for (i64 group = 0; group < groups; ++group, place += kPanel * kGroup) {
        for (i64 i = 0; i < kGroup; ++i) {
          const i64 input = group * kGroup + i;
          const int code = channel < out && input < in ? codes[channel * in + input] : 0;
          place[i] = static_cast<std::uint8_t>(code + kZero);
        }
      }
    }
  }
}

FOR_EACH_PROCESSOR void code_row(const float* x, i64 size, float least, std::int8_t* codes, float& worth,
                                 std::int32_t& sum) {
  constexpr float kNearest = 12582912.0F;  // 1.5 * 2**23: what is added to it becomes a whole number
  constexpr std::uint32_t kBits = 0x4B400000;
  float largest = 0.0F;
  float spoiled = 0.0F;  // not a number if any is not finite: comparisons pass those over
#pragma omp simd reduction(max : largest) reduction(+ : spoiled)
  for (i64 i = 0; i < size; ++i) {
    largest = std::max(largest, std::abs(x[i]));
    spoiled += x[i] * 0.0F;
  }
  largest = std::max(largest, least);
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

void multiply(const CodedRows& rows, const Weights& weights, const RowsIn& added, const RowsOut& result) {
  static const Multiply kFastest = fastest();
  kFastest(rows, weights, added, result);
}

void multiply_plainly(const CodedRows& rows, const Weights& weights, const RowsIn& added,
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

}  // namespace native_text
