#include "native_sched/reach.hpp"

#include <algorithm>
#include <bit>

namespace native_sched {
namespace {

using Word = std::uint64_t;

void set_range(Word* words, int first, int stop) {
  const int low = first / 64;
  const int high = (stop - 1) / 64;
  const Word head = ~Word{0} << (first % 64);
  const Word tail = ~Word{0} >> (63 - (stop - 1) % 64);
  if (low == high) {
    words[low] |= head & tail;
    return;
  }
  words[low] |= head;
  for (int w = low + 1; w < high; ++w) words[w] = ~Word{0};
  words[high] |= tail;
}

bool test(const Word* words, int bit) { return (words[bit / 64] >> (bit % 64) & 1U) != 0; }

}  // namespace

void Reach::allow(const Limits& limits) {
  const int classes = model_.num_classes();
  rows_.clear();
  for (int c = 0; c < classes; ++c) rows_.push_back(model_.rows(c, limits.period));
  allowed_.assign(at(classes) * at(classes), std::vector<Word>(at(words_)));
  for (int from = 0; from < classes; ++from) {
    for (int to = 0; to < classes; ++to) {
      if (from == to && model_.count(from) == 1) continue;
      std::vector<Word>& words = allowed_[at(from * classes + to)];
      const i64* times = model_.rate_times(model_.rate(from, to));
      const i64 most = model_.transfer_limit(from, to, limits);
      for (int i = 0; i < model_.num_cuts(); ++i) {
        words[at(i / 64)] |= static_cast<Word>(times[model_.bytes_id(i)] <= most) << (i % 64);
      }
    }
  }
  least_ = graph_.least_cuts(model_, rows_);
}

std::optional<Steps> Reach::probe(const Limits& limits) {
  words_ = (model_.num_cuts() + 63) / 64;
  allow(limits);
  reached_.resize(at(graph_.size()) * at(words_));
  std::fill(reached_.begin(), reached_.end(), Word{0});
  alive_.assign(at(graph_.size()), false);
  starts_.assign(at(words_), 0);
  furthest_ = 0;
  for (int v = 1; v < graph_.size(); ++v) {
    const int c = graph_.cls(v);
    std::ranges::fill(starts_, Word{0});
    bool any = false;
    for (const int* p = graph_.preds_begin(v); p != graph_.preds_end(v); ++p) {
      if (*p == 0) {
        if (model_.input(c) <= limits.input) starts_[0] = 1;
        any = any || model_.input(c) <= limits.input;
        continue;
      }
      if (!alive_[at(*p)]) continue;
      any = true;
      const Word* reached = reached_.data() + at(*p) * at(words_);
      const Word* crossing = allowed(graph_.cls(*p), c);
      for (std::size_t w = 0; w < starts_.size(); ++w) starts_[w] |= reached[w] & crossing[w];
    }
    if (!any || !extend(v)) continue;
    const Word* reached = reached_.data() + at(v) * at(words_);
    if (test(reached, model_.last_cut()) && model_.output(c) <= limits.output) return trace(v, limits);
  }
  return std::nullopt;
}

bool Reach::extend(int vertex) {
  const Rows& rows = rows_[at(graph_.cls(vertex))];
  Word* reached = reached_.data() + at(vertex) * at(words_);
  const int least = least_[at(vertex)];
  Run done{0, 0};  // the latest run set: most runs lie in it but for their last few cuts
  for (std::size_t w = 0; w < starts_.size(); ++w) {
    for (Word bits = starts_[w]; bits != 0; bits &= bits - 1) {
      const int i = static_cast<int>(w) * 64 + std::countr_zero(bits);
      for (int r = rows.begin[at(i)]; r < rows.begin[at(i + 1)]; ++r) {
        const Run run = rows.runs[at(r)];
        const int first = std::max(run.first, least);
        const bool continues = done.first <= first && first <= done.stop;
        const int fresh = continues ? std::max(first, done.stop) : first;
        if (fresh >= run.stop) continue;
        set_range(reached, fresh, run.stop);
        done = {continues ? done.first : first, run.stop};
      }
    }
  }
  bool any = false;
  for (int w = words_ - 1; w >= 0; --w) {
    if (reached[w] == 0) continue;
    furthest_ = std::max(furthest_, w * 64 + 63 - std::countl_zero(reached[w]));
    any = true;
    break;
  }
  alive_[at(vertex)] = any;
  return any;
}

bool Reach::ends_at(int cls, int start, int cut) const {
  const Rows& rows = rows_[at(cls)];
  for (int r = rows.begin[at(start)]; r < rows.begin[at(start + 1)]; ++r) {
    if (rows.runs[at(r)].first <= cut && cut < rows.runs[at(r)].stop) return true;
  }
  return false;
}

Steps Reach::trace(int vertex, const Limits& limits) const {
  Steps steps;
  int cut = model_.last_cut();
  while (vertex != 0) {
    const int c = graph_.cls(vertex);
    int from = -1;
    int start = 0;
    for (const int* p = graph_.preds_begin(vertex); p != graph_.preds_end(vertex) && from < 0; ++p) {
      if (*p == 0) {
        if (model_.input(c) <= limits.input && ends_at(c, 0, cut)) from = 0;
        continue;
      }
      const Word* reached = reached_.data() + at(*p) * at(words_);
      const Word* crossing = allowed(graph_.cls(*p), c);
      for (int i = 0; i < cut && from < 0; ++i) {
        if (test(reached, i) && test(crossing, i) && ends_at(c, i, cut)) {
          from = *p;
          start = i;
        }
      }
    }
    steps.push_back({c, start});
    cut = start;
    vertex = from;
  }
  std::ranges::reverse(steps);
  return steps;
}

}  // namespace native_sched
