#include <algorithm>
#include <cstring>
#include <limits>

#include "attend_bf16_kernels.hpp"

#if defined(__x86_64__) && defined(__linux__)
#if !defined(__clang__)  // GCC 12 takes what its own header leaves open for a mistake (its bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define WIDE_INLINE \
  inline __attribute__((always_inline, target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

namespace native_text {
namespace {

constexpr i64 kFew = kMostPanels * kPanelLanes;  // tokens whose panels stay in the smallest cache

WIDE_INLINE __mmask16 first_lanes(i64 count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFFU
                                            : (1U << static_cast<unsigned>(std::max<i64>(count, 0))) - 1U);
}

WIDE_INLINE __mmask32 first_halves(i64 count) {
  return count >= 32 ? 0xFFFFFFFFU : (1U << static_cast<unsigned>(std::max<i64>(count, 0))) - 1U;
}

WIDE void round_wide(const float* x, float factor, i64 size, float* words) {
  auto* place = reinterpret_cast<char*>(words);
  for (i64 i = 0; i < size + size % 2; i += 16) {
    const __m512 scaled =
        _mm512_mul_ps(_mm512_maskz_loadu_ps(first_lanes(size - i), x + i), _mm512_set1_ps(factor));
    _mm256_mask_storeu_epi16(place + 2 * i, first_lanes(size + size % 2 - i),
                             (__m256i)_mm512_cvtneps_pbh(scaled));
  }
}

// 16 registers of 16 words, of which rows become columns.
WIDE_INLINE void transpose(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xDD);
    t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xDD);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xDD);
    r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xDD);
  }
}

WIDE void pack_keys_wide(const std::uint16_t* keys, i64 tokens, i64 size, float* panel) {
  auto* place = reinterpret_cast<char*>(panel);
  for (i64 first = 0; first < size; first += 32) {
    const __mmask32 there = first_halves(size - first);
    __m512i rows[16];
#pragma GCC unroll 16
    for (int token = 0; token < 16; ++token) {
      rows[token] = token < tokens ? _mm512_maskz_loadu_epi16(there, keys + token * size + first)
                                   : _mm512_setzero_si512();
    }
    transpose(rows);
    const i64 words = std::min<i64>(16, (size - first + 1) / 2);
#pragma GCC unroll 16
    for (int word = 0; word < 16; ++word) {
      if (word < words) _mm512_storeu_si512(place + (first / 2 + word) * 64, rows[word]);
    }
  }
}

WIDE void pack_values_wide(const std::uint16_t* values, i64 tokens, i64 size, i64 panels, float* words) {
  auto* place = reinterpret_cast<char*>(words);
  for (i64 token = 0; token < kPanelLanes; token += 2, values += 2 * size) {
    for (i64 panel = 0; panel < panels; ++panel, place += 64) {
      const __mmask16 there = first_lanes(size - panel * kPanelLanes);
      const __mmask16 none = 0;
      const __m256i one =
          _mm256_maskz_loadu_epi16(token < tokens ? there : none, values + panel * kPanelLanes);
      const __m256i other =
          _mm256_maskz_loadu_epi16(token + 1 < tokens ? there : none, values + size + panel * kPanelLanes);
      _mm512_storeu_si512(place, _mm512_or_si512(_mm512_cvtepu16_epi32(one),
                                                 _mm512_slli_epi32(_mm512_cvtepu16_epi32(other), 16)));
    }
  }
}

// Every sum takes its pairs in their order, whatever is beside it.
template <int ROWS, int PANELS>
WIDE void multiply_tile(const Panels& tile) {
  __m512 sum[ROWS][PANELS];
#pragma GCC unroll 6
  for (int row = 0; row < ROWS; ++row) {
#pragma GCC unroll 4
    for (int panel = 0; panel < PANELS; ++panel) {
      sum[row][panel] = _mm512_loadu_ps(tile.result + row * tile.result_stride + panel * kPanelLanes);
    }
  }
  const auto* rows = reinterpret_cast<const char*>(tile.rows);
  const auto* panels = reinterpret_cast<const char*>(tile.panels);
  for (i64 word = 0; word < tile.words; ++word, rows += 4, panels += 4 * tile.word_stride) {
    __m512bh lanes[PANELS];
#pragma GCC unroll 4
    for (int panel = 0; panel < PANELS; ++panel) {
      lanes[panel] = (__m512bh)_mm512_loadu_si512(panels + 4 * panel * tile.panel_stride);
    }
#pragma GCC unroll 6
    for (int row = 0; row < ROWS; ++row) {
      std::int32_t two = 0;
      std::memcpy(&two, rows + 4 * row * tile.row_stride, sizeof two);
      const auto pair = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 4
      for (int panel = 0; panel < PANELS; ++panel)
        sum[row][panel] = _mm512_dpbf16_ps(sum[row][panel], lanes[panel], pair);
    }
  }
#pragma GCC unroll 6
  for (int row = 0; row < ROWS; ++row) {
#pragma GCC unroll 4
    for (int panel = 0; panel < PANELS; ++panel) {
      _mm512_storeu_ps(tile.result + row * tile.result_stride + panel * kPanelLanes, sum[row][panel]);
    }
  }
}

template <int ROWS>
void multiply_rows(const Panels& tile, i64 panels) {
  switch (panels) {
    case 4:
      return multiply_tile<ROWS, 4>(tile);
    case 3:
      return multiply_tile<ROWS, 3>(tile);
    case 2:
      return multiply_tile<ROWS, 2>(tile);
    default:
      return multiply_tile<ROWS, 1>(tile);
  }
}

void multiply_wide(const Panels& tile, i64 rows, i64 panels) {
  switch (rows) {
    case 6:
      return multiply_rows<6>(tile, panels);
    case 5:
      return multiply_rows<5>(tile, panels);
    case 4:
      return multiply_rows<4>(tile, panels);
    case 3:
      return multiply_rows<3>(tile, panels);
    case 2:
      return multiply_rows<2>(tile, panels);
    default:
      return multiply_rows<1>(tile, panels);
  }
}

// As `exponential`. NaN stays NaN: comparisons give their second number then.
WIDE_INLINE __m512 exponential_wide(__m512 x) {
  const __m512 least = _mm512_set1_ps(-87.0F);
  const __m512 bounded = _mm512_max_ps(least, x);
  const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(bounded, _mm512_set1_ps(1.44269504F)), 0);
  __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375F), bounded);
  rest = _mm512_fmadd_ps(whole, _mm512_set1_ps(2.12194440e-4F), rest);
  __m512 sum = _mm512_set1_ps(1.9875691500e-4F);
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.3981999507e-3F));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(8.3334519073e-3F));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(4.1665795894e-2F));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.6666665459e-1F));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(5.0000001201e-1F));
  const __m512 power =
      _mm512_fmadd_ps(_mm512_mul_ps(sum, rest), rest, _mm512_add_ps(rest, _mm512_set1_ps(1.0F)));
  const __mmask16 some = _mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(some, power, whole);
}

WIDE_INLINE __mmask16 seen_lanes(i64 first, const Seen& seen) {
  return static_cast<__mmask16>(first_lanes(seen.end - first) & ~first_lanes(seen.begin - first));
}

WIDE float share_wide(const float* scores, i64 panels, const Seen& seen, float& most, float* shares) {
  auto* place = reinterpret_cast<char*>(shares);
  __m512 largest = _mm512_set1_ps(most);
  const i64 from = seen.begin / kPanelLanes;
  const i64 to = panels_of(seen.end);
  for (i64 panel = from; panel < to; ++panel) {
    const __mmask16 there = seen_lanes(panel * kPanelLanes, seen);
    // what is not a number gives way to what is there
    largest = _mm512_mask_max_ps(largest, there, _mm512_loadu_ps(scores + panel * kPanelLanes), largest);
  }
  most = _mm512_reduce_max_ps(largest);
  largest = _mm512_set1_ps(most);
  std::memset(place, 0, static_cast<std::size_t>(from) * 32);
  __m512 sum = _mm512_setzero_ps();
  for (i64 panel = from; panel < to; ++panel) {
    const __mmask16 there = seen_lanes(panel * kPanelLanes, seen);
    const __m512 all =
        exponential_wide(_mm512_sub_ps(_mm512_loadu_ps(scores + panel * kPanelLanes), largest));
    const auto rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_mov_ps(there, all));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(place + panel * 32), rounded);
    sum = _mm512_add_ps(sum, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16)));
  }
  std::memset(place + to * 32, 0, static_cast<std::size_t>(panels - to) * 32);
  return _mm512_reduce_add_ps(sum);
}

void score_few_wide(const float* rows, i64 row_stride, i64 count, const std::uint16_t* keys, i64 tokens,
                    i64 size, float* scores, i64 stride, float* room) {
  const i64 words = (size + 1) / 2;
  const i64 panel_size = words * kPanelLanes;
  for (i64 token = 0; token < tokens; token += kFew) {
    const i64 panels = panels_of(std::min(kFew, tokens - token));
    for (i64 panel = 0; panel < panels; ++panel) {
      const i64 first = token + panel * kPanelLanes;
      pack_keys_wide(keys + first * size, std::min(kPanelLanes, tokens - first), size,
                     room + panel * panel_size);
    }
    multiply_wide({rows, row_stride, room, panel_size, kPanelLanes, words, scores + token, stride}, count,
                  panels);
  }
}

void mix_few_wide(const float* shares, i64 stride, i64 count, const std::uint16_t* values, i64 tokens,
                  i64 size, float* result, i64 result_stride, float* room) {
  const i64 panels = panels_of(size);
  for (i64 token = 0; token < tokens; token += kPanelLanes) {
    pack_values_wide(values + token * size, std::min(kPanelLanes, tokens - token), size, panels, room);
    for (i64 panel = 0; panel < panels; panel += kMostPanels) {
      multiply_wide({shares + token / 2, stride, room + panel * kPanelLanes, kPanelLanes,
                     panels * kPanelLanes, kPanelLanes / 2, result + panel * kPanelLanes, result_stride},
                    count, std::min(kMostPanels, panels - panel));
    }
  }
}

}  // namespace

const HalfKernels* wide_half_kernels() {
  static const bool here = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  static constexpr HalfKernels kernels{
      2,          round_wide,     pack_keys_wide, pack_values_wide, multiply_wide,
      share_wide, score_few_wide, mix_few_wide};
  return here ? &kernels : nullptr;
}

}  // namespace native_text

#else

namespace native_text {

const HalfKernels* wide_half_kernels() { return nullptr; }

}  // namespace native_text

#endif
