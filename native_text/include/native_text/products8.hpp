// Products of rows with weights of eight bits: sums of whole numbers, without rounding. Each row by itself,
// so that its result depends neither on the other rows nor on how many there are.
#pragma once

#include <cstdint>
#include <string_view>

#include "native_text/weights.hpp"

namespace native_text {

// Codes of `out` channels of `in` numbers each, as pack8() arranges them, and what they are worth.
struct CodedWeights {
  const std::uint8_t* packed = nullptr;
  const float* scale = nullptr;  // (out,): what a code of each channel is worth
  const float* bias = nullptr;   // (out,); null: there is none
  i64 in = 0;
  i64 out = 0;
};

// Activations as codes from -127 to 127; a code of a row is worth its `worth`, which is not a number where
// one of the row was not finite.
struct CodedRows {
  const std::int8_t* codes = nullptr;  // (rows, stride), with zeros behind each row up to coded_size(in)
  const float* worth = nullptr;        // (rows,)
  const std::int32_t* sums = nullptr;  // (rows,): of the row's codes
  i64 rows = 0;
  i64 stride = 0;
};

// The largest `in` of which no sum wraps: codes of weights run from 0 to 255, those of activations to 127.
constexpr i64 kMostSummed = ((std::int64_t{1} << 31) - 1) / (255 * 127);

// Which instructions multiply() uses on this processor: "avx512vnni", "dotprod", or "" where it has none for
// codes.
std::string_view product_instructions();

// How many bytes pack8() needs: whole panels of 64 channels.
i64 packed_size8(i64 out, i64 in);

// Arranges (out, in) codes of weights, from -127 to 127, as the channels from `first` on.
void pack8(const std::int8_t* codes, i64 out, i64 in, i64 first, std::uint8_t* packed);

// How many codes a row of `in` numbers takes.
constexpr i64 coded_size(i64 in) { return (in + 3) / 4 * 4; }

// Codes of one row: each number over the row's largest value times 127, to the nearest whole number, the even
// one of two.
void code_row(const float* x, i64 size, float least, std::int8_t* codes, float& worth, std::int32_t& sum);

// The products, plus `added` (rows, out) where it has any; it may be the result's own place.
void multiply(const CodedRows& rows, const CodedWeights& weights, const RowsIn& added, const RowsOut& result);

// The same without any processor's own instructions.
void multiply_plainly(const CodedRows& rows, const CodedWeights& weights, const RowsIn& added,
                      const RowsOut& result);

// Weights of eight bits, and rows that become codes of eight bits.
class EightBits final : public Weights {
 public:
  // Throws std::invalid_argument where sums could wrap.
  explicit EightBits(const CodedWeights& weights);

  i64 most_rows() const override;
  i64 prepared_size(i64 rows) const override;
  void prepare(const float* x, i64 row, i64 rows, std::uint8_t* prepared) const override;
  void multiply(const std::uint8_t* prepared, i64 rows, const RowsIn& added,
                const RowsOut& result) const override;

 private:
  CodedWeights weights_;
};

}  // namespace native_text
