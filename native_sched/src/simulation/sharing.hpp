// Messages under way through one interface or medium at the same time.
#pragma once

#include <algorithm>
#include <queue>
#include <utility>
#include <vector>

#include "simulation/sim_record.hpp"

namespace native_sched {

// Divides a resource evenly among the messages under way; none gets more than the share that it takes alone.
class Sharing {
 public:
  explicit Sharing(const SharedSpec& spec) : share_(spec.share), left_s_(spec.share.size(), 0.0) {
    whole_ = std::ranges::all_of(share_, [](double share) { return share == 1.0; });
  }

  // A message of `member` (a place in SharedSpec::boundaries) that takes `alone_s` when nothing else is under
  // way.
  void start(double now, std::size_t member, double alone_s) {
    advance(now);
    if (whole_) {
      queue_.push({turns_ + alone_s, member});
    } else {
      left_s_[member] = alone_s;
      active_.push_back(member);
    }
    settle();
  }
  [[nodiscard]] double next() const { return next_; }
  // Ends the message that `next` told of; returns its member.
  std::size_t finish() {
    const double now = next_;
    advance(now);
    std::size_t member = first_;
    if (whole_) {
      turns_ = queue_.top().first;
      queue_.pop();
    } else {
      std::erase(active_, member);
    }
    settle();
    return member;
  }

 private:
  using Turn = std::pair<double, std::size_t>;

  void advance(double now) {
    const double passed = now - then_;
    then_ = now;
    if (whole_) {
      if (!queue_.empty()) turns_ += passed / static_cast<double>(queue_.size());
      return;
    }
    for (const std::size_t member : active_) left_s_[member] -= passed * speed(member);
  }

  // A member's speed as a part of its speed alone.
  [[nodiscard]] double speed(std::size_t member) const { return std::min(1.0, level_ / share_[member]); }

  void settle() {
    next_ = kNever;
    if (whole_) {
      if (queue_.empty()) return;
      first_ = queue_.top().second;
      const double ahead = std::max(0.0, queue_.top().first - turns_);
      next_ = then_ + ahead * static_cast<double>(queue_.size());
      return;
    }
    fill();
    for (const std::size_t member : active_) {
      const double end = then_ + std::max(0.0, left_s_[member]) / speed(member);
      if (end < next_) {
        next_ = end;
        first_ = member;
      }
    }
  }

  // The level at which shares, each cut off there, fill the resource (max-min fairness by water filling).
  void fill() {
    std::ranges::sort(active_, {}, [&](std::size_t member) { return std::pair(share_[member], member); });
    double room = 1.0;
    std::size_t waiting = active_.size();
    level_ = kNever;
    for (const std::size_t member : active_) {
      const double even = room / static_cast<double>(waiting);
      if (share_[member] > even) {
        level_ = even;
        return;
      }
      room -= share_[member];
      --waiting;
    }
  }

  std::vector<double> share_;
  bool whole_;  // each takes all of it alone: then all advance alike, and one clock of turns tells who ends
                // first
  std::priority_queue<Turn, std::vector<Turn>, std::greater<>> queue_;
  double turns_ = 0.0;
  std::vector<double> left_s_;
  std::vector<std::size_t> active_;
  double level_ = kNever;
  double then_ = 0.0;
  double next_ = kNever;
  std::size_t first_ = 0;
};

}  // namespace native_sched
