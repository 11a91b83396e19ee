// Where no two boundaries share an interface, each time is the largest of a few earlier ones plus a constant:
// microbatch by microbatch, no queue of events. Source of the idea: max-plus algebra of event graphs
// (Baccelli, Cohen, Olsder, Quadrat, "Synchronization and Linearity", 1992).
#include <algorithm>

#include "simulation/sim_record.hpp"

namespace native_sched {
namespace {

// The last `depth` values of every boundary; a slot that was never used is free from the start.
class Ring {
 public:
  Ring(std::size_t boundaries, i64 depth)
      : depth_(static_cast<std::size_t>(depth)), width_(boundaries), values_(depth_ * boundaries, -kNever) {}
  // The row of microbatch k, which until it is written holds that of k - depth.
  double* row(i64 k) { return values_.data() + (static_cast<std::size_t>(k) % depth_) * width_; }

 private:
  std::size_t depth_;
  std::size_t width_;
  std::vector<double> values_;
};

class Recurrence {
 public:
  explicit Recurrence(const PipelineSpec& spec)
      : spec_(spec),
        stages_(spec.compute_s.size()),
        record_(spec),
        sent_(stages_ + 1, std::min(spec.num_buffers_out, spec.num_microbatches)),
        released_(stages_ + 1, std::min(spec.num_buffers_in, spec.num_microbatches) + 1),
        published_(stages_ + 1, 0.0),
        last_sent_(stages_ + 1, 0.0) {}

  SimulationResult run() {
    for (i64 k = 0; k < spec_.num_microbatches; ++k) play(k);
    return record_.take();
  }

 private:
  void play(i64 k) {
    double* const sent = sent_.row(k);
    double* const released = released_.row(k);
    const double* const granted = released_.row(k + 1);  // of microbatch k - num_buffers_in
    const auto free_slot = [&](std::size_t b) { return spec_.local[b] != 0 ? released[b] : sent[b]; };
    published_[0] = std::max({ready_time(spec_, k), published_[0], free_slot(0)});
    record_.fed(k, published_[0]);
    for (std::size_t b = 0;; ++b) {
      double arrived = published_[b];
      if (spec_.local[b] == 0) {
        const double start = std::max({arrived, last_sent_[b], granted[b] + spec_.latency_s[b]});
        const double end = start + spec_.transfer_s[b];
        record_.sent(b, k, start, end);
        sent[b] = last_sent_[b] = end;
        arrived = end + spec_.latency_s[b];
      }
      if (b == stages_) {
        released[b] = arrived;
        record_.arrived(k, arrived);
        return;
      }
      const double free = published_[b + 1];
      const double start = std::max(arrived, free);
      const double end = start + compute_time(spec_, b, k);
      published_[b + 1] = released[b] = std::max(end, free_slot(b + 1));
      record_.computed(b, k, free, start, end, published_[b + 1]);
    }
  }

  const PipelineSpec& spec_;
  std::size_t stages_;
  Record record_;
  Ring sent_;                      // when a send buffer was free again
  Ring released_;                  // when a receive buffer was free again
  std::vector<double> published_;  // by the producer of each boundary
  std::vector<double> last_sent_;
};

}  // namespace

SimulationResult play_recurrence(const PipelineSpec& spec) { return Recurrence(spec).run(); }

}  // namespace native_sched
