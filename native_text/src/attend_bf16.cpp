#include "native_text/attend_bf16.hpp"

#include <atomic>
#include <limits>
#include <thread>

#include "attend_bf16_kernels.hpp"
#include "simd.hpp"

namespace native_text {
namespace {

constexpr i64 kLine = 16;                 // floats of a line of the cache
constexpr i64 kLeastTokens = 16;          // of a part: keys are packed for each
constexpr i64 kThreadProducts = 4000000;  // that take longer than a thread does to start

constexpr i64 whole_lines(i64 floats) { return (floats + kLine - 1) / kLine * kLine; }

FOR_EACH_PROCESSOR void write_half(const float* x, i64 size, std::uint16_t* place) {
#pragma omp simd
  for (i64 i = 0; i < size; ++i) place[i] = static_cast<std::uint16_t>(bf16_bits(x[i]) >> 16U);
}

FOR_EACH_PROCESSOR void cap(float* scores, i64 tokens, float most) {
#pragma omp simd
  for (i64 token = 0; token < tokens; ++token) {
    const float small = exponential(-2.0F * std::abs(scores[token] / most));
    scores[token] = std::copysign((1.0F - small) / (1.0F + small), scores[token]) * most;
  }
}

// Where things lie in the scratch, in floats, for the largest row of a message.
struct Places {
  i64 turned, queries, keys, values, scores, shares, sums, few, size;
};

// One row of a message and one group of heads that share keys: `each` queries a token, a token's behind each
// other.
class Group {
 public:
  Group(const HalfRoom& room, const ChunkQuery& query, const HalfKernels& kernels, const Places& places,
        float* scratch)
      : room_(room),
        query_(query),
        kernels_(kernels),
        places_(places),
        scratch_(scratch),
        each_(query.heads / room.groups),
        key_words_((room.key_size + kernels.numbers - 1) / kernels.numbers),
        value_panels_(panels_of(room.value_size)) {}

  void write(const Chunk& row, i64 number, i64 group) {
    take(row, number, group);
    for (i64 token = 0; token < row.count; ++token) {
      const i64 place = row.start + token;
      write_half(turned(query_.k, group, token, true), room_.key_size, keys_ + place * room_.key_size);
      write_half(turned(query_.v, group, token, false), room_.value_size, values_ + place * room_.value_size);
    }
  }

  // Of the row's tokens from one to before another; all keys that they see are written.
  void attend(const Chunk& row, i64 number, i64 group, i64 from, i64 to) {
    take(row, number, group);
    const i64 queries = (to - from) * each_;
    const bool kept = queries > kMostQueries;
    take_queries(from, to);
    begin_ = first_seen(from) / kPanelLanes * kPanelLanes;
    if (kept) pack(row.start + to);
    for (i64 first = 0; first < queries; first += kMostQueries) {
      attend_few(from, first, std::min(kMostQueries, queries - first), kept);
    }
  }

 private:
  void take(const Chunk& row, i64 number, i64 group) {
    row_ = row;
    number_ = number;
    group_ = group;
    const i64 place = (row.slot * room_.groups + group) * room_.context;
    keys_ = room_.keys + place * room_.key_size;
    values_ = room_.values + place * room_.value_size;
  }

  i64 first_seen(i64 token) const {
    return query_.window > 0 ? std::max<i64>(0, row_.start + token + 1 - query_.window) : 0;
  }

  // The numbers of a head, rotated if they are to be.
  const float* turned(const TokenHeads& heads, i64 head, i64 token, bool rotated) const {
    const float* given =
        heads.data + number_ * heads.row_stride + head * heads.head_stride + token * heads.token_stride;
    if (!rotated || query_.cos.data == nullptr) return given;
    float* place = scratch_ + places_.turned;
    const auto at = [&](const Angles& angles) {
      return angles.data + number_ * angles.row_stride + token * angles.token_stride;
    };
    rotate(given, at(query_.cos), at(query_.sin), room_.key_size, place);
    return place;
  }

  void take_queries(i64 from, i64 to) const {
    float* place = scratch_ + places_.queries;
    for (i64 token = from; token < to; ++token) {
      for (i64 head = 0; head < each_; ++head, place += key_words_) {
        const float* query = turned(query_.q, group_ * each_ + head, token, true);
        kernels_.round(query, query_.scale, room_.key_size, place);
      }
    }
  }

  void pack(i64 end) const {
    float* keys = scratch_ + places_.keys;
    float* values = scratch_ + places_.values;
    for (i64 token = begin_; token < end; token += kPanelLanes) {
      const i64 tokens = std::min(kPanelLanes, end - token);
      kernels_.pack_keys(keys_ + token * room_.key_size, tokens, room_.key_size, keys);
      kernels_.pack_values(values_ + token * room_.value_size, tokens, room_.value_size, value_panels_,
                           values);
      keys += key_words_ * kPanelLanes;
      values += value_panels_ * kPanelLanes * kPanelLanes / kernels_.numbers;
    }
  }

  // What a few queries of the tokens from one on attend to, from the first query on.
  void attend_few(i64 from, i64 first, i64 count, bool kept) const {
    const i64 begin = first_seen(from + first / each_) / kPanelLanes * kPanelLanes;
    const i64 tokens = row_.start + from + (first + count - 1) / each_ + 1 - begin;
    const i64 panels = panels_of(tokens);
    const i64 stride = panels * kPanelLanes;
    float* scores = scratch_ + places_.scores;
    float* shares = scratch_ + places_.shares;
    const i64 share_stride = stride / kernels_.numbers;
    score(first, count, kept, begin, tokens, scores);
    if (query_.softcap != 0.0F) cap(scores, count * stride, query_.softcap);
    float over[kMostQueries];
    for (i64 i = 0; i < count; ++i) {
      const i64 token = from + (first + i) / each_;
      const i64 head = group_ * each_ + (first + i) % each_;
      const Seen seen{first_seen(token) - begin, row_.start + token + 1 - begin};
      float most = query_.sinks == nullptr ? -std::numeric_limits<float>::infinity() : query_.sinks[head];
      float sum = kernels_.share(scores + i * stride, panels, seen, most, shares + i * share_stride);
      if (query_.sinks != nullptr) sum += exponential(query_.sinks[head] - most);
      over[i] = 1.0F / sum;
    }
    mix(count, kept, begin, tokens, shares);
    const i64 wide = value_panels_ * kPanelLanes;
    for (i64 i = 0; i < count; ++i) {
      const float* sums = scratch_ + places_.sums + i * wide;
      const i64 token = number_ * query_.tokens + from + (first + i) / each_;
      const i64 head = group_ * each_ + (first + i) % each_;
      float* place = query_.result + (token * query_.heads + head) * room_.value_size;
      for (i64 j = 0; j < room_.value_size; ++j) place[j] = sums[j] * over[i];
    }
  }

  void score(i64 first, i64 count, bool kept, i64 begin, i64 tokens, float* scores) const {
    const float* queries = scratch_ + places_.queries + first * key_words_;
    const i64 panels = panels_of(tokens);
    const i64 stride = panels * kPanelLanes;
    std::fill_n(scores, count * stride, 0.0F);
    if (!kept) {
      kernels_.score_few(queries, key_words_, count, keys_ + begin * room_.key_size, tokens, room_.key_size,
                         scores, stride, scratch_ + places_.few);
      return;
    }
    const i64 panel_size = key_words_ * kPanelLanes;
    const float* keys = scratch_ + places_.keys + (begin - begin_) / kPanelLanes * panel_size;
    for (i64 panel = 0; panel < panels; panel += kMostPanels) {
      kernels_.multiply({queries, key_words_, keys + panel * panel_size, panel_size, kPanelLanes, key_words_,
                         scores + panel * kPanelLanes, stride},
                        count, std::min(kMostPanels, panels - panel));
    }
  }

  void mix(i64 count, bool kept, i64 begin, i64 tokens, const float* shares) const {
    float* sums = scratch_ + places_.sums;
    const i64 wide = value_panels_ * kPanelLanes;
    const i64 words = panels_of(tokens) * kPanelLanes / kernels_.numbers;
    std::fill_n(sums, count * wide, 0.0F);
    if (!kept) {
      kernels_.mix_few(shares, words, count, values_ + begin * room_.value_size, tokens, room_.value_size,
                       sums, wide, scratch_ + places_.few);
      return;
    }
    const float* values = scratch_ + places_.values + (begin - begin_) / kernels_.numbers * wide;
    for (i64 panel = 0; panel < value_panels_; panel += kMostPanels) {
      kernels_.multiply({shares, words, values + panel * kPanelLanes, kPanelLanes, wide, words,
                         sums + panel * kPanelLanes, wide},
                        count, std::min(kMostPanels, value_panels_ - panel));
    }
  }

  const HalfRoom& room_;
  const ChunkQuery& query_;
  const HalfKernels& kernels_;
  const Places& places_;
  float* scratch_;
  i64 each_, key_words_, value_panels_;
  Chunk row_;
  i64 number_ = 0, group_ = 0, begin_ = 0;
  std::uint16_t* keys_ = nullptr;
  std::uint16_t* values_ = nullptr;
};

Places places_for(const HalfRoom& room, std::span<const Chunk> rows, const ChunkQuery& query, i64 numbers) {
  i64 panels = 0;
  i64 queries = 0;
  i64 packed = 0;
  for (const Chunk& row : rows) {
    if (!row.whole) continue;
    const i64 seen = query.window > 0 ? std::min(row.start, query.window) : row.start;
    const i64 here = panels_of(seen + row.count) + 1;  // the first one may begin before what is seen
    panels = std::max(panels, here);
    queries = std::max(queries, row.count * (query.heads / room.groups));
    if (row.count * (query.heads / room.groups) > kMostQueries) packed = std::max(packed, here);
  }
  const i64 key_words = (room.key_size + numbers - 1) / numbers;
  const i64 wide = panels_of(room.value_size) * kPanelLanes;
  Places places{};
  const auto take = [&places](i64 floats) {
    const i64 place = places.size;
    places.size += whole_lines(floats);
    return place;
  };
  places.turned = take(room.key_size);
  places.queries = take(queries * key_words);
  places.keys = take(packed * kPanelLanes * key_words);
  places.values = take(packed * kPanelLanes / numbers * wide);
  places.scores = take(kMostQueries * panels * kPanelLanes);
  places.shares = take(kMostQueries * panels * kPanelLanes / numbers);
  places.sums = take(kMostQueries * wide);
  places.few = take(std::max(kMostPanels * kPanelLanes * key_words, kPanelLanes / numbers * wide));
  return places;
}

// Part of a message that any thread may compute.
struct Part {
  i64 number, group, from, to;
};

std::vector<Part> parts_of(const HalfRoom& room, std::span<const Chunk> rows, i64 threads) {
  const auto whole = std::count_if(rows.begin(), rows.end(), [](const Chunk& row) { return row.whole; });
  const i64 units = std::max<i64>(1, static_cast<i64>(whole) * room.groups);
  const i64 wanted = threads > 1 ? (3 * threads + units - 1) / units : 1;
  std::vector<Part> parts;
  for (std::size_t index = 0; index < rows.size(); ++index) {
    const Chunk& row = rows[index];
    if (!row.whole) continue;
    const i64 tokens = std::max(kLeastTokens, (row.count + wanted - 1) / wanted);
    for (i64 group = 0; group < room.groups; ++group) {
      for (i64 from = 0; from < row.count; from += tokens) {
        parts.push_back({static_cast<i64>(index), group, from, std::min(row.count, from + tokens)});
      }
    }
  }
  return parts;
}

// How many threads are worth what it takes to start them.
i64 useful_threads(const HalfRoom& room, std::span<const Chunk> rows, const ChunkQuery& query, i64 threads) {
  i64 products = 0;
  for (const Chunk& row : rows) {
    const i64 before = query.window > 0 ? std::min(row.start, query.window) : row.start;
    if (row.whole) products += row.count * (before + row.count) * query.heads;
  }
  return std::clamp<i64>(products * (room.key_size + room.value_size) / kThreadProducts, 1, threads);
}

float* aligned(std::vector<float>& scratch, i64 size) {
  const auto needed = static_cast<std::size_t>(size + kLine);
  if (scratch.size() < needed) scratch.resize(needed + needed / 2);
  const auto beyond = reinterpret_cast<std::uintptr_t>(scratch.data()) / sizeof(float) % kLine;
  return scratch.data() + (kLine - static_cast<i64>(beyond)) % kLine;
}

}  // namespace

void attend(const HalfRoom& room, std::span<const Chunk> rows, const ChunkQuery& query,
            std::span<std::vector<float>> scratches, Kernel kernel) {
  const HalfKernels* wide = kernel == Kernel::fastest ? wide_half_kernels() : nullptr;
  const HalfKernels& kernels = wide != nullptr ? *wide : portable_half_kernels();
  const Places places = places_for(room, rows, query, kernels.numbers);
  const i64 token_size = query.heads * room.value_size;
  Group writing(room, query, kernels, places, aligned(scratches.front(), places.size));
  for (std::size_t index = 0; index < rows.size(); ++index) {
    const auto number = static_cast<i64>(index);
    const i64 count = rows[index].whole ? rows[index].count : 0;
    float* result = query.result + number * query.tokens * token_size;
    std::fill(result + count * token_size, result + query.tokens * token_size, 0.0F);
    for (i64 group = 0; count > 0 && group < room.groups; ++group) writing.write(rows[index], number, group);
  }
  const i64 threads = useful_threads(room, rows, query, static_cast<i64>(scratches.size()));
  const std::vector<Part> parts = parts_of(room, rows, threads);
  std::atomic<std::size_t> next = 0;
  const auto work = [&](float* scratch) {
    Group group(room, query, kernels, places, scratch);
    for (std::size_t part = next++; part < parts.size(); part = next++) {
      const Part& own = parts[part];
      group.attend(rows[static_cast<std::size_t>(own.number)], own.number, own.group, own.from, own.to);
    }
  };
  std::vector<std::thread> others;
  for (i64 other = 1; other < threads; ++other) {
    others.emplace_back(work, aligned(scratches[static_cast<std::size_t>(other)], places.size));
  }
  work(aligned(scratches.front(), places.size));
  for (std::thread& other : others) other.join();
}

}  // namespace native_text
