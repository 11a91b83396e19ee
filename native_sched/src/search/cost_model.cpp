#include "search/cost_model.hpp"

#include <algorithm>

namespace native_sched {

CostModel::CostModel(const Model& model, Cost cost)
    : model_(model), cost_(cost), zeros_(at(model.num_cuts())), penalty_(at(model.num_classes())) {}

void CostModel::restrict(const std::vector<Rows>& rows, const Limits& limits) {
  rows_ = &rows;
  std::ranges::fill(penalty_, 0);
  slides_.clear();
  for (const Rows& mine : rows) slides_.push_back(mine.slide());
  find_rest(limits);
}

// The least of a stage's end and all after it, over the ends that a start allows; starts come in falling
// order.
class CostModel::Ends {
 public:
  Ends(const CostModel& costs, int c) : costs_(costs), class_(c), rows_((*costs.rows_)[at(c)]) {}

  i64 least(int start, int& best) {
    i64 result = kNever;
    const int first = rows_.begin[at(start)];
    const int stop = rows_.begin[at(start + 1)];
    if (!costs_.slides(class_)) {
      for (int r = first; r < stop; ++r) {
        for (int j = rows_.runs[at(r)].first; j < rows_.runs[at(r)].stop; ++j) {
          if (total(j) >= result) continue;
          result = total(j);
          best = j;
        }
      }
      return result;
    }
    // Of two ends the further one is dropped unless it is the better: the window's far end only moves to the
    // start.
    while (queue_.size() > head_ && total(queue_.back()) >= total(start + 1)) queue_.pop_back();
    queue_.push_back(start + 1);
    if (first == stop) return kNever;
    while (queue_[head_] >= rows_.runs[at(first)].stop) ++head_;
    best = queue_[head_];
    return total(best);
  }

 private:
  [[nodiscard]] i64 total(int end) const { return costs_.end(class_)[end] + costs_.rest(class_, end); }

  const CostModel& costs_;
  int class_;
  const Rows& rows_;
  std::vector<int> queue_;
  std::size_t head_ = 0;
};

void CostModel::find_rest(const Limits& limits) {
  const int classes = model_.num_classes();
  const int last = model_.last_cut();
  rest_.assign(at(classes), std::vector<i64>(at(model_.num_cuts()), kNever));
  end_of_.assign(at(classes), std::vector<int>(at(model_.num_cuts()), last));
  class_after_.assign(at(classes), std::vector<int>(at(model_.num_cuts()), 0));
  std::vector<Ends> ends;
  for (int c = 0; c < classes; ++c) {
    if (model_.output(c) <= limits.output) rest_[at(c)][at(last)] = output(c);
    ends.emplace_back(*this, c);
  }
  std::vector<i64> begun(at(classes));
  for (int i = last - 1; i >= 0; --i) {
    for (int c = 0; c < classes; ++c) {
      const i64 least = ends[at(c)].least(i, end_of_[at(c)][at(i)]);
      begun[at(c)] = least >= kNever / 2 ? kNever : least + start(c)[i] + penalty_[at(c)];
    }
    for (int c = 0; c < classes && i > 0; ++c) {
      i64& least = rest_[at(c)][at(i)];
      for (int next = 0; next < classes; ++next) {
        if (begun[at(next)] >= kNever || (next == c && model_.count(c) == 1)) continue;
        const i64 crossing = model_.transfer(c, next, i);
        const i64 cost = begun[at(next)] + crossing + link(c, next);
        if (crossing > model_.transfer_limit(c, next, limits) || cost >= least) continue;
        least = cost;
        class_after_[at(c)][at(i)] = next;
      }
    }
  }
  least_ = kNever;
  for (int c = 0; c < classes; ++c) {
    if (begun[at(c)] >= kNever || model_.input(c) > limits.input || begun[at(c)] + input(c) >= least_)
      continue;
    least_ = begun[at(c)] + input(c);
    first_class_ = c;
  }
}

i64 CostModel::least() const {
  if (least_ >= kNever) return kNever;
  i64 bound = least_;
  for (int c = 0; c < model_.num_classes(); ++c) bound -= penalty_[at(c)] * model_.count(c);
  return bound;
}

// Stages of each class in the plan that least_ is of, which may use a class more often than it has hosts.
std::vector<i64> CostModel::uses() const {
  std::vector<i64> result(penalty_.size());
  int c = first_class_;
  for (int cut = 0;;) {
    ++result[at(c)];
    cut = end_of_[at(c)][at(cut)];
    if (cut == model_.last_cut()) return result;
    c = class_after_[at(c)][at(cut)];
  }
}

void CostModel::tune(const Limits& limits) {
  if (model_.ordered() || least_ >= kNever) return;
  std::vector<i64> best = penalty_;
  i64 best_bound = least();
  i64 most_uses = model_.num_cuts();
  for (int c = 0; c < model_.num_classes(); ++c) most_uses += model_.count(c);
  const i64 most_penalty = kLimit / 4 / most_uses;  // no sum of penalties can then overflow
  double reach = static_cast<double>(best_bound) / 30.0;
  int idle = 0;
  for (int round = 0; round < 100 && reach > static_cast<double>(best_bound) * 1e-6; ++round) {
    const std::vector<i64> used = uses();
    double norm = 0.0;
    for (std::size_t c = 0; c < used.size(); ++c) {
      const i64 over = used[c] - model_.count(static_cast<int>(c));
      if (over > 0 || penalty_[c] > 0) norm += static_cast<double>(over * over);
    }
    if (norm <= 0.0) break;
    const double step = (static_cast<double>(best_bound - least()) + reach) / norm;
    for (std::size_t c = 0; c < used.size(); ++c) {
      const auto over = static_cast<double>(used[c] - model_.count(static_cast<int>(c)));
      const double moved = static_cast<double>(penalty_[c]) + step * over;
      penalty_[c] = static_cast<i64>(std::clamp(moved, 0.0, static_cast<double>(most_penalty)));
    }
    find_rest(limits);
    if (least() > best_bound) {
      best_bound = least();
      best = penalty_;
      idle = 0;
    } else if (++idle == 4) {
      reach /= 2.0;
      idle = 0;
    }
  }
  penalty_ = best;
  find_rest(limits);
}

}  // namespace native_sched
