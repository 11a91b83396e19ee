#include "search/labels.hpp"

#include <algorithm>

namespace native_sched {
namespace {

constexpr std::size_t kMostLabels = std::size_t{4} << 20;  // 160 MiB, and as much again while it grows

}  // namespace

// From the last stage to the first: the smaller class, then the smaller first cut (see comes_before).
bool Labels::precedes(const Label& a, const Label& b) const {
  const Label* x = &a;
  const Label* y = &b;
  while (x->parent >= 0 && y->parent >= 0) {
    if (x == y || (x->parent == y->parent && x->vertex == y->vertex)) return false;
    if (graph_.cls(x->vertex) != graph_.cls(y->vertex)) return graph_.cls(x->vertex) < graph_.cls(y->vertex);
    const Label& before_x = labels_[at(x->parent)];
    const Label& before_y = labels_[at(y->parent)];
    if (before_x.cut != before_y.cut) return before_x.cut < before_y.cut;
    x = &before_x;
    y = &before_y;
  }
  return false;
}

bool Labels::finishes(const Label& label) const {
  if (label.cut != model_.last_cut()) return false;
  const int c = graph_.cls(label.vertex);
  const i64 output = model_.output(c);
  return label.carried + output <= period_ && label.latency + latency_.output(c) <= most_;
}

void Labels::insert(const Label& label) {
  auto& peers = at_cut_[at(label.cut)];
  const auto covers = [&](const Label& a, const Label& b) {
    if (a.latency > b.latency || a.carried > b.carried) return false;
    return a.latency < b.latency || !precedes(b, a);
  };
  for (const Label& peer : peers) {
    if (covers(peer, label)) return;
  }
  pending_ -= std::erase_if(peers, [&](const Label& peer) { return covers(label, peer); });
  peers.push_back(label);
  ++pending_;
}

// `label` stands at the start of a stage on `cls`; its vertex is the stage's.
void Labels::push(const Label& label, int cls) {
  const Rows& rows = rows_[at(cls)];
  const i64* start = latency_.start(cls);
  const i64* end = latency_.end(cls);
  const int i = label.cut;
  for (int r = rows.begin[at(i)]; r < rows.begin[at(i + 1)]; ++r) {
    for (int j = std::max(rows.runs[at(r)].first, least_[at(label.vertex)]); j < rows.runs[at(r)].stop; ++j) {
      Label next = label;
      next.cut = j;
      next.latency = label.latency + start[i] + end[j];
      if (next.latency + latency_.rest(cls, j) > most_) continue;
      if (label.carried + transfers_.rest(cls, j) > period_) continue;
      insert(next);
    }
  }
}

void Labels::begin(int vertex) {
  const int c = graph_.cls(vertex);
  const i64 input = model_.input(c);
  if (input > period_) return;
  Label label;
  label.vertex = vertex;
  label.parent = 0;
  label.latency = latency_.input(c);
  label.carried = input;
  push(label, c);
}

void Labels::extend(int vertex) {
  const int c = graph_.cls(vertex);
  for (const int* p = graph_.preds_begin(vertex); p != graph_.preds_end(vertex); ++p) {
    const int from = graph_.cls(*p);
    for (std::size_t k = begin_[at(*p)]; k < begin_[at(*p) + 1]; ++k) {
      Label label = labels_[k];
      if (label.cut == model_.last_cut()) continue;
      const i64 crossing = model_.transfer(from, c, label.cut);
      label.carried += crossing;
      if (label.carried > period_) continue;
      label.latency += crossing + latency_.link(from, c);
      label.parent = static_cast<int>(k);
      label.vertex = vertex;
      push(label, c);
    }
  }
}

void Labels::fill(i64 period, i64 most) {
  period_ = period;
  most_ = most;
  rows_.clear();
  for (int c = 0; c < model_.num_classes(); ++c) rows_.push_back(model_.rows(c, period));
  latency_.restrict(rows_, Limits::of(period));
  transfers_.restrict(rows_, Limits::of(period));
  least_ = graph_.least_cuts(model_, rows_, Limits::of(period));
  labels_.assign(1, Label{});
  begin_.assign(at(graph_.size()) + 1, 1);
  at_cut_.assign(at(model_.num_cuts()), {});
  for (int v = 1; v < graph_.size(); ++v) {
    begin_[at(v)] = labels_.size();
    pending_ = 0;
    if (graph_.stages(v) == 1) {
      begin(v);
    } else {
      extend(v);
    }
    if (labels_.size() + pending_ > kMostLabels) throw TableFull();
    for (auto& peers : at_cut_) {
      labels_.insert(labels_.end(), peers.begin(), peers.end());
      peers.clear();
    }
    begin_[at(v) + 1] = labels_.size();
  }
}

Steps Labels::trace(int label) const {
  Steps steps;
  for (int k = label; k != 0; k = labels_[at(k)].parent) {
    const Label& end = labels_[at(k)];
    steps.push_back({graph_.cls(end.vertex), labels_[at(end.parent)].cut});
  }
  std::ranges::reverse(steps);
  return steps;
}

std::vector<std::optional<Steps>> Labels::find_each(i64 period, i64 most) {
  std::vector<std::optional<Steps>> plans(at(model_.max_stages() + 1));
  fill(period, most);
  std::vector<int> best(plans.size(), -1);
  const auto total = [&](int k) {
    return labels_[at(k)].latency + latency_.output(graph_.cls(labels_[at(k)].vertex));
  };
  for (int k = 1; k < static_cast<int>(labels_.size()); ++k) {
    if (!finishes(labels_[at(k)])) continue;
    int& holder = best[at(graph_.stages(labels_[at(k)].vertex))];
    if (holder < 0 || total(k) < total(holder)) {
      holder = k;
    } else if (total(k) == total(holder) && comes_before(trace(k), trace(holder))) {
      holder = k;
    }
  }
  for (std::size_t s = 1; s < plans.size(); ++s) {
    if (best[s] >= 0) plans[s] = trace(best[s]);
  }
  return plans;
}

}  // namespace native_sched
