// How malformed problems are refused: std::invalid_argument that names field and index.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "native_sched/spec.hpp"

namespace native_sched {

inline constexpr i64 kMostBytes = i64{1} << 62;

[[noreturn]] inline void fail(const std::string& message) { throw std::invalid_argument(message); }

inline std::string item(const std::string& field, std::size_t index) {
  return field + "[" + std::to_string(index) + "]";
}

inline void check_length(const std::string& field, std::size_t have, std::size_t want) {
  if (have != want)
    fail(field + " has " + std::to_string(have) + " entries: expected " + std::to_string(want));
}

inline void check_bytes(const std::string& field, i64 value) {
  if (value < 0) fail(field + " is " + std::to_string(value) + ": bytes cannot be negative");
  if (value > kMostBytes) fail(field + " is " + std::to_string(value) + ": more than 2^62 bytes");
}

inline void check_all_bytes(const std::string& field, const std::vector<i64>& values) {
  for (std::size_t k = 0; k < values.size(); ++k) {
    if (values[k] < 0 || values[k] > kMostBytes) check_bytes(item(field, k), values[k]);
  }
}

inline void check_rate(const std::string& field, double value) {
  if (!std::isfinite(value) || value <= 0.0) {
    fail(field + " is " + std::to_string(value) + ": expected a finite number greater than 0");
  }
}

inline void check_index(const std::string& field, i64 value, int count) {
  if (value < 0 || value >= count) {
    fail(field + " is " + std::to_string(value) + ": expected 0 to " + std::to_string(count - 1));
  }
}

}  // namespace native_sched
