// The plan of least cost within given limits, where the cost adds up over stages and transfers: the
// plan's latency, or what it sends over a shared medium.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <vector>

#include "native_sched/graph.hpp"
#include "native_sched/reach.hpp"

namespace native_sched {

inline constexpr i64 kNever = std::numeric_limits<i64>::max() / 4;

// A search has outgrown its memory: what it did not find proves nothing.
struct TableFull : std::runtime_error {
  TableFull() : std::runtime_error("the table of this search is full") {}
};

enum class Cost { kLatency, kTransfers };

// What a cost is made of, and a lower bound of what is still to come.
class CostModel {
 public:
  CostModel(const Model& model, Cost cost);

  // Sets what the limits allow and the bounds that follow from it. `rows` must outlive this.
  void restrict(const std::vector<Rows>& rows, const Limits& limits);

  [[nodiscard]] const i64* start(int c) const { return cost_ == Cost::kLatency ? model_.start_ps(c) : zeros_.data(); }
  [[nodiscard]] const i64* end(int c) const { return cost_ == Cost::kLatency ? model_.end_ps(c) : zeros_.data(); }
  [[nodiscard]] i64 link(int from, int to) const { return cost_ == Cost::kLatency ? model_.link_latency(from, to) : 0; }
  [[nodiscard]] i64 input(int c) const {
    return model_.input(c) + (cost_ == Cost::kLatency ? model_.input_latency(c) : 0);
  }
  [[nodiscard]] i64 output(int c) const {
    return model_.output(c) + (cost_ == Cost::kLatency ? model_.output_latency(c) : 0);
  }
  // The least that any plan costs after class c has ended a stage at `cut`, as if hosts were never used up.
  [[nodiscard]] i64 rest(int c, int cut) const { return rest_[at(c)][at(cut)]; }
  // The least that any plan costs, likewise.
  [[nodiscard]] i64 least() const { return least_; }
  // Do the ends that class c may have move only forward as its start does?
  [[nodiscard]] bool slides(int c) const { return slides_[at(c)]; }

 private:
  static std::size_t at(int index) { return static_cast<std::size_t>(index); }

  const Model& model_;
  Cost cost_;
  const std::vector<Rows>* rows_ = nullptr;
  std::vector<i64> zeros_;
  std::vector<std::vector<i64>> rest_;
  std::vector<bool> slides_;
  i64 least_ = 0;
};

// A total order of plans that cost the same: from the last stage to the first, the smaller class, then the smaller
// first cut; classes are in order of their first host.
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
  void fill(const Limits& limits, i64 most);
  [[nodiscard]] Window gather(int vertex, const Limits& limits);
  void spread(int cls, Window starts, int least);
  void keep(int vertex, int first, i64 most);
  [[nodiscard]] i64 value(int vertex, int cut) const;
  [[nodiscard]] Steps trace(int vertex, const Limits& limits) const;
  [[nodiscard]] std::optional<Plan> best_of(const std::vector<int>& vertices, const Limits& limits, i64 most) const;

  const Model& model_;
  const Graph& graph_;
  CostModel costs_;
  std::vector<Rows> rows_;
  std::vector<int> least_;
  std::vector<i64> pool_;
  std::vector<Window> windows_;
  std::vector<i64> begun_, ended_;
  std::vector<int> queue_;
};

}  // namespace native_sched
