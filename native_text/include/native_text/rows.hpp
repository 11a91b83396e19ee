// What stands between the products of a language model's layer: each row by itself, in one pass.
#pragma once

#include <cstdint>

namespace native_text {

using i64 = std::int64_t;

// Which code computes: what is fastest on this processor, or what runs on every one.
enum class Kernel { fastest, portable };

// (rows, size), the numbers of a row behind each other.
struct RowsIn {
  const float* data = nullptr;
  i64 rows = 0;
  i64 size = 0;
  i64 stride = 0;
};

// (rows, size), likewise, to be written.
struct RowsOut {
  float* data = nullptr;
  i64 stride = 0;
};

// Rows as products of eight bits take them. A row with a number that is not finite has a worth that is not
// one.
struct ScaledRows {
  float* data = nullptr;   // (rows, size), contiguous: each row times `most` over its largest value
  float* worth = nullptr;  // (rows,): the largest value of each row, and `least` where that is smaller
  float most = 127.0F;
  float least = 0.0F;
};

void scale(const RowsIn& x, const ScaledRows& result);

// x over the root of its mean square, times the weights (Zhang and Sennrich, Root Mean Square Layer
// Normalization, 2019).
void normalize(const RowsIn& x, const float* weights, float epsilon, float* result);

// The same, scaled: `result` is written twice.
void normalize_and_scale(const RowsIn& x, const float* weights, float epsilon, const ScaledRows& result);

// gate / (1 + exp(-gate)) * up (Shazeer, GLU Variants Improve Transformer, 2020).
void gate(const RowsIn& gate, const RowsIn& up, float* result);

// The same, scaled.
void gate_and_scale(const RowsIn& gate, const RowsIn& up, const ScaledRows& result);

// (rows, heads, tokens, size) with strides, the numbers of a head behind each other.
struct Turned {
  const float* data = nullptr;
  i64 rows = 0, heads = 0, tokens = 0, size = 0;
  i64 row_stride = 0, head_stride = 0, token_stride = 0;
};

// (rows, 1, tokens, size) with strides.
struct Angles {
  const float* data = nullptr;
  i64 row_stride = 0, token_stride = 0;
};

// A rotary position embedding by halves, into (rows, heads, tokens, size), contiguous.
void rotate(const Turned& x, const Angles& cos, const Angles& sin, float* result);

// The numbers of one head.
void rotate(const float* x, const float* cos, const float* sin, i64 size, float* result);

}  // namespace native_text
