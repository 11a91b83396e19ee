// What an additive cost is made of, and bounds of what is still to come.
#pragma once

#include <limits>
#include <vector>

#include "search/model.hpp"

namespace native_sched {

inline constexpr i64 kNever = std::numeric_limits<i64>::max() / 4;

enum class Cost { kLatency, kTransfers };

// What a cost is made of, and a lower bound of what is still to come.
class CostModel {
 public:
  CostModel(const Model& model, Cost cost);

  // Sets what the limits allow and the bounds that follow from it. `rows` must outlive this.
  void restrict(const std::vector<Rows>& rows, const Limits& limits);
  // Makes the bounds mind how many hosts there are: a Lagrangian relaxation of the counts, a penalty for each
  // stage of a class, set by subgradient steps. After it, a bound for hosts of which `left` are unused is
  // rest() less sum(penalty(c) * left).
  void tune(const Limits& limits);

  [[nodiscard]] const i64* start(int c) const {
    return cost_ == Cost::kLatency ? model_.start_ps(c) : zeros_.data();
  }
  [[nodiscard]] const i64* end(int c) const {
    return cost_ == Cost::kLatency ? model_.end_ps(c) : zeros_.data();
  }
  [[nodiscard]] i64 link(int from, int to) const {
    return cost_ == Cost::kLatency ? model_.link_latency(from, to) : 0;
  }
  [[nodiscard]] i64 input(int c) const {
    return model_.input(c) + (cost_ == Cost::kLatency ? model_.input_latency(c) : 0);
  }
  [[nodiscard]] i64 output(int c) const {
    return model_.output(c) + (cost_ == Cost::kLatency ? model_.output_latency(c) : 0);
  }
  // The least that any plan costs after class c has ended a stage at `cut`, as if hosts were never used up.
  [[nodiscard]] i64 rest(int c, int cut) const { return rest_[at(c)][at(cut)]; }
  // No plan costs less.
  [[nodiscard]] i64 least() const;
  [[nodiscard]] i64 penalty(int c) const { return penalty_[at(c)]; }
  // Do the ends that class c may have move only forward as its start does?
  [[nodiscard]] bool slides(int c) const { return slides_[at(c)]; }

 private:
  class Ends;
  static std::size_t at(int index) { return static_cast<std::size_t>(index); }
  void find_rest(const Limits& limits);
  [[nodiscard]] std::vector<i64> uses() const;

  const Model& model_;
  Cost cost_;
  const std::vector<Rows>* rows_ = nullptr;
  std::vector<i64> zeros_;
  std::vector<std::vector<i64>> rest_;
  std::vector<bool> slides_;
  i64 least_ = 0;        // with penalties
  int first_class_ = 0;  // of the plan that has it
  std::vector<i64> penalty_;
  std::vector<std::vector<int>> end_of_;       // class and start: where the stage of least cost ends
  std::vector<std::vector<int>> class_after_;  // class and cut: which class goes on from there at least cost
};

}  // namespace native_sched
