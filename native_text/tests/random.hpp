// Numbers that are the same in each run.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

inline std::vector<float> numbers(std::int64_t count, std::mt19937& engine) {
  std::normal_distribution<float> normal;
  std::vector<float> found(static_cast<std::size_t>(count));
  for (float& number : found) number = normal(engine);
  return found;
}

inline std::vector<float> numbers(std::int64_t count, unsigned seed) {
  std::mt19937 engine(seed);
  return numbers(count, engine);
}

template <typename Code>
std::vector<Code> whole_numbers(std::int64_t count, int least, int most, std::mt19937& engine) {
  std::uniform_int_distribution<int> any(least, most);
  std::vector<Code> found(static_cast<std::size_t>(count));
  for (Code& code : found) code = static_cast<Code>(any(engine));
  return found;
}
