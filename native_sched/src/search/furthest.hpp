// Is there a plan of at most this period, where each host has one bandwidth? For each combination of used
// hosts it is enough to know the furthest cut that they cover among the cuts of at most each of a few sizes.
//
// Why that is exact. Let cut sizes be totally ordered, and all that a cut costs a stage (transfer, buffers,
// encode, decode) rise with its size. Take a plan whose stage from cut i to cut q runs on host u after hosts
// S, and a prefix of S that reaches p >= i of no larger size. If p < q, u runs p to q: a shorter stage behind
// a smaller cut. If p >= q, some stage of the prefix, x to c, has x < q <= c: either c is no larger than q,
// and serves in its place, or the stage can stop at q instead. Either way S and u get at least as far. This
// needs hosts that may stay unused, and a transfer time that is the larger of a sender's and a receiver's
// own, so that it does not hold for pairwise links. Pinar, Tabak and Aykanat 2008 keep one furthest prefix a
// combination; that is exact only where cuts cost nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "search/reach.hpp"

namespace native_sched {

class Furthest {
 public:
  // Nothing where the premises above do not hold, where too many sizes would have to be told apart, or where
  // there are more combinations than `budget`.
  static std::optional<Furthest> build(const Model& model, i64 budget);

  // As Reach::probe, for Limits of the period alone.
  std::optional<Steps> probe(i64 period);
  [[nodiscard]] int furthest_cut() const { return furthest_; }

 private:
  static std::size_t at(int index) { return static_cast<std::size_t>(index); }
  explicit Furthest(const Model& model) : model_(&model) {}
  bool rank_cuts();
  void choose_lanes(i64 period);
  template <typename Cut, int kLanes>
  std::optional<Steps> run(i64 period);
  template <typename Cut, int kLanes>
  void fill_rows(int cls, const Rows& ends, i64 period, std::vector<Cut>& table);
  template <typename Cut, int kLanes>
  Steps trace(int counts, const std::vector<Cut>& far, const std::vector<std::vector<Cut>>& rows);
  template <int kLanes>
  [[nodiscard]] std::pair<int, int> start_lanes(int cls) const;
  [[nodiscard]] int count_up(std::vector<int>& digits) const;
  [[nodiscard]] bool used(int counts, int cls) const {
    return counts / stride_[at(cls)] % (model_->count(cls) + 1) != 0;
  }

  const Model* model_;
  bool starts_alike_ = false;  // what a stage costs does not depend on the size of the cut it starts at
  std::vector<int> size_;      // a cut: its rank by size
  int num_sizes_ = 0;
  std::vector<int> limit_;       // a class: the largest rank it carries in time, -1 for none
  std::vector<int> lanes_;       // ranks that are told apart, ascending
  std::vector<int> start_lane_;  // a class: the lane of its limit, -1 for none
  std::vector<int> stride_;
  std::vector<std::vector<int>>
      before_;  // a lane and a cut: the last cut up to that one within the lane's size
  int total_ = 1;
  int furthest_ = 0;
};

}  // namespace native_sched
