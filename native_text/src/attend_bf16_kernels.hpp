// What attend_bf16.cpp calls for a few queries: by AVX-512 with bf16, or by any processor.
#pragma once

#include <cstdint>

#include "native_text/attend_bf16.hpp"

namespace native_text {

constexpr i64 kPanelLanes = 16;  // tokens of a panel of keys, numbers of a panel of values
constexpr i64 kMostQueries = 6;  // that one call takes
constexpr i64 kMostPanels = 4;

// Products of queries with panels, or of shares with panels. A word is 4 bytes: a pair of numbers in bf16, or
// one in float32. A panel has `words` words of each of its lanes, those of the same number behind each other.
struct Panels {
  const float* rows;  // (rows, words)
  i64 row_stride;
  const float* panels;
  i64 panel_stride;  // from one panel to the next
  i64 word_stride;   // from one word of all lanes to the next
  i64 words;
  float* result;  // (rows, panels * 16)
  i64 result_stride;
};

// Which of a row's scores count: those of the tokens it sees.
struct Seen {
  i64 begin;
  i64 end;
};

struct HalfKernels {
  i64 numbers;  // of a word

  // x times the factor, rounded to bf16, as words; the last one may be half empty.
  void (*round)(const float* x, float factor, i64 size, float* words);

  // A panel of up to 16 tokens' keys; those that are not there become 0.
  void (*pack_keys)(const std::uint16_t* keys, i64 tokens, i64 size, float* panel);

  // Values of up to 16 tokens: a word of all lanes of each panel, and then the next word.
  void (*pack_values)(const std::uint16_t* values, i64 tokens, i64 size, i64 panels, float* words);

  // Up to kMostQueries rows, up to kMostPanels panels; adds to what is there.
  void (*multiply)(const Panels& tile, i64 rows, i64 panels);

  // Turns a row's scores, whole panels of them, into words of shares: e to the power of score - most, where
  // `most` is the largest of those seen and of what is given; 0 where it is not seen. Gives the sum, and
  // `most`.
  float (*share)(const float* scores, i64 panels, const Seen& seen, float& most, float* shares);

  // Scores of one token's heads (rows, words), without panels that are kept: (rows, tokens) into whole
  // panels.
  void (*score_few)(const float* rows, i64 row_stride, i64 count, const std::uint16_t* keys, i64 tokens,
                    i64 size, float* scores, i64 stride, float* room);

  // Adds up values, likewise, from shares in words.
  void (*mix_few)(const float* shares, i64 stride, i64 count, const std::uint16_t* values, i64 tokens,
                  i64 size, float* result, i64 result_stride, float* room);
};

constexpr i64 panels_of(i64 size) { return (size + kPanelLanes - 1) / kPanelLanes; }

const HalfKernels& portable_half_kernels();

// Null where this processor has not the instructions.
const HalfKernels* wide_half_kernels();

}  // namespace native_text
