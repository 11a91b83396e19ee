// Products with weights of four bits, and what stands around them, for the rows of a message.
#pragma once

#include <cstdint>
#include <vector>

#include "native_text/rows.hpp"

namespace native_text {

// Inputs that share a scale and a zero.
constexpr i64 kPackedGroup = 32;

// Weights (channels, inputs) as packed_weights lays them out: blocks of 16 channels (the last one filled up
// with zeros), of each its groups, of each 4 times 16 dwords, the codes of 8 inputs of each channel, and 16
// dwords, the scale (lower half) and the zero of each channel, bf16. In a dword the lower half has the codes
// of the even inputs, the upper half those of the odd ones: so a shift by 4 brings the next pair to the lower
// bits of both halves.
i64 packed_size(i64 channels, i64 inputs);

// codes: (channels, inputs / 2), two a byte, the first in the lower half, of 0 to 15: 8 stands for zero.
// worth: (inputs / 32, channels), pairs of bf16: what a step of a group is worth, and what is added.
void pack_weights(const std::uint8_t* codes, const std::uint32_t* worth, i64 channels, i64 inputs,
                  std::uint8_t* packed);

// One product of several behind each other: result = round(product(prepared rows)) + bias + kept, where rows
// are rounded to bf16 first, sums are of float32, and results are rounded to bf16. No row depends on another.
struct Product {
  const std::uint8_t* packed = nullptr;
  i64 channels = 0;
  i64 inputs = 0;
  // Rows are normalized by the root of their mean square, and kept as they were before; null: they are not.
  const float* norm = nullptr;
  float epsilon = 0.0F;
  // Rows are twice as wide: silu of the first half, times the second.
  bool gated = false;
  const float* bias = nullptr;
  // What was kept last, or was given, is added.
  bool added = false;
};

// Products as they stand in one block of memory: 64 bytes that begin with how many there are, a record of
// each, and what they name, as offsets from the beginning; 0: nothing. Whoever made it is trusted.
struct ProductRecord {
  i64 codes, channels, inputs, norm, bias, gated, added;
  double epsilon;
};

std::vector<Product> products_in(const std::uint8_t* file);

// Which code computes: what is fastest on this processor, or what runs on every one.
enum class Kernel { fastest, portable };

// kept: rows that the first product may add; null: none.
// result: (rows, channels of the last product). last_kept: the rows that were kept last, (rows, width); may
// be null.
void multiply(const RowsIn& x, const RowsIn& kept, const std::vector<Product>& products, float* result,
              float* last_kept, Kernel kernel = Kernel::fastest);

}  // namespace native_text
