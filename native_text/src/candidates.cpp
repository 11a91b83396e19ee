#include "native_text/candidates.hpp"

#include <limits>
#include <vector>

#include "simd.hpp"

namespace native_text {
namespace {

constexpr i64 kBlock = 256;

struct Candidate {
  float score;
  i64 place;
};

bool before(const Candidate& one, const Candidate& other) {
  return one.score > other.score || (one.score == other.score && one.place < other.place);
}

FOR_EACH_PROCESSOR float largest(const float* scores, i64 size) {
  float most = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : most)
  for (i64 i = 0; i < size; ++i) most = std::max(most, scores[i]);
  return most;
}

FOR_EACH_PROCESSOR float sum_of(const float* scores, i64 size, float most) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (i64 i = 0; i < size; ++i) sum += exponential(scores[i] - most);
  return sum;
}

}  // namespace

void candidates(const float* scores, i64 size, i64 count, float* best, i64* places, float* log_sum) {
  // A block whose largest score does not reach the least of those that are kept holds no candidate.
  std::vector<Candidate> kept;
  kept.reserve(static_cast<std::size_t>(2 * count + kBlock));
  const auto wanted = static_cast<std::size_t>(count);
  float least = -std::numeric_limits<float>::infinity();
  float most = least;
  for (i64 begin = 0; begin < size; begin += kBlock) {
    const i64 end = std::min(size, begin + kBlock);
    const float here = largest(scores + begin, end - begin);
    most = std::max(most, here);
    if (kept.size() >= wanted && !(here > least)) continue;
    for (i64 place = begin; place < end; ++place) {
      const float score = std::isnan(scores[place]) ? -std::numeric_limits<float>::infinity() : scores[place];
      if (kept.size() < wanted || score > least) kept.push_back({score, place});
    }
    if (kept.size() > wanted) {
      std::nth_element(kept.begin(), kept.begin() + count - 1, kept.end(), before);
      kept.resize(wanted);
      least = kept.back().score;
    }
  }
  std::sort(kept.begin(), kept.end(), before);
  for (std::size_t i = 0; i < wanted; ++i) {
    best[i] = kept[i].score;
    places[i] = kept[i].place;
  }
  double sum = 0.0;
  for (i64 begin = 0; begin < size; begin += kBlock) {
    sum += static_cast<double>(sum_of(scores + begin, std::min(kBlock, size - begin), most));
  }
  *log_sum = most + static_cast<float>(std::log(sum));
}

}  // namespace native_text
