// What the kernels share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "native_text/rows.hpp"

// One binary for processors with and without wide vectors: the loader takes the version that fits.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace native_text {

// e to the power of x for x up to 0, within 2 units in the last place: 2**n times a polynomial of the rest
// (Cephes' coefficients), without branches, so that compilers make vectors of it. Below -87 it is 0.
inline float exponential(float x) {
  const float bounded = std::max(x, -87.0F);
  const float whole = (bounded * 1.44269504F + 12582912.0F) - 12582912.0F;  // 1.5 * 2**23: to the nearest
  const float rest = (bounded - whole * 0.693359375F) + whole * 2.12194440e-4F;
  float sum = 1.9875691500e-4F;
  sum = sum * rest + 1.3981999507e-3F;
  sum = sum * rest + 8.3334519073e-3F;
  sum = sum * rest + 4.1665795894e-2F;
  sum = sum * rest + 1.6666665459e-1F;
  sum = sum * rest + 5.0000001201e-1F;
  const float power = sum * rest * rest + rest + 1.0F;
  const auto bits = static_cast<std::int32_t>(whole + 127.0F) << 23;
  float scale = 0.0F;
  std::memcpy(&scale, &bits, sizeof scale);
  return x < -87.0F ? 0.0F : power * scale;
}

// The largest absolute value of a row, `least` at least.
struct Largest {
  float value;
  float spoiled;  // 0, or not a number if any is not finite: comparisons pass those over
};

ALWAYS_INLINE Largest largest_of(const float* x, i64 size, float least) {
  float largest = 0.0F;
  float spoiled = 0.0F;
#pragma omp simd reduction(max : largest) reduction(+ : spoiled)
  for (i64 i = 0; i < size; ++i) {
    largest = std::max(largest, std::abs(x[i]));
    spoiled += x[i] * 0.0F;
  }
  return {std::max(largest, least), spoiled};
}

// The bits of the nearest number that bf16 has, ties to even.
inline std::uint32_t bf16_bits(float x) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t nan = (bits & 0x7FFFFFFFU) > 0x7F800000U ? 0x00400000U : 0U;
  const std::uint32_t nearest = nan != 0U ? 0U : 0x7FFFU + ((bits >> 16U) & 1U);
  return ((bits | nan) + nearest) & 0xFFFF0000U;
}

}  // namespace native_text
