// Products by AVX-512's instruction for codes: 64 products and their sums at once.
#include "products8_kernels.hpp"

#ifdef NATIVE_TEXT_AVX512

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "simd.hpp"

#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define WIDE_INLINE WIDE inline __attribute__((always_inline))

namespace native_text {
namespace {

constexpr i64 kRows = 6;     // whose sums fit into the registers beside the weights
constexpr i64 kVectors = 4;  // of a panel, 16 channels each
constexpr i64 kLine = 64;    // bytes of a cache's line

// A panel of channels, and a few rows.
struct Block {
  const std::int8_t* codes;
  i64 codes_stride;
  const float* worth;
  const std::int32_t* sums;
  const std::uint8_t* packed;
  i64 groups;
  const std::uint8_t* ahead;  // half of the next panel
  const float* scale;
  const float* bias;
  const float* added;
  i64 added_stride;
  float* result;
  i64 result_stride;
  i64 channels;
};

// By hand: GCC 12 copies and spills the sums around its own function for it.
WIDE_INLINE void sum_products(__m512i& sums, __m512i weights, __m512i codes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(codes));
}

WIDE_INLINE __m512i four_codes(const std::int8_t* codes) {
  std::int32_t four = 0;
  std::memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

WIDE_INLINE void ask_for(const std::uint8_t* line) {
  _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1);
}

WIDE_INLINE void finish(const Block& block, i64 row, i64 vector, __m512i sums) {
  const i64 first = vector * 16;
  const i64 left = std::clamp<i64>(block.channels - first, 0, 16);
  const auto mask = static_cast<__mmask16>((1U << left) - 1U);
  __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(block.worth[row]));
  value = _mm512_mul_ps(value, _mm512_maskz_loadu_ps(mask, block.scale + first));
  if (block.bias != nullptr) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, block.bias + first));
  if (block.added != nullptr) {
    value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, block.added + row * block.added_stride + first));
  }
  _mm512_mask_storeu_ps(block.result + row * block.result_stride + first, mask, value);
}

// Each place is one sum of the block: row by row, a vector of channels behind the other.
template <bool kAhead, std::size_t... kPlaces>
WIDE_INLINE void compute(const Block& block, std::index_sequence<kPlaces...> /*places*/) {
  constexpr i64 kWidth = kVectors * kLine;
  __m512i sums[sizeof...(kPlaces)];
  ((sums[kPlaces] = _mm512_set1_epi32(-kZero * block.sums[kPlaces / kVectors])), ...);
  const std::uint8_t* packed = block.packed;
  const std::uint8_t* ahead = block.ahead;
  const std::int8_t* codes = block.codes;
  for (i64 group = 0; group < block.groups; ++group, packed += kWidth, codes += kGroup) {
    const __m512i weights[kVectors] = {_mm512_loadu_si512(packed), _mm512_loadu_si512(packed + kLine),
                                       _mm512_loadu_si512(packed + 2 * kLine),
                                       _mm512_loadu_si512(packed + 3 * kLine)};
    if constexpr (kAhead) {
      ask_for(ahead);
      ask_for(ahead + kLine);
      ahead += kWidth / 2;
    }
    __m512i row = _mm512_setzero_si512();
    ((row = kPlaces % kVectors == 0
                ? four_codes(codes + static_cast<i64>(kPlaces / kVectors) * block.codes_stride)
                : row,
      sum_products(sums[kPlaces], weights[kPlaces % kVectors], row)),
     ...);
  }
  (finish(block, kPlaces / kVectors, kPlaces % kVectors, sums[kPlaces]), ...);
}

template <bool kAhead>
WIDE void compute(const Block& block, i64 rows) {
  switch (rows) {
    case 1:
      return compute<kAhead>(block, std::make_index_sequence<1 * kVectors>{});
    case 2:
      return compute<kAhead>(block, std::make_index_sequence<2 * kVectors>{});
    case 3:
      return compute<kAhead>(block, std::make_index_sequence<3 * kVectors>{});
    case 4:
      return compute<kAhead>(block, std::make_index_sequence<4 * kVectors>{});
    case 5:
      return compute<kAhead>(block, std::make_index_sequence<5 * kVectors>{});
    default:
      return compute<kAhead>(block, std::make_index_sequence<kRows * kVectors>{});
  }
}

}  // namespace

bool avx512_runs() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
         __builtin_cpu_supports("avx512vnni") != 0;
}

void multiply_avx512(const CodedRows& rows, const CodedWeights& weights, const RowsIn& added,
                     const RowsOut& result) {
  const i64 groups = (weights.in + kGroup - 1) / kGroup;
  const i64 panel_bytes = groups * kGroup * kPanel;
  const i64 blocks = (rows.rows + kRows - 1) / kRows;
  for (i64 channel = 0; channel < weights.out; channel += kPanel) {
    const std::uint8_t* packed = weights.packed + channel / kPanel * panel_bytes;
    i64 row = 0;
    for (i64 index = 0; index < blocks; ++index) {
      const i64 count = (rows.rows - row + blocks - index - 1) / (blocks - index);
      const Block block{rows.codes + row * rows.stride,
                        rows.stride,
                        rows.worth + row,
                        rows.sums + row,
                        packed,
                        groups,
                        packed + panel_bytes + index * (panel_bytes / 2),
                        weights.scale + channel,
                        weights.bias == nullptr ? nullptr : weights.bias + channel,
                        added.data == nullptr ? nullptr : added.data + row * added.stride + channel,
                        added.stride,
                        result.data + row * result.stride + channel,
                        result.stride,
                        std::min(kPanel, weights.out - channel)};
      // One block is as fast as weights come from memory, in order, which the processor foresees. The second
      // and more wait for nothing while memory rests: so the first two ask for half of the next panel each.
      if (blocks > 1 && index < 2) {
        compute<true>(block, count);
      } else {
        compute<false>(block, count);
      }
      row += count;
    }
  }
}

}  // namespace native_text

#endif
