// Products of rows with weights of four bits: rows are rounded to bf16 first, sums are of float32, and
// results are rounded to bf16 before anything is added. Each row by itself, so that its result depends
// neither on the other rows nor on how many there are.
#pragma once

#include <cstdint>

#include "native_text/weights.hpp"

namespace native_text {

// Inputs that share a scale and a zero.
constexpr i64 kPackedGroup = 32;

// Weights (out, in) as pack4() lays them out: blocks of 16 channels, of
// each its groups, of each 4 times 16 dwords, the codes of 8 inputs of each channel, and 16 dwords, the scale
// (lower half) and the zero of each channel, bf16. In a dword the lower half has the codes of the even
// inputs, the upper half those of the odd ones: so a shift by 4 brings the next pair to the lower bits of
// both halves.
i64 packed_size4(i64 out, i64 in);

// codes: (out, in / 2), two a byte, the first in the lower half, of 0 to 15: 8 stands for zero.
// worth: (in / 32, out), pairs of bf16: what a step of a group is worth, and what is added. They
// become the channels from `first` on.
void pack4(const std::uint8_t* codes, const std::uint32_t* worth, i64 out, i64 in, i64 first,
           std::uint8_t* packed);

class FourBits final : public Weights {
 public:
  // `bias`: (out,); null: there is none. Throws std::invalid_argument where the last group would not be
  // whole.
  FourBits(const std::uint8_t* packed, const float* bias, i64 in, i64 out, Kernel kernel = Kernel::fastest);

  i64 most_rows() const override;
  i64 prepared_size(i64 rows) const override;
  void prepare(const float* x, i64 row, i64 rows, std::uint8_t* prepared) const override;
  void multiply(const std::uint8_t* prepared, i64 rows, const RowsIn& added,
                const RowsOut& result) const override;

 private:
  i64 groups() const { return in() / kPackedGroup; }
  i64 row_size() const;

  const std::uint8_t* packed_;
  const float* bias_;
  bool wide_;
};

}  // namespace native_text
