// Products by the 64-bit ARM instruction for codes: 16 products and their sums at once.
#include "products8_kernels.hpp"

#ifdef NATIVE_TEXT_DOTPROD

#include <arm_neon.h>
#include <sys/auxv.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "simd.hpp"

#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#define DOTPROD_INLINE DOTPROD inline __attribute__((always_inline))

namespace native_text {
namespace {

constexpr i64 kRows = 6;      // whose sums fit into the registers beside the weights
constexpr i64 kVector = 16;   // bytes: four channels
constexpr i64 kChannels = 4;  // of a vector
constexpr unsigned long kHasDotprod = 1UL << 20U;

// Some channels of a panel, and a few rows.
struct Block {
  const CodedRows& rows;
  const CodedWeights& weights;
  const RowsIn& added;
  const RowsOut& result;
  i64 row;
  i64 channel;
  const std::uint8_t* packed;
  i64 groups;
};

DOTPROD_INLINE int8x16_t four_codes(const std::int8_t* codes) {
  std::int32_t four = 0;
  std::memcpy(&four, codes, sizeof four);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

DOTPROD_INLINE void finish(const Block& block, i64 row, i64 vector, int32x4_t sums) {
  float values[kChannels];
  vst1q_f32(values, vcvtq_f32_s32(sums));
  const i64 first = block.channel + vector * kChannels;
  const i64 end = std::min(kChannels, block.weights.out - first);
  const i64 place = block.row + row;
  for (i64 i = 0; i < end; ++i) {
    float value = values[i] * block.rows.worth[place] * block.weights.scale[first + i];
    if (block.weights.bias != nullptr) value += block.weights.bias[first + i];
    if (block.added.data != nullptr) value += block.added.data[place * block.added.stride + first + i];
    block.result.data[place * block.result.stride + first + i] = value;
  }
}

// Each place is one sum of the block: row by row, a vector of channels behind the other.
template <std::size_t kWidth, std::size_t... kPlaces>
DOTPROD_INLINE void compute(const Block& block, std::index_sequence<kPlaces...> /*places*/) {
  int32x4_t sums[sizeof...(kPlaces)];
  ((sums[kPlaces] = vdupq_n_s32(0)), ...);
  const std::uint8_t* packed = block.packed;
  const std::int8_t* codes = block.rows.codes + block.row * block.rows.stride;
  for (i64 group = 0; group < block.groups; ++group, packed += kPanel * kGroup, codes += kGroup) {
    int8x16_t row = vdupq_n_s8(0);
    int8x16_t weights[kWidth];
    ((kPlaces < kWidth ? void(weights[kPlaces % kWidth] = vreinterpretq_s8_u8(
                                  vld1q_u8(packed + static_cast<i64>(kPlaces % kWidth) * kVector)))
                       : void()),
     ...);
    ((row = kPlaces % kWidth == 0 ? four_codes(codes + static_cast<i64>(kPlaces / kWidth) * block.rows.stride)
                                  : row,
      sums[kPlaces] = vdotq_s32(sums[kPlaces], weights[kPlaces % kWidth], row)),
     ...);
  }
  (finish(block, kPlaces / kWidth, kPlaces % kWidth, sums[kPlaces]), ...);
}

// `kWidth` vectors of channels at once.
template <std::size_t kCount, std::size_t kWidth>
DOTPROD void compute(const CodedRows& rows, const CodedWeights& weights, const RowsIn& added,
                     const RowsOut& result, i64 row, i64 panel, i64 groups) {
  const i64 step = static_cast<i64>(kWidth) * kChannels;
  for (i64 channel = panel; channel < std::min(panel + kPanel, weights.out); channel += step) {
    const std::uint8_t* packed = weights.packed + panel * groups * kGroup + (channel - panel) * kGroup;
    compute<kWidth>(Block{rows, weights, added, result, row, channel, packed, groups},
                    std::make_index_sequence<kCount * kWidth>{});
  }
}

}  // namespace

bool dotprod_runs() { return (getauxval(AT_HWCAP) & kHasDotprod) != 0; }

void multiply_dotprod(const CodedRows& rows, const CodedWeights& weights, const RowsIn& added,
                      const RowsOut& result) {
  const i64 groups = (weights.in + kGroup - 1) / kGroup;
  const i64 blocks = (rows.rows + kRows - 1) / kRows;
  for (i64 panel = 0; panel < weights.out; panel += kPanel) {
    i64 row = 0;
    for (i64 index = 0; index < blocks; ++index) {
      const i64 count = (rows.rows - row + blocks - index - 1) / (blocks - index);
      switch (count) {
        case 1:
          compute<1, 16>(rows, weights, added, result, row, panel, groups);
          break;
        case 2:
          compute<2, 8>(rows, weights, added, result, row, panel, groups);
          break;
        case 3:
          compute<3, 4>(rows, weights, added, result, row, panel, groups);
          break;
        case 4:
          compute<4, 4>(rows, weights, added, result, row, panel, groups);
          break;
        case 5:
          compute<5, 4>(rows, weights, added, result, row, panel, groups);
          break;
        default:
          compute<kRows, 4>(rows, weights, added, result, row, panel, groups);
      }
      row += count;
    }
  }
}

}  // namespace native_text

#endif
