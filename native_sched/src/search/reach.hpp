// Is there a plan of at most this period? Bitsets of reachable cuts over host combinations, for any links.
#pragma once

#include <optional>
#include <vector>

#include "search/graph.hpp"

namespace native_sched {

using Steps = std::vector<Model::Step>;

class Reach {
 public:
  Reach(const Model& model, const Graph& graph) : model_(model), graph_(graph) {}

  // Stages of a plan within the limits; what the medium carries in all is not looked at. Nothing where there
  // is none.
  std::optional<Steps> probe(const Limits& limits);
  // The furthest cut that any plan of the last probe covers.
  [[nodiscard]] int furthest_cut() const { return furthest_; }

 private:
  using Word = std::uint64_t;
  struct Span {
    int first = 0;
    int stop = 0;
  };
  static std::size_t at(int index) { return static_cast<std::size_t>(index); }
  void allow(const Limits& limits);
  [[nodiscard]] const Word* allowed(int from, int to) const {
    return allowed_[at(from * model_.num_classes() + to)].data();
  }
  Span gather(int vertex, const Limits& limits);
  void extend(int vertex, Span starts);
  void extend_sliding(const Rows& rows, Word* reached, int least, Span starts) const;
  void extend_any(const Rows& rows, Word* reached, int least, Span starts) const;
  [[nodiscard]] int next_start(int cut, int stop) const;
  [[nodiscard]] int last_start(int cut) const;
  [[nodiscard]] bool ends_at(int cls, int start, int cut) const;
  [[nodiscard]] Steps trace(int vertex, const Limits& limits) const;

  const Model& model_;
  const Graph& graph_;
  int words_ = 0;
  int furthest_ = 0;
  std::vector<Rows> rows_;
  std::vector<bool> slides_;                // a class: Rows::slide
  std::vector<std::vector<Word>> begins_;   // a class: cuts at which a stage of it may start
  std::vector<std::vector<Word>> allowed_;  // class x class: cuts that cross from one to the other in time
  std::vector<int> least_;
  std::vector<Word> reached_;
  std::vector<Span> spans_;  // a vertex: which of its words are not zero
  std::vector<Word> starts_;
};

}  // namespace native_sched
