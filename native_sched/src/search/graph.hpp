// The host combinations a plan passes through. A vertex is the hosts used so far, as counts a class, and the
// class that runs the latest stage; with a fixed host order it is the number of stages and the latest host.
// Vertex 0 is the start, where no host is used. Vertices are in order of their number of stages.
#pragma once

#include <optional>
#include <vector>

#include "search/model.hpp"

namespace native_sched {

class Graph {
 public:
  // Are there no more combinations of used hosts, times classes, than `budget`, and does memory hold them?
  static bool within(const Model& model, i64 budget);
  static Graph build(const Model& model);

  [[nodiscard]] int size() const { return static_cast<int>(class_.size()); }
  [[nodiscard]] int cls(int vertex) const { return class_[at(vertex)]; }
  [[nodiscard]] int stages(int vertex) const { return stages_[at(vertex)]; }
  // How many hosts of class c are unused there.
  [[nodiscard]] int left(const Model& model, int vertex, int c) const {
    return model.count(c) - counts_[at(vertex)] / stride_[at(c)] % (model.count(c) + 1);
  }
  [[nodiscard]] const int* preds_begin(int vertex) const { return preds_.data() + pred_begin_[at(vertex)]; }
  [[nodiscard]] const int* preds_end(int vertex) const { return preds_.data() + pred_begin_[at(vertex) + 1]; }

  // For each vertex a cut below which the hosts that are left cannot finish the chain, each over the best of
  // its links, with the ends that `rows` (a class each) allows: Pinar and Aykanat's greedy reach, run
  // backward over host counts.
  [[nodiscard]] std::vector<int> least_cuts(const Model& model, const std::vector<Rows>& rows,
                                            const Limits& limits) const;

 private:
  static std::size_t at(int index) { return static_cast<std::size_t>(index); }
  void build_free(const Model& model);
  void build_ordered(const Model& model);
  void add(int cls, int stages, int counts);

  std::vector<int> class_, stages_, counts_;  // counts_: the used counts as one mixed-radix number
  std::vector<int> pred_begin_, preds_;
  std::vector<int> stride_;
};

}  // namespace native_sched
