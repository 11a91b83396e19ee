// Any chunks of any sequences, in any slots, attend as a computation in doubles does that rounds the same
// things, touch no other slot, and do not depend on what they came with.
#include "native_text/attend_bf16.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "../src/attend_bf16_kernels.hpp"
#include "check.hpp"
#include "random.hpp"

using namespace native_text;  // NOLINT(google-build-using-namespace): every name here is of what is
                              // tested

namespace {

struct Shape {
  i64 groups, each, key_size, value_size, window;
  float softcap;
  bool sinks;
  bool rotated = false;
};

constexpr std::uint16_t kUntouched = 0x4646;
constexpr float kScale = 0.3F;
constexpr double kScoreError = 3e-5;  // of the largest products that the shapes below have, in float32

float widened(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16U;
  float value = 0.0F;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The nearest number of 8 significant bits, ties to even, of one that is neither tiny nor infinite.
double rounded(double x) {
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
}

// Tokens that one slot has had, so that others can be asked for the same.
struct Message {
  std::vector<Chunk> rows;
  i64 tokens;
};

class Check {
 public:
  Check(const Shape& shape, i64 slots, i64 context, unsigned seed)
      : shape_(shape), slots_(slots), context_(context), engine_(seed) {
    heads_ = shape.groups * shape.each;
    sinks_ = numbers(heads_, engine_);
    const i64 tokens = slots * context;
    q_ = numbers(tokens * heads_ * shape.key_size, engine_);
    k_ = numbers(tokens * shape.groups * shape.key_size, engine_);
    v_ = numbers(tokens * shape.groups * shape.value_size, engine_);
    angles_ = numbers(tokens * 2 * shape.key_size, engine_);
    for (float& angle : angles_) angle = std::clamp(angle, -1.0F, 1.0F);
  }

  // All tokens of all slots: (slots, context, heads, value size), in chunks of these sizes, drawn anew each
  // time.
  std::vector<float> results(const std::vector<i64>& sizes, Kernel kernel, std::size_t threads) {
    scratches_.resize(threads);
    keys_.assign(static_cast<std::size_t>(slots_ * shape_.groups * context_ * shape_.key_size), kUntouched);
    values_.assign(static_cast<std::size_t>(slots_ * shape_.groups * context_ * shape_.value_size),
                   kUntouched);
    std::vector<float> found(static_cast<std::size_t>(slots_ * context_ * heads_ * shape_.value_size));
    std::vector<i64> filled(static_cast<std::size_t>(slots_), 0);
    while (*std::min_element(filled.begin(), filled.end()) < context_) {
      Message message{{}, 0};
      for (i64 slot = slots_ - 1; slot >= 0; --slot) {
        i64& begun = filled[static_cast<std::size_t>(slot)];
        if (begun == context_ || engine_() % 4 == 0) continue;
        const i64 size = std::min(sizes[engine_() % sizes.size()], context_ - begun);
        const bool whole = engine_() % 5 != 0;
        message.rows.push_back({slot, begun, size, whole});
        message.tokens = std::max(message.tokens, size);
        if (whole) begun += size;
      }
      send(message, kernel, found);
    }
    return found;
  }

  void check(const std::vector<float>& found) const {
    for (i64 slot = 0; slot < slots_; ++slot) {
      for (i64 group = 0; group < shape_.groups; ++group) check_kept(slot, group);
      for (i64 token = 0; token < context_; ++token) {
        for (i64 head = 0; head < heads_; ++head) {
          check_head(slot, token, head,
                     found.data() + ((slot * context_ + token) * heads_ + head) * shape_.value_size);
        }
      }
    }
  }

 private:
  const float* q_of(i64 slot, i64 token, i64 head) const {
    return q_.data() + ((slot * context_ + token) * heads_ + head) * shape_.key_size;
  }

  // As a model hands them over: (rows, heads, tokens, size), cut from something wider.
  std::vector<float> gathered(const Message& message, const std::vector<float>& of, i64 heads,
                              i64 size) const {
    std::vector<float> found;
    for (const Chunk& row : message.rows) {
      for (i64 token = 0; token < message.tokens; ++token) {
        const i64 place = row.slot * context_ + std::min(row.start + token, context_ - 1);
        const float* from = of.data() + place * heads * size;
        found.insert(found.end(), from, from + heads * size);
        found.push_back(std::numeric_limits<float>::quiet_NaN());
      }
    }
    return found;
  }

  void send(const Message& message, Kernel kernel, std::vector<float>& found) {
    const i64 token_size = heads_ * shape_.value_size;
    const std::vector<float> q = gathered(message, q_, heads_, shape_.key_size);
    const std::vector<float> k = gathered(message, k_, shape_.groups, shape_.key_size);
    const std::vector<float> v = gathered(message, v_, shape_.groups, shape_.value_size);
    const std::vector<float> angles = gathered(message, angles_, 1, 2 * shape_.key_size);
    const auto count = static_cast<i64>(message.rows.size());
    std::vector<float> result(static_cast<std::size_t>(count * message.tokens * token_size), 7.0F);
    const auto heads = [&](const std::vector<float>& from, i64 num, i64 size) {
      return TokenHeads{from.data(), message.tokens * (num * size + 1), size, num * size + 1};
    };
    ChunkQuery query;
    query.q = heads(q, heads_, shape_.key_size);
    query.k = heads(k, shape_.groups, shape_.key_size);
    query.v = heads(v, shape_.groups, shape_.value_size);
    query.result = result.data();
    query.tokens = message.tokens;
    query.heads = heads_;
    query.scale = kScale;
    query.window = shape_.window;
    query.softcap = shape_.softcap;
    query.sinks = shape_.sinks ? sinks_.data() : nullptr;
    const i64 angle_stride = 2 * shape_.key_size + 1;
    if (shape_.rotated) {
      query.cos = {angles.data(), message.tokens * angle_stride, angle_stride};
      query.sin = {angles.data() + shape_.key_size, message.tokens * angle_stride, angle_stride};
    }
    const std::vector<std::uint16_t> before = keys_;
    attend({keys_.data(), values_.data(), shape_.groups, context_, shape_.key_size, shape_.value_size},
           message.rows, query, scratches_, kernel);
    check_untouched(message, before);
    for (std::size_t index = 0; index < message.rows.size(); ++index) {
      const Chunk& row = message.rows[index];
      const float* from = result.data() + static_cast<i64>(index) * message.tokens * token_size;
      const i64 there = row.whole ? row.count : 0;
      CHECK(std::all_of(from + there * token_size, from + message.tokens * token_size,
                        [](float x) { return x == 0.0F; }));
      std::copy_n(from, there * token_size, found.data() + (row.slot * context_ + row.start) * token_size);
    }
  }

  void check_untouched(const Message& message, const std::vector<std::uint16_t>& before) const {
    std::vector<bool> written(static_cast<std::size_t>(slots_ * context_), false);
    for (const Chunk& row : message.rows) {
      for (i64 token = 0; row.whole && token < row.count; ++token) {
        written[static_cast<std::size_t>(row.slot * context_ + row.start + token)] = true;
      }
    }
    for (std::size_t i = 0; i < before.size(); ++i) {
      const i64 token = static_cast<i64>(i) / shape_.key_size;
      const i64 slot = token / (shape_.groups * context_);
      CHECK(written[static_cast<std::size_t>(slot * context_ + token % context_)] || keys_[i] == before[i]);
    }
  }

  std::vector<float> turned(const float* x, i64 slot, i64 token) const {
    std::vector<float> found(x, x + shape_.key_size);
    const float* cos = angles_.data() + (slot * context_ + token) * 2 * shape_.key_size;
    if (shape_.rotated) rotate(x, cos, cos + shape_.key_size, shape_.key_size, found.data());
    return found;
  }

  i64 kept(i64 slot, i64 group, i64 token) const { return (slot * shape_.groups + group) * context_ + token; }

  void check_kept(i64 slot, i64 group) const {
    for (i64 token = 0; token < context_; ++token) {
      const i64 given = (slot * context_ + token) * shape_.groups + group;
      const std::vector<float> key = turned(k_.data() + given * shape_.key_size, slot, token);
      for (i64 i = 0; i < shape_.key_size; ++i) {
        const auto place = static_cast<std::size_t>(kept(slot, group, token) * shape_.key_size + i);
        CHECK(static_cast<double>(widened(keys_[place])) ==
              rounded(static_cast<double>(key[static_cast<std::size_t>(i)])));
      }
      for (i64 i = 0; i < shape_.value_size; ++i) {
        const auto place = static_cast<std::size_t>(kept(slot, group, token) * shape_.value_size + i);
        const float value = v_[static_cast<std::size_t>(given * shape_.value_size + i)];
        CHECK(static_cast<double>(widened(values_[place])) == rounded(static_cast<double>(value)));
      }
    }
  }

  double score(const std::vector<float>& q, i64 place) const {
    double sum = 0.0;
    for (i64 i = 0; i < shape_.key_size; ++i) {
      const float query = q[static_cast<std::size_t>(i)] * kScale;
      const float key = widened(keys_[static_cast<std::size_t>(place * shape_.key_size + i)]);
      sum += rounded(static_cast<double>(query)) * static_cast<double>(key);
    }
    const auto most = static_cast<double>(shape_.softcap);
    return most != 0.0 ? std::tanh(sum / most) * most : sum;
  }

  // A score in float32 may be on the other side of where its share is rounded: the result may differ by that.
  void check_head(i64 slot, i64 token, i64 head, const float* found) const {
    const std::vector<float> q = turned(q_of(slot, token, head), slot, token);
    const i64 begin = shape_.window > 0 ? std::max<i64>(0, token + 1 - shape_.window) : 0;
    const i64 first = kept(slot, head / shape_.each, 0);
    std::vector<double> scores;
    for (i64 seen = begin; seen <= token; ++seen) scores.push_back(score(q, first + seen));
    double most = *std::max_element(scores.begin(), scores.end());
    const auto sink = static_cast<double>(sinks_[static_cast<std::size_t>(head)]);
    if (shape_.sinks) most = std::max(most, sink);
    double sum = shape_.sinks ? std::exp(sink - most) : 0.0;
    double doubt = 0.0;
    std::vector<double> mixed(static_cast<std::size_t>(shape_.value_size), 0.0);
    for (i64 seen = begin; seen <= token; ++seen) {
      const double ahead = scores[static_cast<std::size_t>(seen - begin)] - most;
      const double share = rounded(std::exp(ahead));
      doubt += rounded(std::exp(ahead + kScoreError)) - rounded(std::exp(ahead - kScoreError));
      sum += share;
      for (i64 i = 0; i < shape_.value_size; ++i) {
        const auto place = static_cast<std::size_t>((first + seen) * shape_.value_size + i);
        mixed[static_cast<std::size_t>(i)] += share * static_cast<double>(widened(values_[place]));
      }
    }
    for (i64 i = 0; i < shape_.value_size; ++i) {
      const double want = mixed[static_cast<std::size_t>(i)] / sum;
      CHECK(std::abs(static_cast<double>(found[i]) - want) < 3e-5 + 8.0 * doubt / sum);
    }
  }

  Shape shape_;
  i64 slots_, context_, heads_;
  std::mt19937 engine_;
  std::vector<float> sinks_, q_, k_, v_, angles_;
  std::vector<std::vector<float>> scratches_;
  std::vector<std::uint16_t> keys_, values_;
};

bool same(const std::vector<float>& one, const std::vector<float>& other) {
  return std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
}

void check_shape(const Shape& shape, i64 slots, i64 context, unsigned seed) {
  Check check(shape, slots, context, seed);
  const std::vector<i64> alone{1};
  const std::vector<i64> any{1, 2, 3, 5, 16, 17, 31, 64, 100};
  for (const Kernel kernel : {Kernel::fastest, Kernel::portable}) {
    const std::vector<float> singles = check.results(alone, kernel, 1);
    check.check(singles);
    const std::vector<float> chunks = check.results(any, kernel, 1);
    check.check(chunks);
    const std::vector<float> shared = check.results(any, kernel, 3);
    check.check(shared);
    if (kernel == Kernel::fastest && wide_half_kernels() != nullptr) {
      CHECK(same(singles, chunks));
      CHECK(same(singles, shared));
    }
  }
}

// What is not a number stays so, and does so in its own token alone; large scores do not overflow; what a
// slot held before is not seen.
void check_extremes(Kernel kernel, i64 tokens) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr std::uint16_t kNan = 0x7FC0;
  std::vector<std::uint16_t> keys(2 * 20, kNan);
  std::vector<std::uint16_t> values(2 * 20, kNan);
  std::vector<std::vector<float>> scratch(1);
  std::vector<float> q(static_cast<std::size_t>(2 * tokens), 3e18F);
  q[0] = nan;
  const std::vector<float> kv(static_cast<std::size_t>(2 * tokens), 1.0F);
  std::vector<float> result(q.size());
  ChunkQuery query;
  query.q = {q.data(), tokens, 0, 1};
  query.k = query.v = {kv.data(), tokens, 0, 1};
  query.result = result.data();
  query.tokens = tokens;
  query.heads = 1;
  const std::vector<Chunk> rows{{0, 0, tokens, true}, {1, 0, tokens, true}};
  attend({keys.data(), values.data(), 1, 20, 1, 1}, rows, query, scratch, kernel);
  CHECK(std::isnan(result[0]));
  CHECK(std::all_of(result.begin() + 1, result.end(), [](float x) { return x == 1.0F; }));
}

}  // namespace

int main() {
  const std::vector<Shape> shapes{{1, 1, 1, 1, 0, 0.0F, false},        {3, 3, 64, 64, 0, 0.0F, false, true},
                                  {2, 4, 16, 24, 7, 0.0F, false},      {2, 1, 80, 80, 0, 5.0F, false},
                                  {1, 5, 7, 3, 1, 0.0F, true},         {1, 2, 128, 128, 16, 30.0F, true},
                                  {1, 2, 10, 6, 5, 0.0F, true, true},  {1, 8, 33, 100, 40, 0.0F, true},
                                  {2, 7, 12, 20, 0, 9.0F, false, true}};
  unsigned seed = 0;
  for (const Shape& shape : shapes) {
    check_shape(shape, 3, 17, ++seed);
    check_shape(shape, 3, 1, ++seed);
    check_shape(shape, 2, 70, ++seed);
  }
  check_shape({1, 1, 32, 24, 0, 0.0F, false, true}, 1, 513, ++seed);
  check_shape({1, 2, 24, 40, 100, 0.0F, false}, 1, 513, ++seed);
  for (const Kernel kernel : {Kernel::fastest, Kernel::portable}) {
    for (const i64 tokens : {1, 2, 7, 20}) check_extremes(kernel, tokens);
  }
  return 0;
}
