#include "native_text/products4.hpp"

#include <stdexcept>

#include "products4_tile.hpp"
#include "simd.hpp"

namespace native_text {
namespace {

// One row's activations as the tiles take them; `sums`: of each group.
FOR_EACH_PROCESSOR void prepare_bf16(const float* x, i64 groups, std::uint16_t* row, float* sums) {
  for (i64 group = 0; group < groups; ++group, x += kPackedGroup, row += kPackedGroup) {
    float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
    for (i64 i = 0; i < kPackedGroup; ++i) {
      const std::uint32_t bits = bf16_bits(x[i]);
      row[i] = static_cast<std::uint16_t>(bits >> 16U);
      float value = 0.0F;
      std::memcpy(&value, &bits, sizeof value);
      sum += value;
    }
    sums[group] = sum;
  }
}

FOR_EACH_PROCESSOR void prepare_floats(const float* x, i64 groups, float* row, float* sums) {
  for (i64 group = 0; group < groups; ++group, x += kPackedGroup, row += kPackedGroup) {
    float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
    for (i64 i = 0; i < kPackedGroup; ++i) {
      const std::uint32_t bits = bf16_bits(x[i]);
      float value = 0.0F;
      std::memcpy(&value, &bits, sizeof value);
      row[i] = value * kShares[i % 8];
      sum += value;
    }
    sums[group] = sum;
  }
}

}  // namespace

i64 packed_size4(i64 out, i64 in) {
  return (out + kTileChannels - 1) / kTileChannels * (in / kPackedGroup) * kGroupBytes;
}

void pack4(const std::uint8_t* codes, const std::uint32_t* worth, i64 out, i64 in, i64 first,
           std::uint8_t* packed) {
  const i64 groups = in / kPackedGroup;
  for (i64 channel = 0; channel < out; ++channel) {
    for (i64 group = 0; group < groups; ++group) {
      const i64 within = (first + channel) % kTileChannels;
      const i64 block = (first + channel) / kTileChannels;
      std::uint8_t* place = packed + (block * groups + group) * kGroupBytes + within * 4;
      for (i64 quarter = 0; quarter < 4; ++quarter) {
        const std::uint8_t* from = codes + channel * in / 2 + group * 16 + quarter * 4;
        std::uint32_t dword = 0;
        for (unsigned pair = 0; pair < 4; ++pair) {
          dword |= (from[pair] & 15U) << (4 * pair) | (from[pair] & 0xF0U) << (12 + 4 * pair);
        }
        std::memcpy(place + quarter * kTileChannels * 4, &dword, sizeof dword);
      }
      std::memcpy(place + 4 * kTileChannels * 4, worth + group * out + channel, 4);
    }
  }
}

FourBits::FourBits(const std::uint8_t* packed, const float* bias, i64 in, i64 out, Kernel kernel)
    : Weights(out, in), packed_(packed), bias_(bias), wide_(kernel == Kernel::fastest && wide_tiles_here()) {
  if (in % kPackedGroup != 0) throw std::invalid_argument("inputs that are not whole groups");
}

i64 FourBits::most_rows() const { return 48; }

i64 FourBits::row_size() const { return in() * (wide_ ? 2 : 4); }

i64 FourBits::prepared_size(i64 rows) const {
  return rows * (groups() * static_cast<i64>(sizeof(float)) + row_size());
}

void FourBits::prepare(const float* x, i64 row, i64 rows, std::uint8_t* prepared) const {
  float* sums = reinterpret_cast<float*>(prepared) + row * groups();
  std::uint8_t* place =
      reinterpret_cast<std::uint8_t*>(reinterpret_cast<float*>(prepared) + rows * groups()) +
      row * row_size();
  if (wide_) {
    prepare_bf16(x, groups(), reinterpret_cast<std::uint16_t*>(place), sums);
  } else {
    prepare_floats(x, groups(), reinterpret_cast<float*>(place), sums);
  }
}

void FourBits::multiply(const std::uint8_t* prepared, i64 rows, const RowsIn& added,
                        const RowsOut& result) const {
  const float* sums = reinterpret_cast<const float*>(prepared);
  const Tile whole{packed_,    sums + rows * groups(), sums,        groups(),     bias_,
                   added.data, added.stride,           result.data, result.stride};
  for (i64 channel = 0; channel < out(); channel += kTileChannels) {
    const i64 channels = std::min(out() - channel, kTileChannels);
    for (i64 row = 0; row < rows;) {
      const i64 left = rows - row;
      const Tile tile = whole.at(channel, row, row_size());
      const i64 count = left >= 8 && wide_ ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      if (wide_) {
        wide_tile(tile, count, channels);
      } else {
        portable_tile(tile, count, channels);
      }
      row += count;
    }
  }
}

}  // namespace native_text
