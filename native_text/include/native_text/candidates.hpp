// The most likely tokens of a row of scores.
#pragma once

#include <cstdint>

namespace native_text {

using i64 = std::int64_t;

// The `count` largest of `size` scores, the largest first, of equal ones that with the least place first; and
// the logarithm of the sum of all scores' exponentials. Not a number: that of the sum is not one, and the
// places are the first ones.
void candidates(const float* scores, i64 size, i64 count, float* best, i64* places, float* log_sum);

}  // namespace native_text
