#include "search/cheapest.hpp"

#include <algorithm>

namespace native_sched {
namespace {

constexpr std::size_t kMostValues = std::size_t{20} << 20;  // 160 MiB, and as much again while it grows
// A table larger than this is worth the time that better bounds take.
constexpr std::size_t kManyValues = std::size_t{1} << 18;

}  // namespace

bool comes_before(const Steps& a, const Steps& b) {
  const std::size_t common = std::min(a.size(), b.size());
  for (std::size_t k = 1; k <= common; ++k) {
    const Model::Step& x = a[a.size() - k];
    const Model::Step& y = b[b.size() - k];
    if (x.cls != y.cls) return x.cls < y.cls;
    if (x.first_cut != y.first_cut) return x.first_cut < y.first_cut;
  }
  return a.size() < b.size();
}

Cheapest::Cheapest(const Model& model, const Graph& graph, Cost cost)
    : model_(model),
      graph_(graph),
      costs_(model, cost),
      begun_(at(model.num_cuts())),
      ended_(at(model.num_cuts())) {}

Cheapest::Window Cheapest::gather(int vertex, const Limits& limits) {
  const int c = graph_.cls(vertex);
  Window all{0, model_.num_cuts(), 0};
  if (graph_.stages(vertex) == 1) {
    if (model_.input(c) > limits.input) return all;
    begun_[0] = costs_.input(c) + costs_.start(c)[0];
    return {0, 0, 1};
  }
  for (const int* p = graph_.preds_begin(vertex); p != graph_.preds_end(vertex); ++p) {
    const Window& window = windows_[at(*p)];
    if (window.first >= window.stop) continue;
    all.first = std::min(all.first, window.first);
    all.stop = std::max(all.stop, window.stop);
  }
  if (all.first >= all.stop) return all;
  std::fill(begun_.begin() + all.first, begun_.begin() + all.stop, kNever);
  for (const int* p = graph_.preds_begin(vertex); p != graph_.preds_end(vertex); ++p) {
    const Window& window = windows_[at(*p)];
    const int from = graph_.cls(*p);
    const i64* times = model_.rate_times(model_.rate(from, c));
    const i64 link = costs_.link(from, c);
    const i64 slowest = model_.transfer_limit(from, c, limits);
    for (int i = window.first; i < window.stop; ++i) {
      const i64 crossing = times[model_.bytes_id(i)];
      const i64 before = pool_[window.offset + at(i - window.first)];
      if (crossing <= slowest) begun_[at(i)] = std::min(begun_[at(i)], before + crossing + link);
    }
  }
  const i64* start = costs_.start(c);
  for (int i = all.first; i < all.stop; ++i) {
    if (begun_[at(i)] < kNever) begun_[at(i)] += start[i];
  }
  return all;
}

void Cheapest::spread(int cls, Window starts, int least) {
  const Rows& rows = rows_[at(cls)];
  const int cuts = model_.num_cuts();
  std::fill(ended_.begin() + starts.first, ended_.end(), kNever);
  if (!costs_.slides(cls)) {
    for (int i = starts.first; i < starts.stop; ++i) {
      const i64 begun = begun_[at(i)];
      if (begun >= kNever) continue;
      for (int r = rows.begin[at(i)]; r < rows.begin[at(i + 1)]; ++r) {
        const Run run = rows.runs[at(r)];
        for (int j = std::max(run.first, least); j < run.stop; ++j)
          ended_[at(j)] = std::min(ended_[at(j)], begun);
      }
    }
    return;
  }
  queue_.clear();
  std::size_t head = 0;
  for (int j = starts.first + 1; j < cuts; ++j) {
    const int i = j - 1;
    if (i < starts.stop && begun_[at(i)] < kNever && rows.begin[at(i)] < rows.begin[at(i + 1)]) {
      while (queue_.size() > head && begun_[at(queue_.back())] >= begun_[at(i)]) queue_.pop_back();
      queue_.push_back(i);
    }
    while (head < queue_.size() && rows.runs[at(rows.begin[at(queue_[head])])].stop <= j) ++head;
    if (head < queue_.size()) {
      ended_[at(j)] = begun_[at(queue_[head])];
    } else if (i >= starts.stop) {
      break;
    }
  }
}

void Cheapest::keep(int vertex, int first, i64 most) {
  const int c = graph_.cls(vertex);
  const i64* end = costs_.end(c);
  Window window{pool_.size(), model_.num_cuts(), 0};
  const i64 bar = slack_.empty() ? most : most + slack_[at(vertex)];
  for (int j = std::max(first, least_[at(vertex)]); j < model_.num_cuts(); ++j) {
    i64& ended = ended_[at(j)];
    if (ended >= kNever) continue;
    ended += end[j];
    if (ended + costs_.rest(c, j) > bar) {
      ended = kNever;
      continue;
    }
    window.first = std::min(window.first, j);
    window.stop = j + 1;
  }
  if (window.first < window.stop) {
    pool_.insert(pool_.end(), ended_.begin() + window.first, ended_.begin() + window.stop);
  }
  windows_[at(vertex)] = window;
}

void Cheapest::prepare(const Limits& limits) {
  rows_.clear();
  for (int c = 0; c < model_.num_classes(); ++c) rows_.push_back(model_.rows(c, limits.period));
  costs_.restrict(rows_, limits);
  least_ = graph_.least_cuts(model_, rows_, limits);
  slack_.clear();
}

void Cheapest::tune(const Limits& limits) {
  costs_.tune(limits);
  slack_.assign(at(graph_.size()), 0);
  for (int v = 0; v < graph_.size() && !model_.ordered(); ++v) {
    for (int c = 0; c < model_.num_classes(); ++c)
      slack_[at(v)] += costs_.penalty(c) * graph_.left(model_, v, c);
  }
}

bool Cheapest::fill(const Limits& limits, i64 most, std::size_t room) {
  pool_.clear();
  windows_.assign(at(graph_.size()), Window{});
  for (int v = 1; v < graph_.size(); ++v) {
    const Window starts = gather(v, limits);
    if (starts.first >= starts.stop) continue;
    spread(graph_.cls(v), starts, least_[at(v)]);
    keep(v, starts.first + 1, most);
    if (pool_.size() > room) return false;
  }
  return true;
}

i64 Cheapest::value(int vertex, int cut) const {
  const Window& window = windows_[at(vertex)];
  if (cut < window.first || cut >= window.stop) return kNever;
  return pool_[window.offset + at(cut - window.first)];
}

Steps Cheapest::trace(int vertex, const Limits& limits) const {
  Steps steps;
  int cut = model_.last_cut();
  while (graph_.stages(vertex) > 1) {
    const int c = graph_.cls(vertex);
    const i64 want = value(vertex, cut) - costs_.end(c)[cut];
    const Rows& rows = rows_[at(c)];
    int from = -1;
    int start = 0;
    for (int i = 1; i < cut && from < 0; ++i) {
      const auto holds = [&](const Run& run) { return run.first <= cut && cut < run.stop; };
      if (std::none_of(rows.runs.begin() + rows.begin[at(i)], rows.runs.begin() + rows.begin[at(i + 1)],
                       holds))
        continue;
      for (const int* p = graph_.preds_begin(vertex); p != graph_.preds_end(vertex); ++p) {
        const i64 before = value(*p, i);
        const i64 crossing = model_.transfer(graph_.cls(*p), c, i);
        if (before >= kNever || crossing > model_.transfer_limit(graph_.cls(*p), c, limits)) continue;
        if (before + crossing + costs_.link(graph_.cls(*p), c) + costs_.start(c)[i] != want) continue;
        from = *p;
        start = i;
        break;
      }
    }
    steps.push_back({c, start});
    cut = start;
    vertex = from;
  }
  steps.push_back({graph_.cls(vertex), 0});
  std::ranges::reverse(steps);
  return steps;
}

std::optional<Cheapest::Plan> Cheapest::best_of(const std::vector<int>& vertices, const Limits& limits,
                                                i64 most) const {
  const auto total = [&](int v) {
    const int c = graph_.cls(v);
    const i64 ended = value(v, model_.last_cut());
    return ended >= kNever || model_.output(c) > limits.output ? kNever : ended + costs_.output(c);
  };
  i64 least = most;
  int stages = 0;
  bool any = false;
  for (const int v : vertices) {
    const i64 cost = total(v);
    if (cost > least || (any && cost == least && graph_.stages(v) >= stages)) continue;
    any = true;
    least = cost;
    stages = graph_.stages(v);
  }
  if (!any) return std::nullopt;
  std::optional<Plan> best;
  for (const int v : vertices) {
    if (total(v) != least || graph_.stages(v) != stages) continue;
    Plan plan{trace(v, limits), least};
    if (!best || comes_before(plan.steps, best->steps)) best = std::move(plan);
  }
  return best;
}

std::optional<Cheapest::Plan> Cheapest::find(const Limits& limits, i64 most) {
  prepare(limits);
  // The closer the cap is to the best plan's cost, the less there is to look at: it grows until there is a
  // plan.
  i64 step = std::max<i64>(costs_.least() / 256, 1);
  i64 cap = costs_.least();
  while (costs_.least() <= most) {
    cap = std::min(cap, most);
    const bool tuned = !slack_.empty();
    if (!fill(limits, cap, tuned ? kMostValues : kManyValues)) {
      if (tuned) throw TableFull();
      tune(limits);
      step = std::max<i64>(costs_.least() / 1024, 1);
      cap = costs_.least();
      continue;
    }
    std::vector<int> ends;
    for (int v = 1; v < graph_.size(); ++v) {
      if (value(v, model_.last_cut()) < kNever) ends.push_back(v);
    }
    if (auto plan = best_of(ends, limits, cap); plan || cap == most) return plan;
    cap = most - cap <= step ? most : cap + step;
    step *= 2;
  }
  return std::nullopt;
}

std::vector<std::optional<Cheapest::Plan>> Cheapest::find_each(const Limits& limits, i64 most) {
  prepare(limits);
  if (!fill(limits, most, kManyValues)) {
    tune(limits);
    if (!fill(limits, most, kMostValues)) throw TableFull();
  }
  std::vector<std::optional<Plan>> plans(at(model_.max_stages() + 1));
  std::vector<std::vector<int>> ends(plans.size());
  for (int v = 1; v < graph_.size(); ++v) {
    if (value(v, model_.last_cut()) < kNever) ends[at(graph_.stages(v))].push_back(v);
  }
  for (std::size_t k = 1; k < ends.size(); ++k) plans[k] = best_of(ends[k], limits, most);
  return plans;
}

}  // namespace native_sched
