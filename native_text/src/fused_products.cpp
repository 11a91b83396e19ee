#include "native_text/fused_products.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

namespace native_text {
namespace {

// What a thread writes between the first product and the last; it grows to what the largest call takes.
struct Scratch {
  std::vector<float> values, row;
  std::vector<std::uint8_t> prepared;
};

template <typename T>
T* room(std::vector<T>& vector, i64 size) {
  if (static_cast<i64>(vector.size()) < size) vector.resize(static_cast<std::size_t>(size));
  return vector.data();
}

RowsIn part(const std::vector<RowsIn>& values, const Operand& operand, i64 size) {
  const RowsIn& whole = values[static_cast<std::size_t>(operand.value)];
  return {whole.data + operand.begin, whole.rows, size, whole.stride};
}

// The rows that a product multiplies, as its weights take them.
const std::uint8_t* prepared(const Product& product, const std::vector<RowsIn>& values, i64 rows,
                             Scratch& scratch) {
  const i64 size = product.weights->in();
  std::uint8_t* place = room(scratch.prepared, product.weights->prepared_size(rows));
  float* made = room(scratch.row, size);
  const bool gated = product.gated.value >= 0;
  const RowsIn x = part(values, product.x, size);
  const RowsIn up = gated ? part(values, product.gated, size) : RowsIn{};
  for (i64 row = 0; row < rows; ++row) {
    const float* from = x.data + row * x.stride;
    if (gated) {
      gate({from, 1, size, size}, {up.data + row * up.stride, 1, size, size}, made);
      from = made;
    }
    if (product.normalizing != nullptr) {
      normalize({from, 1, size, size}, product.normalizing, product.epsilon, made);
      from = made;
    }
    product.weights->prepare(from, row, rows, place);
  }
  return place;
}

}  // namespace

FusedProducts::FusedProducts(std::vector<i64> sizes, std::vector<Product> products)
    : num_given_(sizes.size()),
      sizes_(std::move(sizes)),
      products_(std::move(products)),
      most_rows_(std::numeric_limits<i64>::max()) {
  for (const Product& product : products_) {
    const auto fits = [this](const Operand& operand, i64 size) {
      return operand.value >= 0 && operand.value < static_cast<i64>(sizes_.size()) && operand.begin >= 0 &&
             operand.begin + size <= sizes_[static_cast<std::size_t>(operand.value)];
    };
    const auto absent = [](const Operand& operand) { return operand.value < 0; };
    const i64 in = product.weights->in();
    const i64 out = product.weights->out();
    if (in < 1 || out < 1 || !fits(product.x, in) || !(absent(product.gated) || fits(product.gated, in)) ||
        !(absent(product.added) || fits(product.added, out))) {
      throw std::invalid_argument("a product that does not fit the values before it");
    }
    sizes_.push_back(out);
    most_rows_ = std::min(most_rows_, product.weights->most_rows());
  }
}

void FusedProducts::run(i64 rows, const std::vector<RowsIn>& given,
                        const std::vector<float*>& results) const {
  if (given.size() != num_given_ || results.size() != products_.size()) {
    throw std::invalid_argument("not the number of values or results that products have");
  }
  thread_local Scratch scratch;
  std::vector<RowsIn> values = given;
  values.resize(sizes_.size());
  for (i64 first = 0; first < rows; first += most_rows_) {
    const i64 count = std::min(most_rows_, rows - first);
    i64 inner = 0;
    for (std::size_t index = 0; index < products_.size(); ++index) {
      if (results[index] == nullptr) inner += count * products_[index].weights->out();
    }
    float* place = room(scratch.values, inner);
    for (std::size_t value = 0; value < num_given_; ++value) {
      values[value].data = given[value].data + first * given[value].stride;
    }
    for (std::size_t index = 0; index < products_.size(); ++index) {
      const Product& product = products_[index];
      const i64 size = product.weights->out();
      float* result = results[index] == nullptr ? place : results[index] + first * size;
      if (results[index] == nullptr) place += count * size;
      const RowsIn added = product.added.value < 0 ? RowsIn{} : part(values, product.added, size);
      product.weights->multiply(prepared(product, values, count, scratch), count, added, {result, size});
      values[num_given_ + index] = {result, count, size, size};
    }
  }
}

}  // namespace native_text
