// Products that follow each other, with what stands between them, in one call: in a language model all from
// one attention to the next.
#pragma once

#include <memory>
#include <vector>

#include "native_text/weights.hpp"

namespace native_text {

// A part of a value: its numbers from `begin` on.
struct Operand {
  i64 value = -1;  // -1: there is none
  i64 begin = 0;
};

// One product with what stands before and behind it. Values are numbered: first what is given, then the
// result of each product.
struct Product {
  std::shared_ptr<const Weights> weights;
  Operand x;
  Operand gated;  // x is silu(x) * gated, where there is one
  const float* normalizing =
      nullptr;  // x is normalized by its root mean square, with these weights; null: it is not
  float epsilon = 0.0F;
  Operand added;  // to the result
};

class FusedProducts {
 public:
  // `sizes`: how many numbers a row has, of each value that is given. Throws std::invalid_argument where
  // products and values do not fit together.
  FusedProducts(std::vector<i64> sizes, std::vector<Product> products);

  // `given`: as many rows each. `results`: a place for the result of each product, (rows, out); null: it is
  // not asked for. Throws std::invalid_argument where there are more or fewer of either.
  void run(i64 rows, const std::vector<RowsIn>& given, const std::vector<float*>& results) const;

 private:
  std::size_t num_given_;
  std::vector<i64> sizes_;  // of all values
  std::vector<Product> products_;
  i64 most_rows_;
};

}  // namespace native_text
