// Attention of single tokens over the keys and values that a rank keeps for each slot.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace native_text {

using i64 = std::int64_t;

// Keys and values of one call of attention: (slots, groups, context, size) each, one token behind the other.
struct Room {
  float* keys = nullptr;
  float* values = nullptr;
  i64 groups = 0;
  i64 context = 0;
  i64 key_size = 0;
  i64 value_size = 0;
};

// One row of a message: its token's position in the slot. A row that is not whole is neither written nor
// read.
struct Row {
  i64 slot = 0;
  i64 position = 0;
  bool whole = true;
};

// (rows, heads, size), the numbers of a head behind each other.
struct Heads {
  const float* data = nullptr;
  i64 row_stride = 0;
  i64 head_stride = 0;
};

// A rotary position embedding: x becomes x * cos + (-its second half, its first half) * sin. (rows, size)
// each.
struct Rotation {
  const float* cos = nullptr;  // null: there is none
  i64 cos_stride = 0;
  const float* sin = nullptr;
  i64 sin_stride = 0;
};

struct Query {
  Heads q, k, v;
  float* result = nullptr;  // (rows, heads, value size), contiguous
  i64 heads = 0;            // a multiple of the room's groups
  float scale = 1.0F;
  i64 window = 0;        // how many tokens back a token sees, itself included; 0: all
  float softcap = 0.0F;  // scores become softcap * tanh(scores / softcap); 0: they do not
  const float* sinks =
      nullptr;        // (heads,): for each head a score of nothing that is seen; null: there are none
  Rotation rotation;  // of queries and keys
};

// Writes each row's key and value, then attends to what its slot holds up to there.
// Each row's result depends on nothing but its own slot. `scratch` grows as needed and may be kept between
// calls.
void attend(const Room& room, std::span<const Row> rows, const Query& query, std::vector<float>& scratch);

}  // namespace native_text
