// The problem as the searches see it: cuts that may not be used are gone, hosts that are alike are one class
// with a count, transfer times are a table.
#pragma once

#include <cstdint>
#include <vector>

#include "problem/instance.hpp"

namespace native_sched {

struct HostClass {
  int kind = 0;
  std::vector<int> hosts;  // ascending; alike in every respect
  i64 memory_bytes = 0;    // what stages may use: the runtime's own share is taken off
  bool is_data_host = false;
};

// Ends j, as half-open runs of cuts, that a stage from cut i may have: rows[begin[i] .. begin[i + 1]).
struct Run {
  int first = 0;
  int stop = 0;
};
struct Rows {
  std::vector<int> begin;
  std::vector<Run> runs;

  [[nodiscard]] bool empty(int start) const {
    return begin[static_cast<std::size_t>(start)] == begin[static_cast<std::size_t>(start) + 1];
  }
  // Where the only, or the first, run of a start that has one stops.
  [[nodiscard]] int stop(int start) const {
    return runs[static_cast<std::size_t>(begin[static_cast<std::size_t>(start)])].stop;
  }
  // Has each start at most one run, right behind it, and do the runs' ends only move forward as the starts
  // do?
  [[nodiscard]] bool slide() const;
};

// What a plan may take. Where the data host runs a stage amid the chain, its interface also sends the inputs
// and takes the results; each such sum is kept by a pair of limits, one for each part.
struct Limits {
  i64 period = 0;    // of each stage and each transfer
  i64 input = 0;     // of the inputs' transfer
  i64 output = 0;    // of the results' transfer
  i64 sent = 0;      // of what the data host's own stage sends on
  i64 received = 0;  // of what it takes in

  static Limits of(i64 period) { return {period, period, period, period, period}; }
};

class Model {
 public:
  explicit Model(const Instance& instance);

  [[nodiscard]] const Instance& instance() const { return *instance_; }
  [[nodiscard]] int num_cuts() const {
    return static_cast<int>(cut_of_.size());
  }  // with both ends of the chain
  [[nodiscard]] int last_cut() const { return num_cuts() - 1; }
  [[nodiscard]] int cut_of(int cut) const { return cut_of_[at(cut)]; }
  [[nodiscard]] int num_classes() const { return static_cast<int>(classes_.size()); }
  [[nodiscard]] const HostClass& host_class(int c) const { return classes_[at(c)]; }
  [[nodiscard]] bool ordered() const { return ordered_; }
  [[nodiscard]] int max_stages() const { return max_stages_; }
  [[nodiscard]] int count(int c) const { return counts_[at(c)]; }
  [[nodiscard]] int data_class() const { return data_class_; }  // -1: the data host runs no stage
  [[nodiscard]] bool has_data_host() const { return has_data_host_; }
  [[nodiscard]] bool medium() const { return medium_; }
  [[nodiscard]] i64 most_period() const { return most_period_; }
  [[nodiscard]] i64 most_latency() const { return most_latency_; }

  [[nodiscard]] const i64* start_ps(int c) const { return start_[at(classes_[at(c)].kind)].data(); }
  [[nodiscard]] const i64* end_ps(int c) const { return end_[at(classes_[at(c)].kind)].data(); }
  [[nodiscard]] i64 transfer(int from, int to, int cut) const {
    return times_[at(rate_[at(from * num_classes() + to)])][at(bytes_id_[at(cut)])];
  }
  [[nodiscard]] const i64* rate_times(int rate) const { return times_[at(rate)].data(); }
  [[nodiscard]] int rate(int from, int to) const { return rate_[at(from * num_classes() + to)]; }
  [[nodiscard]] int bytes_id(int cut) const { return bytes_id_[at(cut)]; }
  [[nodiscard]] i64 link_latency(int from, int to) const { return latency_[at(from * num_classes() + to)]; }
  [[nodiscard]] i64 input(int c) const { return input_[at(c)]; }
  [[nodiscard]] i64 output(int c) const { return output_[at(c)]; }
  [[nodiscard]] i64 input_latency(int c) const { return input_latency_[at(c)]; }
  [[nodiscard]] i64 output_latency(int c) const { return output_latency_[at(c)]; }

  // What a cut costs a stage that starts or ends there.
  [[nodiscard]] i64 decode_ps(int c, int cut) const { return decode_[at(classes_[at(c)].kind)][at(cut)]; }
  [[nodiscard]] i64 encode_ps(int c, int cut) const { return encode_[at(classes_[at(c)].kind)][at(cut)]; }
  [[nodiscard]] i64 entry_bytes(int cut) const { return entry_[at(cut)]; }
  [[nodiscard]] i64 exit_bytes(int cut) const { return exit_[at(cut)]; }
  // Does every stage fit class c?
  [[nodiscard]] bool fits_always(int c) const { return fits_always_[at(c)]; }
  // Is a transfer's time the larger of its sender's and its receiver's own?
  [[nodiscard]] bool rates_by_host() const { return rates_by_host_; }
  // What `cut` takes over the bandwidth of class c alone.
  [[nodiscard]] i64 own_transfer(int c, int cut) const { return own_times_[at(c)][at(bytes_id_[at(cut)])]; }

  // The most a transfer between two classes may take.
  [[nodiscard]] i64 transfer_limit(int from, int to, const Limits& limits) const {
    return from == data_class_ ? limits.sent : to == data_class_ ? limits.received : limits.period;
  }
  // Cuts whose bytes_id is below this cross from one class to the other in time.
  [[nodiscard]] int crossing_sizes(int from, int to, const Limits& limits) const;
  // Limits that together allow just the plans whose sums over the data host's interface are at most `period`.
  [[nodiscard]] std::vector<Limits> splits(i64 period) const;

  // Ends that memory and pins allow.
  [[nodiscard]] const Rows& memory_rows(int c) const { return memory_rows_[at(c)]; }
  // Ends that memory, pins and `period` allow.
  [[nodiscard]] Rows rows(int c, i64 period) const;
  // A value above `period` that no feasible period between the two can undercut.
  [[nodiscard]] i64 next_candidate(i64 period) const;

  // Stages as (class, first cut) from first to last, as assignments to hosts: those alike in ascending order.
  struct Step {
    int cls = 0;
    int first_cut = 0;
  };
  [[nodiscard]] std::vector<AssignmentSpec> assign(const std::vector<Step>& steps) const;

 private:
  static std::size_t at(int index) { return static_cast<std::size_t>(index); }
  void find_cuts();
  [[nodiscard]] std::vector<i64> shares(const std::vector<i64>& ends, bool sends, i64 period) const;
  void find_classes();
  void read_times();
  void read_links();
  void find_memory_rows();
  [[nodiscard]] std::vector<int> pin_stops(const HostClass& cls) const;
  [[nodiscard]] Rows scan_memory(const HostClass& cls) const;
  [[nodiscard]] bool all_fits(const HostClass& cls) const;

  const Instance* instance_;
  std::vector<int> cut_of_;  // compressed cut -> cut of the problem
  std::vector<HostClass> classes_;
  std::vector<int> counts_;
  bool ordered_ = false;
  bool medium_ = false;
  bool has_data_host_ = false;
  int data_class_ = -1;
  int max_stages_ = 0;
  i64 most_period_ = 0;
  i64 most_latency_ = 0;
  bool rates_by_host_ = false;
  std::vector<bool> fits_always_;                  // a class
  std::vector<std::vector<i64>> own_times_;        // class x distinct cut bytes
  std::vector<std::vector<i64>> decode_, encode_;  // a kind
  std::vector<std::vector<i64>> start_, end_;      // a kind
  std::vector<std::vector<i64>> sorted_end_;       // a kind; for next_candidate
  std::vector<bool> end_ascends_;                  // a kind
  std::vector<int> rate_;                          // class x class -> row of times_
  std::vector<i64> latency_;
  std::vector<std::vector<i64>> times_;  // rate x distinct cut bytes (ascending)
  std::vector<int> bytes_id_;            // compressed cut -> column of times_
  std::vector<i64> input_, output_, input_latency_, output_latency_;
  std::vector<Rows> memory_rows_;
  // Sums of what units weigh between compressed cuts.
  std::vector<i64> activation_, entry_, exit_;
  std::vector<std::vector<i64>> weight_;  // a kind
  struct Use {
    int previous = -1;  // the compressed unit that used this weight last, -1 for none
    i64 num_bytes = 0;
  };
  std::vector<std::vector<Use>> uses_;
};

}  // namespace native_sched
