// A checked problem in integers: picoseconds and bytes. Costs any assignment of stages to hosts; every plan
// that the solver returns is costed here once more, apart from the search.
#pragma once

#include <utility>
#include <vector>

#include "native_sched/spec.hpp"

namespace native_sched {

// Sums of times and of bytes stay below this, so that no addition of two of them can overflow.
inline constexpr i64 kLimit = i64{1} << 59;

// ceil(num_bytes * 10^12 / bytes_per_s), exact for every double; kLimit where it is larger than that.
i64 transfer_ps(i64 num_bytes, double bytes_per_s);

struct SharedWeight {
  std::vector<int> units;  // ascending, no repeats
  i64 num_bytes = 0;
};

class Instance {
 public:
  // Raises std::invalid_argument, naming field and index, for anything that no cluster can be.
  explicit Instance(const ProblemSpec& spec);

  [[nodiscard]] const ProblemSpec& spec() const { return spec_; }
  [[nodiscard]] int num_units() const { return num_units_; }
  [[nodiscard]] int num_hosts() const { return num_hosts_; }
  [[nodiscard]] int kind_of(int host) const { return static_cast<int>(spec_.hosts[at(host)].kind); }

  // A stage's time is start_ps[i] + end_ps[j]: decode and encode with prefix sums of the unit times folded
  // in.
  [[nodiscard]] const std::vector<i64>& start_ps(int kind) const { return start_ps_[at(kind)]; }
  [[nodiscard]] const std::vector<i64>& end_ps(int kind) const { return end_ps_[at(kind)]; }

  [[nodiscard]] double bandwidth(int from, int to) const;
  [[nodiscard]] i64 transfer(int from, int to, int cut) const;
  [[nodiscard]] i64 latency(int from, int to) const;
  [[nodiscard]] i64 stage_memory(int kind, int first_cut, int last_cut) const;
  [[nodiscard]] const std::vector<SharedWeight>& shared_weights() const { return shared_weights_; }

  // Raises std::invalid_argument for gaps, overlaps, stages beyond the last unit and hosts used twice.
  [[nodiscard]] PlanCost cost(const std::vector<AssignmentSpec>& assignments) const;

  // A time no plan of this problem exceeds.
  [[nodiscard]] i64 horizon_ps() const { return horizon_ps_; }
  // A period that no plan can be below.
  [[nodiscard]] i64 trivial_period_ps() const { return trivial_period_ps_; }

 private:
  static std::size_t at(int index) { return static_cast<std::size_t>(index); }
  void check_sizes() const;
  void read_kinds();
  void read_hosts() const;
  void read_links() const;
  void read_bytes();
  void read_constraints() const;
  void bound_times();
  void bound_period();
  [[nodiscard]] std::pair<double, i64> slowest_link() const;
  void check_chain(const std::vector<AssignmentSpec>& assignments) const;
  void find_period(PlanCost& plan, i64 input_ps, i64 output_ps) const;

  ProblemSpec spec_;
  int num_units_ = 0;
  int num_hosts_ = 0;
  std::vector<std::vector<i64>> start_ps_, end_ps_;
  std::vector<std::vector<i64>> latency_ps_;  // kPairwise
  i64 common_latency_ps_ = 0;
  std::vector<SharedWeight> shared_weights_;
  i64 horizon_ps_ = 0;
  i64 trivial_period_ps_ = 0;
};

// Seconds as picoseconds, rounded half to even. Raises std::invalid_argument naming `field`.
i64 to_ps(double seconds, const std::string& field);

}  // namespace native_sched
