#include "products4_tile.hpp"

#include "simd.hpp"

#if defined(__x86_64__) && defined(__linux__)
#if !defined(__clang__)  // GCC 12 takes what its own header leaves open for a mistake (its bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#define HAS_WIDE_TILE 1
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#else
#define HAS_WIDE_TILE 0
#endif

namespace native_text {

// --- AVX-512 with bf16 -----------------------------------------------------------------------------------

#if HAS_WIDE_TILE

namespace {

// Codes less 8 in bf16, twice: `vpermw` looks at 5 bits, of which the fifth is the next code's.
alignas(64) constexpr std::uint16_t kLevels[32] = {
    0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000,
    0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0, 0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040,
    0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0};

// For 32 weights a shift, a permutation and, for each row, a product of pairs: nothing is rounded before
// sums.
template <int ROWS>
WIDE void wide_rows(const Tile& tile, i64 channels) {
  const __m512i levels = _mm512_load_si512(kLevels);
  const auto* rows = static_cast<const std::uint8_t*>(tile.rows);
  const i64 stride = tile.groups * kPackedGroup * 2;
  __m512 total[ROWS];
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; ++row) total[row] = _mm512_setzero_ps();
  for (i64 group = 0; group < tile.groups; ++group) {
    const std::uint8_t* packed = tile.packed + group * kGroupBytes;
    const std::uint8_t* pairs = rows + group * kPackedGroup * 2;
    __m512 sum[ROWS];
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row) sum[row] = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) {
      const __m512i codes = _mm512_loadu_si512(packed + quarter * 64);
#pragma GCC unroll 4
      for (int pair = 0; pair < 4; ++pair) {
        const __m512i lower = pair == 0 ? codes : _mm512_srli_epi16(codes, static_cast<unsigned>(4 * pair));
        const auto weights = (__m512bh)_mm512_permutexvar_epi16(lower, levels);
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; ++row) {
          std::int32_t two = 0;
          std::memcpy(&two, pairs + row * stride + (quarter * 4 + pair) * 4, sizeof two);
          sum[row] = _mm512_dpbf16_ps(sum[row], weights, (__m512bh)_mm512_set1_epi32(two));
        }
      }
    }
    const __m512i worth = _mm512_loadu_si512(packed + 256);
    const __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(worth, 16));
    const __m512 zero = _mm512_castsi512_ps(_mm512_and_si512(worth, _mm512_set1_epi32(-65536)));
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row) {
      total[row] = _mm512_fmadd_ps(scale, sum[row], total[row]);
      total[row] = _mm512_fmadd_ps(zero, _mm512_set1_ps(tile.sums[row * tile.groups + group]), total[row]);
    }
  }
  const auto there = static_cast<__mmask16>((1U << static_cast<unsigned>(channels)) - 1U);
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; ++row) {
    const auto rounded = (__m256i)_mm512_cvtneps_pbh(total[row]);
    __m512 result = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
    if (tile.bias != nullptr) result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(there, tile.bias));
    if (tile.added != nullptr) {
      result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(there, tile.added + row * tile.added_stride));
    }
    _mm512_mask_storeu_ps(tile.result + row * tile.stride, there, result);
  }
}

}  // namespace

bool wide_tiles_here() {
  static const bool here = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return here;
}

void wide_tile(const Tile& tile, i64 count, i64 channels) {
  switch (count) {
    case 8:
      return wide_rows<8>(tile, channels);
    case 4:
      return wide_rows<4>(tile, channels);
    case 2:
      return wide_rows<2>(tile, channels);
    default:
      return wide_rows<1>(tile, channels);
  }
}

#else

bool wide_tiles_here() { return false; }

void wide_tile(const Tile& tile, i64 count, i64 channels) { portable_tile(tile, count, channels); }

#endif

// --- every processor -------------------------------------------------------------------------------------

namespace {

constexpr int kLanes = 8;
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Words = std::int32_t __attribute__((vector_size(4 * kLanes)));
constexpr int kParts = kTileChannels / kLanes;

// Half of the channels after the other: both would not find room in 16 registers.
template <int ROWS>
ALWAYS_INLINE void portable_part(const Tile& tile, int part, float* found) {
  const auto* rows = static_cast<const float*>(tile.rows);
  const i64 stride = tile.groups * kPackedGroup;
  Floats total[ROWS] = {};
  for (i64 group = 0; group < tile.groups; ++group) {
    const std::uint8_t* packed = tile.packed + group * kGroupBytes + part * kLanes * 4;
    const float* numbers = rows + group * kPackedGroup;
    Floats sum[ROWS] = {};
    for (int quarter = 0; quarter < 4; ++quarter, packed += kTileChannels * 4, numbers += 8) {
      Words codes;
      std::memcpy(&codes, packed, sizeof codes);
#pragma GCC unroll 8
      for (int place = 0; place < 8; ++place) {
        const int shift = place % 2 * 16 + place / 2 * 4;
        const Words one = place == 7 ? ((codes >> 28) & 15) : (codes & (15 << shift));
        const Floats weights = __builtin_convertvector(one, Floats);
#pragma GCC unroll 4
        for (int row = 0; row < ROWS; ++row) sum[row] += weights * numbers[row * stride + place];
      }
    }
    Words worth;
    std::memcpy(&worth, packed, sizeof worth);
    const Words lower = worth << 16;
    const Words upper = worth & -65536;
    Floats scale;
    Floats zero;
    std::memcpy(&scale, &lower, sizeof scale);
    std::memcpy(&zero, &upper, sizeof zero);
    zero -= scale * 8.0F;
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; ++row) {
      total[row] += scale * sum[row];
      total[row] += zero * tile.sums[row * tile.groups + group];
    }
  }
  for (int row = 0; row < ROWS; ++row) {
    std::memcpy(found + row * kTileChannels + part * kLanes, &total[row], sizeof total[row]);
  }
}

template <int ROWS>
ALWAYS_INLINE void portable_rows(const Tile& tile, i64 channels) {
  float found[ROWS * kTileChannels];
  for (int part = 0; part < kParts; ++part) portable_part<ROWS>(tile, part, found);
  for (int row = 0; row < ROWS; ++row) {
    for (i64 i = 0; i < channels; ++i) {
      const std::uint32_t bits = bf16_bits(found[row * kTileChannels + i]);
      float result = 0.0F;
      std::memcpy(&result, &bits, sizeof result);
      if (tile.bias != nullptr) result += tile.bias[i];
      if (tile.added != nullptr) result += tile.added[row * tile.added_stride + i];
      tile.result[row * tile.stride + i] = result;
    }
  }
}

}  // namespace

FOR_EACH_PROCESSOR void portable_tile(const Tile& tile, i64 count, i64 channels) {
  switch (count) {
    case 4:
      portable_rows<4>(tile, channels);
      break;
    case 2:
      portable_rows<2>(tile, channels);
      break;
    default:
      portable_rows<1>(tile, channels);
      break;
  }
}

}  // namespace native_text
