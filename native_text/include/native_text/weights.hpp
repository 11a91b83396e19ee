// The weights of one product. What they are is their own: how they lie in memory, what rows become before
// they are multiplied, and by which instructions that is done.
#pragma once

#include "native_text/rows.hpp"

namespace native_text {

class Weights {
 public:
  Weights(i64 out, i64 in) : out_(out), in_(in) {}
  virtual ~Weights() = default;
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  i64 out() const { return out_; }
  i64 in() const { return in_; }

  // Of more rows, what is prepared would not stay in the cache beside the weights.
  virtual i64 most_rows() const = 0;

  // How many bytes rows take once they are prepared.
  virtual i64 prepared_size(i64 rows) const = 0;

  // Writes what the products take of one of these rows, `in` numbers, to its place among them.
  virtual void prepare(const float* x, i64 row, i64 rows, std::uint8_t* prepared) const = 0;

  // The products of rows that are prepared, plus the bias, plus `added` (rows, out) where it has any. No row
  // depends on another, nor on how many there are.
  virtual void multiply(const std::uint8_t* prepared, i64 rows, const RowsIn& added,
                        const RowsOut& result) const = 0;

 private:
  i64 out_;
  i64 in_;
};

}  // namespace native_text
