#include "native_attention/attend.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

// One binary for processors with and without wide vectors: the loader takes the version that fits.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

namespace native_attention {
namespace {

// e to the power of x for x up to 0, within 2 units in the last place: 2**n times a polynomial of the rest
// (Cephes' coefficients), without branches, so that compilers make vectors of it. Below -87 it is 0.
inline float exponential(float x) {
  const float bounded = std::max(x, -87.0F);
  const float whole = std::nearbyint(bounded * 1.44269504F);
  const float rest = (bounded - whole * 0.693359375F) + whole * 2.12194440e-4F;
  float sum = 1.9875691500e-4F;
  sum = sum * rest + 1.3981999507e-3F;
  sum = sum * rest + 8.3334519073e-3F;
  sum = sum * rest + 4.1665795894e-2F;
  sum = sum * rest + 1.6666665459e-1F;
  sum = sum * rest + 5.0000001201e-1F;
  const float power = sum * rest * rest + rest + 1.0F;
  const auto bits = static_cast<std::int32_t>(whole + 127.0F) << 23;
  float scale = 0.0F;
  std::memcpy(&scale, &bits, sizeof scale);
  return x < -87.0F ? 0.0F : power * scale;
}

// For each of the heads that share keys: its product with the key of each token, scaled. (heads, tokens)
FOR_EACH_PROCESSOR void score(const float* q, i64 stride, i64 heads, const float* keys, i64 tokens, i64 size,
                              float scale, float* scores) {
  for (i64 token = 0; token < tokens; ++token) {
    const float* key = keys + token * size;
    for (i64 head = 0; head < heads; ++head) {
      const float* query = q + head * stride;
      float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
      for (i64 i = 0; i < size; ++i) sum += query[i] * key[i];
      scores[head * tokens + token] = sum * scale;
    }
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

// The values of all tokens, each times its share: (heads, size).
FOR_EACH_PROCESSOR void mix(const float* shares, i64 heads, const float* values, i64 tokens, i64 size,
                            float* result) {
  std::fill_n(result, heads * size, 0.0F);
  for (i64 token = 0; token < tokens; ++token) {
    const float* value = values + token * size;
    for (i64 head = 0; head < heads; ++head) {
      const float share = shares[head * tokens + token];
      float* sum = result + head * size;
#pragma omp simd
      for (i64 i = 0; i < size; ++i) sum[i] += share * value[i];
    }
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
    if (scratch.size() < static_cast<std::size_t>(each * tokens)) {
      scratch.resize(static_cast<std::size_t>(each * room.context));
    }
    for (i64 group = 0; group < room.groups; ++group) {
      const i64 first = (row.slot * room.groups + group) * room.context;
      float* keys = room.keys + first * room.key_size;
      float* values = room.values + first * room.value_size;
      std::copy_n(query.k.data + number * query.k.row_stride + group * query.k.head_stride, room.key_size,
                  keys + row.position * room.key_size);
      std::copy_n(query.v.data + number * query.v.row_stride + group * query.v.head_stride, room.value_size,
                  values + row.position * room.value_size);
      score(query.q.data + number * query.q.row_stride + group * each * query.q.head_stride,
            query.q.head_stride, each, keys + begin * room.key_size, tokens, room.key_size, query.scale,
            scratch.data());
      for (i64 head = 0; head < each; ++head) {
        share_out(query, group * each + head, scratch.data() + head * tokens, tokens);
      }
      mix(scratch.data(), each, values + begin * room.value_size, tokens, room.value_size,
          result + group * each * room.value_size);
    }
  }
}

}  // namespace native_attention
