#include "native_text/rows.hpp"

#include "simd.hpp"

namespace native_text {
namespace {

// Scales one row in place, or to elsewhere.
FOR_EACH_PROCESSOR void scale_row(const float* x, i64 size, const ScaledRows& result, i64 row) {
  const auto [worth, spoiled] = largest_of(x, size, result.least);
  const float factor = result.most / worth;
  float* scaled = result.data + row * size;
#pragma omp simd
  for (i64 i = 0; i < size; ++i) scaled[i] = x[i] * factor;
  result.worth[row] = worth + spoiled;
}

FOR_EACH_PROCESSOR void normalize_row(const float* x, i64 size, const float* weights, float epsilon,
                                      float* result) {
  float squares = 0.0F;
#pragma omp simd reduction(+ : squares)
  for (i64 i = 0; i < size; ++i) squares += x[i] * x[i];
  const float factor = 1.0F / std::sqrt(squares / static_cast<float>(size) + epsilon);
#pragma omp simd
  for (i64 i = 0; i < size; ++i) result[i] = x[i] * factor * weights[i];
}

FOR_EACH_PROCESSOR void gate_row(const float* gate, const float* up, i64 size, float* result) {
#pragma omp simd
  for (i64 i = 0; i < size; ++i) {
    const float below = exponential(-std::abs(gate[i]));
    const float share = (gate[i] >= 0.0F ? 1.0F : below) / (1.0F + below);
    result[i] = gate[i] * share * up[i];
  }
}

FOR_EACH_PROCESSOR void rotate_head(const float* x, const float* cos, const float* sin, i64 half,
                                    float* result) {
#pragma omp simd
  for (i64 i = 0; i < half; ++i) {
    const float first = x[i];
    const float second = x[i + half];
    result[i] = first * cos[i] - second * sin[i];
    result[i + half] = second * cos[i + half] + first * sin[i + half];
  }
}

}  // namespace

void scale(const RowsIn& x, const ScaledRows& result) {
  for (i64 row = 0; row < x.rows; ++row) scale_row(x.data + row * x.stride, x.size, result, row);
}

void normalize(const RowsIn& x, const float* weights, float epsilon, float* result) {
  for (i64 row = 0; row < x.rows; ++row) {
    normalize_row(x.data + row * x.stride, x.size, weights, epsilon, result + row * x.size);
  }
}

void normalize_and_scale(const RowsIn& x, const float* weights, float epsilon, const ScaledRows& result) {
  for (i64 row = 0; row < x.rows; ++row) {
    float* place = result.data + row * x.size;
    normalize_row(x.data + row * x.stride, x.size, weights, epsilon, place);
    scale_row(place, x.size, result, row);
  }
}

void gate(const RowsIn& gate, const RowsIn& up, float* result) {
  for (i64 row = 0; row < gate.rows; ++row) {
    gate_row(gate.data + row * gate.stride, up.data + row * up.stride, gate.size, result + row * gate.size);
  }
}

void gate_and_scale(const RowsIn& gate, const RowsIn& up, const ScaledRows& result) {
  for (i64 row = 0; row < gate.rows; ++row) {
    float* place = result.data + row * gate.size;
    gate_row(gate.data + row * gate.stride, up.data + row * up.stride, gate.size, place);
    scale_row(place, gate.size, result, row);
  }
}

void rotate(const float* x, const float* cos, const float* sin, i64 size, float* result) {
  rotate_head(x, cos, sin, size / 2, result);
}

void rotate(const Turned& x, const Angles& cos, const Angles& sin, float* result) {
  for (i64 row = 0; row < x.rows; ++row) {
    for (i64 head = 0; head < x.heads; ++head) {
      for (i64 token = 0; token < x.tokens; ++token, result += x.size) {
        rotate(x.data + row * x.row_stride + head * x.head_stride + token * x.token_stride,
               cos.data + row * cos.row_stride + token * cos.token_stride,
               sin.data + row * sin.row_stride + token * sin.token_stride, x.size, result);
      }
    }
  }
}

}  // namespace native_text
