#include "native_text/attend.hpp"

#include <limits>

#include "native_text/rows.hpp"
#include "simd.hpp"

namespace native_text {
namespace {

constexpr i64 kTogether = 64;  // tokens, whose keys fit into the smallest cache

// The products of one head's query with the key of each token, scaled. Where the compiler knows the size, the
// query stays in registers.
ALWAYS_INLINE void score_head(const float* query, const float* keys, i64 tokens, i64 size, float scale,
                              float* scores) {
  for (i64 token = 0; token < tokens; ++token) {
    const float* key = keys + token * size;
    float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
    for (i64 i = 0; i < size; ++i) sum += query[i] * key[i];
    scores[token] = sum * scale;
  }
}

FOR_EACH_PROCESSOR void score(const float* query, const float* keys, i64 tokens, i64 size, float scale,
                              float* scores) {
  switch (size) {
    case 64:
      return score_head(query, keys, tokens, 64, scale, scores);
    case 128:
      return score_head(query, keys, tokens, 128, scale, scores);
    default:
      return score_head(query, keys, tokens, size, scale, scores);
  }
}

// Turns scores into weights, and returns their sum. NaN stays NaN.
FOR_EACH_PROCESSOR float weigh(float* scores, i64 tokens, float most) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (i64 token = 0; token < tokens; ++token) {
    const float share = exponential(scores[token] - most);
    scores[token] = share;
    sum += share;
  }
  return sum;
}

FOR_EACH_PROCESSOR float largest(const float* scores, i64 tokens) {
  float most = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : most)
  for (i64 token = 0; token < tokens; ++token) most = std::max(most, scores[token]);
  return most;
}

// Adds 64 values of each token, each times the token's share, in registers. The tokens lie `stride` apart.
ALWAYS_INLINE void mix_64(const float* shares, const float* values, i64 tokens, i64 stride, float* result) {
  float sum[64];
  std::copy_n(result, 64, sum);
  for (i64 token = 0; token < tokens; ++token) {
    const float share = shares[token];
    const float* value = values + token * stride;
#pragma omp simd
    for (i64 i = 0; i < 64; ++i) sum[i] += share * value[i];
  }
  std::copy_n(sum, 64, result);
}

// Adds the values of all tokens, each times its share, for one head: (size,).
FOR_EACH_PROCESSOR void mix(const float* shares, const float* values, i64 tokens, i64 size, float* result) {
  i64 first = 0;
  for (; first + 64 <= size; first += 64) mix_64(shares, values + first, tokens, size, result + first);
  const i64 left = size - first;
  if (left == 0) return;
  for (i64 token = 0; token < tokens; ++token) {
    const float share = shares[token];
    const float* value = values + token * size + first;
#pragma omp simd
    for (i64 i = 0; i < left; ++i) result[first + i] += share * value[i];
  }
}

// Turns the scores of one head into shares.
void share_out(const Query& query, i64 head, float* scores, i64 tokens) {
  if (query.softcap != 0.0F) {
    for (i64 token = 0; token < tokens; ++token) {
      scores[token] = std::tanh(scores[token] / query.softcap) * query.softcap;
    }
  }
  float most = largest(scores, tokens);
  if (query.sinks != nullptr) most = std::max(most, query.sinks[head]);
  float sum = weigh(scores, tokens, most);
  if (query.sinks != nullptr) sum += exponential(query.sinks[head] - most);
  const float over = 1.0F / sum;
  for (i64 token = 0; token < tokens; ++token) scores[token] *= over;
}

// What the heads that share keys attend to. They take turns at a few tokens, which stay near meanwhile: a
// long sequence is read once and not for each head.
void attend_group(const Query& query, const Heads& q, i64 first, i64 each, const float* keys, i64 key_size,
                  const float* values, i64 value_size, i64 tokens, float* scores, float* result) {
  for (i64 token = 0; token < tokens; token += kTogether) {
    for (i64 head = 0; head < each; ++head) {
      score(q.data + (first + head) * q.head_stride, keys + token * key_size,
            std::min(kTogether, tokens - token), key_size, query.scale, scores + head * tokens + token);
    }
  }
  for (i64 head = 0; head < each; ++head) share_out(query, first + head, scores + head * tokens, tokens);
  std::fill_n(result, each * value_size, 0.0F);
  for (i64 token = 0; token < tokens; token += kTogether) {
    for (i64 head = 0; head < each; ++head) {
      mix(scores + head * tokens + token, values + token * value_size, std::min(kTogether, tokens - token),
          value_size, result + head * value_size);
    }
  }
}

// Turns queries in `room`, where there is a rotation; gives where they are then, and how far apart.
Heads turned(const Query& query, i64 row, i64 size, float* room) {
  const Rotation& rotation = query.rotation;
  const float* given = query.q.data + row * query.q.row_stride;
  if (rotation.cos == nullptr) return {given, 0, query.q.head_stride};
  for (i64 head = 0; head < query.heads; ++head) {
    rotate(given + head * query.q.head_stride, rotation.cos + row * rotation.cos_stride,
           rotation.sin + row * rotation.sin_stride, size, room + head * size);
  }
  return {room, 0, size};
}

void write_key(const Query& query, i64 row, const float* key, i64 size, float* place) {
  const Rotation& rotation = query.rotation;
  if (rotation.cos == nullptr) {
    std::copy_n(key, size, place);
    return;
  }
  rotate(key, rotation.cos + row * rotation.cos_stride, rotation.sin + row * rotation.sin_stride, size,
         place);
}

}  // namespace

void attend(const Room& room, std::span<const Row> rows, const Query& query, std::vector<float>& scratch) {
  const i64 each = query.heads / room.groups;
  for (std::size_t index = 0; index < rows.size(); ++index) {
    const Row& row = rows[index];
    const auto number = static_cast<i64>(index);
    float* result = query.result + number * query.heads * room.value_size;
    if (!row.whole) {
      std::fill_n(result, query.heads * room.value_size, 0.0F);
      continue;
    }
    const i64 end = row.position + 1;
    const i64 begin = query.window > 0 ? std::max<i64>(0, end - query.window) : 0;
    const i64 tokens = end - begin;
    const i64 queries = query.heads * room.key_size;
    if (scratch.size() < static_cast<std::size_t>(queries + each * tokens)) {
      scratch.resize(static_cast<std::size_t>(queries + each * room.context));
    }
    const Heads q = turned(query, number, room.key_size, scratch.data());
    float* scores = scratch.data() + queries;
    for (i64 group = 0; group < room.groups; ++group) {
      const i64 first = (row.slot * room.groups + group) * room.context;
      float* keys = room.keys + first * room.key_size;
      float* values = room.values + first * room.value_size;
      write_key(query, number, query.k.data + number * query.k.row_stride + group * query.k.head_stride,
                room.key_size, keys + row.position * room.key_size);
      std::copy_n(query.v.data + number * query.v.row_stride + group * query.v.head_stride, room.value_size,
                  values + row.position * room.value_size);
      attend_group(query, q, group * each, each, keys + begin * room.key_size, room.key_size,
                   values + begin * room.value_size, room.value_size, tokens, scores,
                   result + group * each * room.value_size);
    }
  }
}

}  // namespace native_text
