#include "search/reach.hpp"

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
  slides_.clear();
  begins_.assign(at(classes), std::vector<Word>(at(words_)));
  for (int c = 0; c < classes; ++c) {
    rows_.push_back(model_.rows(c, limits.period));
    slides_.push_back(rows_.back().slide());
    for (int i = 0; i < model_.last_cut(); ++i)
      begins_[at(c)][at(i / 64)] |= static_cast<Word>(!rows_.back().empty(i)) << (i % 64);
  }
  allowed_.assign(at(classes) * at(classes), std::vector<Word>(at(words_)));
  for (int from = 0; from < classes; ++from) {
    for (int to = 0; to < classes; ++to) {
      std::vector<Word>& words = allowed_[at(from * classes + to)];
      const int sizes = model_.crossing_sizes(from, to, limits);
      for (int i = 0; i < model_.num_cuts() && sizes > 0; ++i) {
        words[at(i / 64)] |= static_cast<Word>(model_.bytes_id(i) < sizes) << (i % 64);
      }
    }
  }
  least_ = graph_.least_cuts(model_, rows_, limits);
}

std::optional<Steps> Reach::probe(const Limits& limits) {
  words_ = (model_.num_cuts() + 63) / 64;
  allow(limits);
  reached_.resize(at(graph_.size()) * at(words_));
  spans_.assign(at(graph_.size()), Span{});
  starts_.assign(at(words_), 0);
  furthest_ = 0;
  for (int v = 1; v < graph_.size(); ++v) {
    const Span starts = gather(v, limits);
    if (starts.first >= starts.stop) continue;
    extend(v, starts);
    const Word* reached = reached_.data() + at(v) * at(words_);
    if (spans_[at(v)].stop < words_ || !test(reached, model_.last_cut())) continue;
    if (model_.output(graph_.cls(v)) <= limits.output) return trace(v, limits);
  }
  return std::nullopt;
}

// Sets starts_ to the cuts at which this vertex's stage may start; outside of the span returned it says
// nothing.
Reach::Span Reach::gather(int vertex, const Limits& limits) {
  const int c = graph_.cls(vertex);
  if (graph_.stages(vertex) == 1) {
    starts_[0] = 1;
    return {0, model_.input(c) <= limits.input ? 1 : 0};
  }
  Span all{words_, 0};
  for (const int* p = graph_.preds_begin(vertex); p != graph_.preds_end(vertex); ++p) {
    if (spans_[at(*p)].first >= spans_[at(*p)].stop) continue;
    all.first = std::min(all.first, spans_[at(*p)].first);
    all.stop = std::max(all.stop, spans_[at(*p)].stop);
  }
  if (all.first >= all.stop) return all;
  std::fill(starts_.begin() + all.first, starts_.begin() + all.stop, Word{0});
  for (const int* p = graph_.preds_begin(vertex); p != graph_.preds_end(vertex); ++p) {
    const Word* reached = reached_.data() + at(*p) * at(words_);
    const Word* crossing = allowed(graph_.cls(*p), c);
    for (int w = spans_[at(*p)].first; w < spans_[at(*p)].stop; ++w)
      starts_[at(w)] |= reached[w] & crossing[w];
  }
  return all;
}

// The first start at or after `cut`, below `stop`; `stop` for none.
int Reach::next_start(int cut, int stop) const {
  for (int w = cut / 64; w * 64 < stop; ++w) {
    Word bits = starts_[at(w)];
    if (w == cut / 64) bits &= ~Word{0} << (cut % 64);
    if (bits != 0) return w * 64 + std::countr_zero(bits);
  }
  return stop;
}

// The last start at or before `cut`; there must be one.
int Reach::last_start(int cut) const {
  Word bits = starts_[at(cut / 64)] & (~Word{0} >> (63 - cut % 64));
  int w = cut / 64;
  while (bits == 0) bits = starts_[at(--w)];
  return w * 64 + 63 - std::countl_zero(bits);
}

// Of the starts that lie in what is reached already only the last matters: it gets furthest.
void Reach::extend_sliding(const Rows& rows, Word* reached, int least, Span starts) const {
  const int stop = std::min(starts.stop * 64, model_.last_cut());
  for (int i = next_start(starts.first * 64, stop); i < stop;) {
    const int first = i + 1;
    int reach = rows.stop(i);
    for (;;) {
      const int last = last_start(std::min(reach, stop) - 1);
      if (last <= i) break;
      i = last;
      reach = rows.stop(i);
    }
    if (std::max(first, least) < reach) set_range(reached, std::max(first, least), reach);
    i = next_start(std::max(reach, i + 1), stop);
  }
}

void Reach::extend_any(const Rows& rows, Word* reached, int least, Span starts) const {
  Run done{0, 0};  // the latest run set: most runs lie in it but for their last few cuts
  for (int w = starts.first; w < starts.stop; ++w) {
    for (Word bits = starts_[at(w)]; bits != 0; bits &= bits - 1) {
      const int i = w * 64 + std::countr_zero(bits);
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
}

void Reach::extend(int vertex, Span starts) {
  const Rows& rows = rows_[at(graph_.cls(vertex))];
  Word* reached = reached_.data() + at(vertex) * at(words_);
  std::fill(reached, reached + words_, Word{0});
  const auto& begins = begins_[at(graph_.cls(vertex))];
  for (int w = starts.first; w < starts.stop; ++w) starts_[at(w)] &= begins[at(w)];
  if (slides_[at(graph_.cls(vertex))]) {
    extend_sliding(rows, reached, least_[at(vertex)], starts);
  } else {
    extend_any(rows, reached, least_[at(vertex)], starts);
  }
  Span& span = spans_[at(vertex)];
  span = {starts.first, words_};
  while (span.stop > span.first && reached[span.stop - 1] == 0) --span.stop;
  while (span.first < span.stop && reached[span.first] == 0) ++span.first;
  if (span.first >= span.stop) return;
  furthest_ = std::max(furthest_, span.stop * 64 - 1 - std::countl_zero(reached[span.stop - 1]));
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
      const Span span = spans_[at(*p)];
      for (int i = span.first * 64; i < std::min(cut, span.stop * 64) && from < 0; ++i) {
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
