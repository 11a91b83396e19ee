// Any sequence of tokens, in any slots, attends as a plain computation in doubles does, and touches no other
// slot.
#include "native_text/attend.hpp"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "random.hpp"

using namespace native_text;  // NOLINT(google-build-using-namespace): every name here is of what is
                              // tested

namespace {

constexpr i64 kSlots = 4;
constexpr i64 kContext = 37;

struct Shape {
  i64 groups, each, key_size, value_size, window;
  float softcap;
  bool sinks;
  bool rotated = false;
};

class Check {
 public:
  Check(const Shape& shape, unsigned seed) : shape_(shape), engine_(seed) {
    const auto tokens = static_cast<std::size_t>(kSlots * shape.groups * kContext);
    keys_.assign(tokens * static_cast<std::size_t>(shape.key_size), kUntouched);
    values_.assign(tokens * static_cast<std::size_t>(shape.value_size), kUntouched);
    filled_.assign(kSlots, 0);
    const i64 heads = shape.groups * shape.each;
    sinks_ = numbers(heads, engine_);
  }

  // One message: each slot in turn may have a row, whole or not.
  void send() {
    std::vector<Row> rows;
    for (i64 slot = 0; slot < kSlots; ++slot) {
      const i64 filled = filled_[static_cast<std::size_t>(slot)];
      if (filled < kContext && engine_() % 3 != 0) rows.push_back({slot, filled, engine_() % 5 != 0});
    }
    const auto count = static_cast<i64>(rows.size());
    const i64 heads = shape_.groups * shape_.each;
    // q lies with its heads behind each other, k and v within rows of something wider, as parts of a joined
    // product do
    const std::vector<float> q = numbers(count * heads * shape_.key_size, engine_);
    const i64 wide = shape_.groups * (shape_.key_size + shape_.value_size) + 3;
    const std::vector<float> joined = numbers(count * wide, engine_);
    std::vector<float> result(static_cast<std::size_t>(count * heads * shape_.value_size), kUntouched);
    Query query;
    query.q = {q.data(), heads * shape_.key_size, shape_.key_size};
    query.k = {joined.data(), wide, shape_.key_size};
    query.v = {joined.data() + shape_.groups * shape_.key_size, wide, shape_.value_size};
    query.result = result.data();
    query.heads = heads;
    query.scale = 0.3F;
    query.window = shape_.window;
    query.softcap = shape_.softcap;
    query.sinks = shape_.sinks ? sinks_.data() : nullptr;
    const std::vector<float> angles = numbers(count * 2 * shape_.key_size, engine_);
    const Rotation rotation{angles.data(), 2 * shape_.key_size, angles.data() + shape_.key_size,
                            2 * shape_.key_size};
    if (shape_.rotated) query.rotation = rotation;
    const Room room{keys_.data(), values_.data(),  shape_.groups,
                    kContext,     shape_.key_size, shape_.value_size};
    attend(room, rows, query, scratch_);
    for (i64 index = 0; index < count; ++index) {
      const Row& row = rows[static_cast<std::size_t>(index)];
      if (row.whole) ++filled_[static_cast<std::size_t>(row.slot)];
      for (i64 head = 0; head < heads; ++head) {
        std::vector<float> turned(static_cast<std::size_t>(shape_.key_size));
        const float* given = q.data() + (index * heads + head) * shape_.key_size;
        for (i64 i = 0; i < shape_.key_size; ++i)
          turned[static_cast<std::size_t>(i)] = rotated(query, given, index, i);
        if (row.whole && head % shape_.each == 0) check_key(query, row, head / shape_.each, index);
        check_head(row, head, turned.data(), result.data() + (index * heads + head) * shape_.value_size);
      }
    }
    check_untouched();
  }

 private:
  static constexpr float kUntouched = 12345.0F;

  // x * cos + (-its second half, its first half) * sin
  float rotated(const Query& query, const float* x, i64 row, i64 i) const {
    if (query.rotation.cos == nullptr) return x[i];
    const i64 half = shape_.key_size / 2;
    const float other = i < half ? -x[i + half] : x[i - half];
    return x[i] * query.rotation.cos[row * query.rotation.cos_stride + i] +
           other * query.rotation.sin[row * query.rotation.sin_stride + i];
  }

  void check_key(const Query& query, const Row& row, i64 group, i64 index) const {
    const float* given = query.k.data + index * query.k.row_stride + group * query.k.head_stride;
    const i64 place = ((row.slot * shape_.groups + group) * kContext + row.position) * shape_.key_size;
    for (i64 i = 0; i < shape_.key_size; ++i) {
      CHECK(std::abs(keys_[static_cast<std::size_t>(place + i)] - rotated(query, given, index, i)) < 1e-5F);
    }
  }

  void check_head(const Row& row, i64 head, const float* q, const float* found) const {
    const i64 place = (row.slot * shape_.groups + head / shape_.each) * kContext;
    const i64 end = row.position + 1;
    const i64 begin = shape_.window > 0 && end > shape_.window ? end - shape_.window : 0;
    double sum = shape_.sinks ? std::exp(static_cast<double>(sinks_[static_cast<std::size_t>(head)])) : 0.0;
    std::vector<double> wanted(static_cast<std::size_t>(shape_.value_size), 0.0);
    for (i64 token = begin; token < end && row.whole; ++token) {
      double score = 0.0;
      for (i64 i = 0; i < shape_.key_size; ++i) {
        score += static_cast<double>(q[i]) *
                 static_cast<double>(keys_[static_cast<std::size_t>((place + token) * shape_.key_size + i)]);
      }
      score *= static_cast<double>(0.3F);
      if (shape_.softcap != 0.0F) {
        const auto cap = static_cast<double>(shape_.softcap);
        score = std::tanh(score / cap) * cap;
      }
      const double share = std::exp(score);
      sum += share;
      for (i64 i = 0; i < shape_.value_size; ++i) {
        wanted[static_cast<std::size_t>(i)] +=
            share *
            static_cast<double>(values_[static_cast<std::size_t>((place + token) * shape_.value_size + i)]);
      }
    }
    for (i64 i = 0; i < shape_.value_size; ++i) {
      const double want = row.whole ? wanted[static_cast<std::size_t>(i)] / sum : 0.0;
      CHECK(std::abs(static_cast<double>(found[i]) - want) < 1e-5);
    }
  }

  void check_untouched() const {
    for (i64 slot = 0; slot < kSlots; ++slot) {
      for (i64 group = 0; group < shape_.groups; ++group) {
        for (i64 token = filled_[static_cast<std::size_t>(slot)]; token < kContext; ++token) {
          const auto place =
              static_cast<std::size_t>(((slot * shape_.groups + group) * kContext + token) * shape_.key_size);
          CHECK(keys_[place] == kUntouched);
        }
      }
    }
  }

  Shape shape_;
  std::mt19937 engine_;
  std::vector<float> keys_, values_, sinks_, scratch_;
  std::vector<i64> filled_;
};

// What is not a number stays so, and does so in its own row alone; large scores do not overflow.
void check_extremes() {
  std::vector<float> keys(2 * 4, 0.0F);
  std::vector<float> values(2 * 4, 0.0F);
  std::vector<float> scratch;
  const std::vector<float> q{std::numeric_limits<float>::quiet_NaN(), 3e18F};
  const std::vector<float> kv{1.0F, 1.0F};
  std::vector<float> result(2);
  Query query;
  query.q = {q.data(), 1, 1};
  query.k = {kv.data(), 1, 1};
  query.v = {kv.data(), 1, 1};
  query.result = result.data();
  query.heads = 1;
  const std::vector<Row> rows{{0, 0, true}, {1, 0, true}};
  attend({keys.data(), values.data(), 1, 4, 1, 1}, rows, query, scratch);
  CHECK(std::isnan(result[0]));
  CHECK(result[1] == 1.0F);
}

}  // namespace

int main() {
  const std::vector<Shape> shapes{{1, 1, 1, 1, 0, 0.0F, false},         {3, 3, 64, 64, 0, 0.0F, false},
                                  {2, 4, 16, 24, 7, 0.0F, false},       {2, 1, 80, 80, 0, 5.0F, false},
                                  {1, 5, 7, 3, 1, 0.0F, true},          {2, 2, 128, 128, 16, 30.0F, true},
                                  {3, 3, 64, 64, 0, 0.0F, false, true}, {1, 2, 10, 6, 5, 0.0F, true, true}};
  unsigned seed = 0;
  for (const Shape& shape : shapes) {
    Check check(shape, ++seed);
    for (int message = 0; message < 60; ++message) check.send();
  }
  check_extremes();
  return 0;
}
