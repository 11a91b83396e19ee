// The products of a few rows with 16 output channels: what products4.cpp calls for all of them.
#pragma once

#include "native_text/products4.hpp"

namespace native_text {

constexpr i64 kTileChannels = 16;
constexpr i64 kGroupBytes = 5 * kTileChannels * 4;

// The portable kernel reads codes where they stand in a dword, 2**n times what they are: of 8 inputs, each
// activation's share. The last one's is 1: it is shifted, since the bit of the sign is one of its.
constexpr float kShares[8] = {1.0F,          1.0F / 65536.0F,    1.0F / 16.0F,   1.0F / 1048576.0F,
                              1.0F / 256.0F, 1.0F / 16777216.0F, 1.0F / 4096.0F, 1.0F};

struct Tile {
  const std::uint8_t* packed;
  const void* rows;   // (rows, groups, 32): bf16, or float times kShares
  const float* sums;  // (rows, groups): of the activations
  i64 groups;
  const float* bias;
  const float* added;
  i64 added_stride;
  float* result;
  i64 stride;

  Tile at(i64 channel, i64 row, i64 row_size) const {
    return {packed + channel / kTileChannels * groups * kGroupBytes,
            static_cast<const std::uint8_t*>(rows) + row * row_size,
            sums + row * groups,
            groups,
            bias == nullptr ? nullptr : bias + channel,
            added == nullptr ? nullptr : added + row * added_stride + channel,
            added_stride,
            result + row * stride + channel,
            stride};
  }
};

// Whether this processor has the instructions of wide_tile.
bool wide_tiles_here();

// count: 1, 2, 4 or, for the wide one, 8 rows; channels: how many of the 16 there are.
void wide_tile(const Tile& tile, i64 count, i64 channels);
void portable_tile(const Tile& tile, i64 count, i64 channels);

}  // namespace native_text
