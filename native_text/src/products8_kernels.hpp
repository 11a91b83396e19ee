// The versions of multiply() for processors with instructions for codes, and how weights lie in memory.
#pragma once

#include "native_text/products8.hpp"

namespace native_text {

// Weights lie in panels of 64 channels: of each four inputs, the four codes of the first channel, of the
// second, and so on. So one row and many read the same bytes in order.
constexpr i64 kPanel = 64;
constexpr i64 kGroup = 4;  // inputs whose products one instruction sums up

// A weight's code of zero: x86's instructions take weights without a sign, which the rows' sums make up for.
#if defined(__aarch64__)
constexpr int kZero = 0;
#else
constexpr int kZero = 128;
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#define NATIVE_TEXT_AVX512
bool avx512_runs();
void multiply_avx512(const CodedRows& rows, const CodedWeights& weights, const RowsIn& added,
                     const RowsOut& result);
#elif defined(__aarch64__) && defined(__GNUC__)
#define NATIVE_TEXT_DOTPROD
bool dotprod_runs();
void multiply_dotprod(const CodedRows& rows, const CodedWeights& weights, const RowsIn& added,
                      const RowsOut& result);
#endif

}  // namespace native_text
