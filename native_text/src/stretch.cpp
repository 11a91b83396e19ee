#include "native_text/stretch.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace native_text {
namespace {

constexpr i64 kRowsAtOnce = 240;  // whose codes stay in the second cache beside a panel of weights
constexpr float kLeast = 1e-30F;

// What a thread's stretches write between their first and last product; it grows to what the largest one
// takes.
struct Scratch {
  std::vector<float> values, row, worth;
  std::vector<std::int8_t> codes;
  std::vector<std::int32_t> sums;
};

template <typename T>
T* room(std::vector<T>& vector, i64 size) {
  if (static_cast<i64>(vector.size()) < size) vector.resize(static_cast<std::size_t>(size));
  return vector.data();
}

RowsIn part(const RowsIn& whole, i64 begin, i64 size) {
  return {whole.data + begin, whole.rows, size, whole.stride};
}

// The link's activations as codes.
CodedRows coded(const Link& link, const std::vector<RowsIn>& values, i64 rows, Scratch& scratch) {
  const i64 size = link.weights.in;
  const i64 stride = coded_size(size);
  std::int8_t* codes = room(scratch.codes, rows * stride);
  float* worth = room(scratch.worth, rows);
  std::int32_t* sums = room(scratch.sums, rows);
  float* made = room(scratch.row, size);
  const RowsIn x = part(values[static_cast<std::size_t>(link.x.value)], link.x.begin, size);
  for (i64 row = 0; row < rows; ++row) {
    const float* from = x.data + row * x.stride;
    if (link.gated.value >= 0) {
      const RowsIn& up = values[static_cast<std::size_t>(link.gated.value)];
      gate({from, 1, size, size}, {up.data + link.gated.begin + row * up.stride, 1, size, size}, made);
      from = made;
    }
    if (link.normalizing != nullptr) {
      normalize({from, 1, size, size}, link.normalizing, link.epsilon, made);
      from = made;
    }
    code_row(from, size, kLeast, codes + row * stride, worth[row], sums[row]);
  }
  return {codes, worth, sums, rows, stride};
}

}  // namespace

Stretch::Stretch(std::vector<i64> sizes, std::vector<Link> links)
    : num_given_(static_cast<i64>(sizes.size())), sizes_(std::move(sizes)), links_(std::move(links)) {
  for (const Link& link : links_) {
    const auto known = static_cast<i64>(sizes_.size());
    const auto fits = [&](const Operand& operand, i64 size) {
      return operand.value >= 0 && operand.value < known && operand.begin >= 0 &&
             operand.begin + size <= sizes_[static_cast<std::size_t>(operand.value)];
    };
    const auto absent = [](const Operand& operand) { return operand.value < 0; };
    if (link.weights.in < 1 || link.weights.out < 1 || link.weights.in > kMostSummed ||
        !fits(link.x, link.weights.in) || !(absent(link.gated) || fits(link.gated, link.weights.in)) ||
        !(absent(link.added) || fits(link.added, link.weights.out))) {
      throw std::invalid_argument("a link that does not fit the values before it");
    }
    sizes_.push_back(link.weights.out);
  }
}

void Stretch::run(i64 rows, const std::vector<RowsIn>& given, const std::vector<float*>& results) const {
  if (static_cast<i64>(given.size()) != num_given_ || results.size() != links_.size()) {
    throw std::invalid_argument("not the stretch's number of values or results");
  }
  thread_local Scratch scratch;
  std::vector<RowsIn> values = given;
  values.resize(sizes_.size());
  for (i64 first = 0; first < rows; first += kRowsAtOnce) {
    const i64 count = std::min(kRowsAtOnce, rows - first);
    i64 inner = 0;
    for (std::size_t link = 0; link < links_.size(); ++link) {
      if (results[link] == nullptr) inner += count * links_[link].weights.out;
    }
    float* place = room(scratch.values, inner);
    for (std::size_t value = 0; value < given.size(); ++value) {
      values[value].data = given[value].data + first * given[value].stride;
    }
    for (std::size_t index = 0; index < links_.size(); ++index) {
      const Link& link = links_[index];
      const i64 size = link.weights.out;
      float* result = results[index] == nullptr ? place : results[index] + first * size;
      if (results[index] == nullptr) place += count * size;
      RowsIn added;
      if (link.added.value >= 0) {
        added = part(values[static_cast<std::size_t>(link.added.value)], link.added.begin, size);
      }
      multiply(coded(link, values, count, scratch), link.weights, added, {result, size});
      values[given.size() + index] = {result, count, size, size};
    }
  }
}

}  // namespace native_text
