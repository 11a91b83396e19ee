// Products that follow each other, with what stands between them: a stretch of a language model's layer in
// one call.
#pragma once

#include <vector>

#include "native_text/products.hpp"

namespace native_text {

// A part of a value: its numbers from `begin` on.
struct Operand {
  i64 value = -1;  // -1: there is none
  i64 begin = 0;
};

// One product with what stands before and behind it. Values are numbered: first what the stretch is given,
// then the result of each link.
struct Link {
  Weights weights;
  Operand x;
  Operand gated;  // x is silu(x) * gated, where there is one
  const float* normalizing =
      nullptr;  // x is normalized by its root mean square, with these weights; null: it is not
  float epsilon = 0.0F;
  Operand added;  // to the result
};

class Stretch {
 public:
  // `sizes`: how many numbers a row has, of each value that is given. Throws std::invalid_argument where
  // links and values do not fit together.
  Stretch(std::vector<i64> sizes, std::vector<Link> links);

  i64 num_given() const { return num_given_; }
  i64 num_links() const { return static_cast<i64>(links_.size()); }

  // `given`: as many rows each. `results`: a place for the result of each link, (rows, out); null: it is not
  // asked for.
  void run(i64 rows, const std::vector<RowsIn>& given, const std::vector<float*>& results) const;

 private:
  i64 num_given_;
  std::vector<i64> sizes_;  // of all values
  std::vector<Link> links_;
};

}  // namespace native_text
