#include <limits>

#include "attend_bf16_kernels.hpp"
#include "simd.hpp"

namespace native_text {
namespace {

constexpr int kLanes = 8;
using Floats = float __attribute__((vector_size(4 * kLanes)));
constexpr i64 kTogether = 64;  // tokens, whose keys fit into the smallest cache

ALWAYS_INLINE float from_bits(std::uint32_t bits) {
  float value = 0.0F;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

ALWAYS_INLINE float widened(std::uint16_t half) { return from_bits(static_cast<std::uint32_t>(half) << 16U); }

FOR_EACH_PROCESSOR void round_words(const float* x, float factor, i64 size, float* words) {
#pragma omp simd
  for (i64 i = 0; i < size; ++i) words[i] = from_bits(bf16_bits(x[i] * factor));
}

FOR_EACH_PROCESSOR void pack_keys(const std::uint16_t* keys, i64 tokens, i64 size, float* panel) {
  for (i64 i = 0; i < size; ++i) {
    for (i64 token = 0; token < kPanelLanes; ++token) {
      panel[i * kPanelLanes + token] = token < tokens ? widened(keys[token * size + i]) : 0.0F;
    }
  }
}

FOR_EACH_PROCESSOR void pack_values(const std::uint16_t* values, i64 tokens, i64 size, i64 panels,
                                    float* words) {
  const i64 wide = panels * kPanelLanes;
  for (i64 token = 0; token < kPanelLanes; ++token, words += wide) {
    const i64 there = token < tokens ? size : 0;
    for (i64 i = 0; i < there; ++i) words[i] = widened(values[token * size + i]);
    std::fill(words + there, words + wide, 0.0F);
  }
}

// Six rows of a panel: as many sums as AVX2's 16 registers and NEON's 32 have room for beside what they are
// made of.
template <int ROWS>
ALWAYS_INLINE void multiply_panel(const Panels& tile, i64 row, i64 number) {
  constexpr int kParts = kPanelLanes / kLanes;
  const float* rows = tile.rows + row * tile.row_stride;
  const float* panel = tile.panels + number * tile.panel_stride;
  float* result = tile.result + row * tile.result_stride + number * kPanelLanes;
  Floats sum[ROWS][kParts];
#pragma GCC unroll 6
  for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      std::memcpy(&sum[i][part], result + i * tile.result_stride + part * kLanes, sizeof(Floats));
    }
  }
  for (i64 word = 0; word < tile.words; ++word) {
    Floats lanes[kParts];
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      std::memcpy(&lanes[part], panel + word * tile.word_stride + part * kLanes, sizeof(Floats));
    }
#pragma GCC unroll 6
    for (int i = 0; i < ROWS; ++i) {
      const float number_of_row = rows[i * tile.row_stride + word];
#pragma GCC unroll 2
      for (int part = 0; part < kParts; ++part) sum[i][part] += lanes[part] * number_of_row;
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      std::memcpy(result + i * tile.result_stride + part * kLanes, &sum[i][part], sizeof(Floats));
    }
  }
}

FOR_EACH_PROCESSOR void multiply(const Panels& tile, i64 rows, i64 panels) {
  for (i64 panel = 0; panel < panels; ++panel) {
    i64 row = 0;
    for (; row + 6 <= rows; row += 6) multiply_panel<6>(tile, row, panel);
    for (; row + 3 <= rows; row += 3) multiply_panel<3>(tile, row, panel);
    for (; row < rows; ++row) multiply_panel<1>(tile, row, panel);
  }
}

FOR_EACH_PROCESSOR float share(const float* scores, i64 panels, const Seen& seen, float& most,
                               float* shares) {
  float largest = most;
#pragma omp simd reduction(max : largest)
  for (i64 token = seen.begin; token < seen.end; ++token) largest = std::max(largest, scores[token]);
  most = largest;
  std::fill(shares, shares + seen.begin, 0.0F);
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (i64 token = seen.begin; token < seen.end; ++token) {
    const float rounded = from_bits(bf16_bits(exponential(scores[token] - largest)));
    shares[token] = rounded;
    sum += rounded;
  }
  std::fill(shares + seen.end, shares + panels * kPanelLanes, 0.0F);
  return sum;
}

// Where the compiler knows the size, the query stays in registers.
ALWAYS_INLINE void score_tokens(const float* query, const std::uint16_t* keys, i64 tokens, i64 size,
                                float* scores) {
  for (i64 token = 0; token < tokens; ++token) {
    const std::uint16_t* key = keys + token * size;
    float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
    for (i64 i = 0; i < size; ++i) sum += query[i] * widened(key[i]);
    scores[token] = sum;
  }
}

FOR_EACH_PROCESSOR void score_row(const float* query, const std::uint16_t* keys, i64 tokens, i64 size,
                                  float* scores) {
  switch (size) {
    case 64:
      return score_tokens(query, keys, tokens, 64, scores);
    case 128:
      return score_tokens(query, keys, tokens, 128, scores);
    default:
      return score_tokens(query, keys, tokens, size, scores);
  }
}

// Rows take turns at a few tokens, which stay near meanwhile: a long sequence is read once and not for each.
void score_few(const float* rows, i64 row_stride, i64 count, const std::uint16_t* keys, i64 tokens, i64 size,
               float* scores, i64 stride, float* /*room*/) {
  for (i64 token = 0; token < tokens; token += kTogether) {
    for (i64 row = 0; row < count; ++row) {
      score_row(rows + row * row_stride, keys + token * size, std::min(kTogether, tokens - token), size,
                scores + row * stride + token);
    }
  }
}

ALWAYS_INLINE void mix_numbers(const float* shares, const std::uint16_t* values, i64 tokens, i64 stride,
                               i64 size, float* result) {
  float sum[64];
  std::copy_n(result, size, sum);
  for (i64 token = 0; token < tokens; ++token) {
    const float share = shares[token];
    const std::uint16_t* value = values + token * stride;
#pragma omp simd
    for (i64 i = 0; i < size; ++i) sum[i] += share * widened(value[i]);
  }
  std::copy_n(sum, size, result);
}

FOR_EACH_PROCESSOR void mix_row(const float* shares, const std::uint16_t* values, i64 tokens, i64 size,
                                float* result) {
  i64 first = 0;
  for (; first + 64 <= size; first += 64)
    mix_numbers(shares, values + first, tokens, size, 64, result + first);
  if (first < size) mix_numbers(shares, values + first, tokens, size, size - first, result + first);
}

void mix_few(const float* shares, i64 stride, i64 count, const std::uint16_t* values, i64 tokens, i64 size,
             float* result, i64 result_stride, float* /*room*/) {
  for (i64 token = 0; token < tokens; token += kTogether) {
    for (i64 row = 0; row < count; ++row) {
      mix_row(shares + row * stride + token, values + token * size, std::min(kTogether, tokens - token), size,
              result + row * result_stride);
    }
  }
}

}  // namespace

const HalfKernels& portable_half_kernels() {
  static constexpr HalfKernels kernels{1,        round_words, pack_keys, pack_values,
                                       multiply, share,       score_few, mix_few};
  return kernels;
}

}  // namespace native_text
