// Plans of least latency under a limit on what a shared medium carries in all. A search of two criteria: each
// state keeps the labels that no other label is at least as good as in both. The data host's interface needs
// no limit of its own here, since the medium carries all that the interface does.
#pragma once

#include <optional>
#include <vector>

#include "search/cheapest.hpp"

namespace native_sched {

class Labels {
 public:
  Labels(const Model& model, const Graph& graph)
      : model_(model), graph_(graph), latency_(model, Cost::kLatency), transfers_(model, Cost::kTransfers) {}

  // For each number of stages the plan of period and medium time at most `period` and of latency at most
  // `most`: of least latency, then first in order. Nothing where there is none. Raises TableFull.
  std::vector<std::optional<Steps>> find_each(i64 period, i64 most);

 private:
  struct Label {
    i64 latency = 0;
    i64 carried = 0;  // by the medium
    int parent = -1;
    int vertex = 0;
    int cut = 0;
  };
  static std::size_t at(int index) { return static_cast<std::size_t>(index); }
  void fill(i64 period, i64 most);
  void begin(int vertex);
  void extend(int vertex);
  void push(const Label& label, int cls);
  void insert(const Label& label);
  [[nodiscard]] bool finishes(const Label& label) const;
  [[nodiscard]] bool precedes(const Label& a, const Label& b) const;
  [[nodiscard]] Steps trace(int label) const;

  const Model& model_;
  const Graph& graph_;
  CostModel latency_, transfers_;
  std::vector<Rows> rows_;
  std::vector<int> least_;
  std::vector<Label> labels_;
  std::vector<std::size_t> begin_;          // a vertex: where its labels start
  std::vector<std::vector<Label>> at_cut_;  // of the vertex in work
  i64 period_ = 0;
  i64 most_ = 0;
  std::size_t pending_ = 0;
};

}  // namespace native_sched
