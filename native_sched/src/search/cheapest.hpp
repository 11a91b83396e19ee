// The plan of least cost within given limits, where the cost adds up over stages and transfers: the
// plan's latency, or what it sends over a shared medium.
#pragma once

#include <optional>
#include <stdexcept>
#include <vector>

#include "search/cost_model.hpp"
#include "search/graph.hpp"
#include "search/reach.hpp"

namespace native_sched {

// A search has outgrown its memory: what it did not find proves nothing.
struct TableFull : std::runtime_error {
  TableFull() : std::runtime_error("the table of this search is full") {}
};

// A total order of plans that cost the same: from the last stage to the first, the smaller class, then the
// smaller first cut; classes are in order of their first host.
[[nodiscard]] bool comes_before(const Steps& a, const Steps& b);

// Its searches raise TableFull.
class Cheapest {
 public:
  Cheapest(const Model& model, const Graph& graph, Cost cost);

  struct Plan {
    Steps steps;
    i64 cost = 0;
  };
  // The plan of least cost, then of fewest stages, then first in order. What the medium
  // carries in all is not looked at. Nothing where there is no plan of at most `most` cost.
  std::optional<Plan> find(const Limits& limits, i64 most);
  // The same for each number of stages: element k has plans of k stages.
  std::vector<std::optional<Plan>> find_each(const Limits& limits, i64 most);

 private:
  struct Window {
    std::size_t offset = 0;
    int first = 0;
    int stop = 0;
  };
  static std::size_t at(int index) { return static_cast<std::size_t>(index); }
  void prepare(const Limits& limits);
  // False where there was no room for it; what was found then is of no use.
  bool fill(const Limits& limits, i64 most, std::size_t room);
  void tune(const Limits& limits);
  [[nodiscard]] Window gather(int vertex, const Limits& limits);
  void spread(int cls, Window starts, int least);
  void keep(int vertex, int first, i64 most);
  [[nodiscard]] i64 value(int vertex, int cut) const;
  [[nodiscard]] Steps trace(int vertex, const Limits& limits) const;
  [[nodiscard]] std::optional<Plan> best_of(const std::vector<int>& vertices, const Limits& limits,
                                            i64 most) const;

  const Model& model_;
  const Graph& graph_;
  CostModel costs_;
  std::vector<Rows> rows_;
  std::vector<int> least_;
  std::vector<i64> pool_;
  std::vector<Window> windows_;
  std::vector<i64> begun_, ended_;
  std::vector<int> queue_;
  std::vector<i64> slack_;  // a vertex: what tuned bounds are too high by there; empty before tuning
};

}  // namespace native_sched
