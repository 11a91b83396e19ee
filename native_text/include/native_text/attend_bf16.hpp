// Attention of consecutive tokens over keys and values that are kept in bf16.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "native_text/rows.hpp"

namespace native_text {

// As Room, in bf16.
struct HalfRoom {
  std::uint16_t* keys = nullptr;
  std::uint16_t* values = nullptr;
  i64 groups = 0;
  i64 context = 0;
  i64 key_size = 0;
  i64 value_size = 0;
};

// One row of a message: `count` tokens from a position of the slot on. A row that is not whole is neither
// written nor read.
struct Chunk {
  i64 slot = 0;
  i64 start = 0;
  i64 count = 0;
  bool whole = true;
};

// (rows, heads, tokens, size), the numbers of a head behind each other.
struct TokenHeads {
  const float* data = nullptr;
  i64 row_stride = 0, head_stride = 0, token_stride = 0;
};

struct ChunkQuery {
  TokenHeads q, k, v;
  float* result = nullptr;  // (rows, tokens, heads, value size), contiguous
  i64 tokens = 0;           // of the longest row; what stands behind a row's last token becomes 0
  i64 heads = 0;            // a multiple of the room's groups
  float scale = 1.0F;
  i64 window = 0;                // as Query has these
  float softcap = 0.0F;          // with tanh by `exponential`
  const float* sinks = nullptr;  // (heads,)
  Angles cos, sin;               // of queries and keys; null: they are not rotated
};

// Writes each row's keys and values, rounded to the nearest that bf16 has, then attends to what its slot
// holds up to each token. Queries are rotated, scaled, then rounded to bf16. A token's shares are e to the
// power of its scores less their largest, rounded to bf16 before they are summed up; all sums are of float32.
// A token's result depends on nothing but what its slot holds up to it, and by AVX-512 to the last bit: so
// one that came with others is as one that came alone. One thread for each scratch at most; these grow as
// needed and may be kept between calls.
void attend(const HalfRoom& room, std::span<const Chunk> rows, const ChunkQuery& query,
            std::span<std::vector<float>> scratches, Kernel kernel = Kernel::fastest);

}  // namespace native_text
