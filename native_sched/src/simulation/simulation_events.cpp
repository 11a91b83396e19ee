// The general case: events in the order of time.
#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <queue>

#include "simulation/sharing.hpp"
#include "simulation/sim_record.hpp"

namespace native_sched {
namespace {

enum class EventKind : std::uint32_t { kReady, kComputed, kSent, kArrived, kGranted };

struct Event {
  double time;
  EventKind kind;
  std::uint32_t place;  // a stage or a boundary
  bool operator>(const Event& other) const {
    return time != other.time ? time > other.time
                              : std::pair(kind, place) > std::pair(other.kind, other.place);
  }
};

struct Boundary {
  i64 free_out = 0;  // buffers that its producer may fill
  i64 granted = 0;   // receive buffers that its sender knows to be free
  i64 waiting = 0;   // published, not yet under way
  i64 filled = 0;    // arrived, not yet taken
  i64 num_sent = 0;
  bool busy = false;
  double start_s = 0.0;
  std::size_t shared = 0;  // 1 + which, 0 for none
  std::size_t member = 0;
};

struct Stage {
  enum class State { kIdle, kComputing, kBlocked } state = State::kIdle;
  i64 microbatch = 0;
  double free_s = 0.0;
  double start_s = 0.0;
  double end_s = 0.0;
};

constexpr std::size_t kNoLane = static_cast<std::size_t>(-1);
constexpr std::size_t kMostLanes = 8;

// Events that come after one and the same delay are in order as they are made; a heap would sort them for
// nothing.
struct Lane {
  double delay;
  std::deque<Event> events;
};

class Events {
 public:
  explicit Events(const PipelineSpec& spec)
      : spec_(spec), stages_(spec.compute_s.size()), boundaries_(stages_.size() + 1), record_(spec) {
    for (std::size_t b = 0; b < boundaries_.size(); ++b) {
      const bool local = spec.local[b] != 0;
      boundaries_[b].free_out = local ? spec.num_buffers_in + 1 : spec.num_buffers_out;
      boundaries_[b].granted = spec.num_buffers_in;
    }
    find_lanes();
    for (std::size_t r = 0; r < spec.shared.size(); ++r) {
      sharing_.emplace_back(spec.shared[r]);
      for (std::size_t member = 0; member < spec.shared[r].boundaries.size(); ++member) {
        Boundary& boundary = boundaries_[static_cast<std::size_t>(spec.shared[r].boundaries[member])];
        boundary.shared = r + 1;
        boundary.member = member;
      }
    }
  }

  SimulationResult run() {
    feed();
    while (num_results_ < spec_.num_microbatches) step();
    return record_.take();
  }

 private:
  void find_lanes() {
    lane_of_.resize(boundaries_.size(), kNoLane);
    for (std::size_t b = 0; b < boundaries_.size(); ++b) {
      const auto same = std::ranges::find(lanes_, spec_.latency_s[b], &Lane::delay);
      if (same == lanes_.end() && lanes_.size() == kMostLanes) continue;
      lane_of_[b] = static_cast<std::size_t>(same - lanes_.begin());
      if (same == lanes_.end()) lanes_.push_back({spec_.latency_s[b], {}});
    }
  }

  // The earliest event of the heap and the lanes, taken out if it comes before `limit`.
  std::optional<Event> take_before(double limit) {
    Lane* lane = nullptr;
    const Event* first = queue_.empty() ? nullptr : &queue_.top();
    for (Lane& other : lanes_) {
      if (other.events.empty() || (first != nullptr && !(*first > other.events.front()))) continue;
      lane = &other;
      first = &other.events.front();
    }
    if (first == nullptr || first->time > limit) return std::nullopt;
    const Event event = *first;
    if (lane != nullptr) {
      lane->events.pop_front();
    } else {
      queue_.pop();
    }
    return event;
  }

  void step() {
    const auto earliest = std::ranges::min_element(sharing_, {}, &Sharing::next);
    const double limit = earliest == sharing_.end() ? kNever : earliest->next();
    const std::optional<Event> taken = take_before(limit);
    if (!taken) {
      now_ = limit;
      const SharedSpec& shared = spec_.shared[static_cast<std::size_t>(earliest - sharing_.begin())];
      return sent(static_cast<std::size_t>(shared.boundaries[earliest->finish()]));
    }
    const Event event = *taken;
    now_ = event.time;
    switch (event.kind) {
      case EventKind::kReady:
        return feed();
      case EventKind::kComputed:
        return computed(event.place);
      case EventKind::kSent:
        return sent(event.place);
      case EventKind::kArrived:
        return arrived(event.place);
      case EventKind::kGranted:
        return granted(event.place);
    }
  }

  void at(double delay, EventKind kind, std::size_t place) {
    queue_.push({now_ + delay, kind, static_cast<std::uint32_t>(place)});
  }

  void after_latency(EventKind kind, std::size_t b) {
    const double latency = spec_.latency_s[b];
    if (lane_of_[b] == kNoLane) return at(latency, kind, b);
    lanes_[lane_of_[b]].events.push_back({now_ + latency, kind, static_cast<std::uint32_t>(b)});
  }

  // Fills what buffers are free with the microbatches that are there.
  void feed() {
    while (num_fed_ < spec_.num_microbatches && boundaries_[0].free_out > 0) {
      const double ready = ready_time(spec_, num_fed_);
      if (ready > now_) {
        if (announced_ != num_fed_) queue_.push({ready, EventKind::kReady, 0});
        announced_ = num_fed_;
        return;
      }
      record_.fed(num_fed_++, now_);
      publish(0);
    }
  }

  void publish(std::size_t b) {
    Boundary& boundary = boundaries_[b];
    --boundary.free_out;
    if (spec_.local[b] != 0) return arrived(b);
    ++boundary.waiting;
    try_send(b);
  }

  void try_send(std::size_t b) {
    Boundary& boundary = boundaries_[b];
    if (boundary.busy || boundary.waiting == 0 || boundary.granted == 0) return;
    boundary.busy = true;
    --boundary.waiting;
    --boundary.granted;
    boundary.start_s = now_;
    if (boundary.shared == 0) return at(spec_.transfer_s[b], EventKind::kSent, b);
    sharing_[boundary.shared - 1].start(now_, boundary.member, spec_.transfer_s[b]);
  }

  void sent(std::size_t b) {
    Boundary& boundary = boundaries_[b];
    record_.sent(b, boundary.num_sent++, boundary.start_s, now_);
    boundary.busy = false;
    ++boundary.free_out;
    after_latency(EventKind::kArrived, b);
    try_send(b);
    out_is_free(b);
  }

  void arrived(std::size_t b) {
    if (b == stages_.size()) {
      record_.arrived(num_results_++, now_);
      return release(b);
    }
    ++boundaries_[b].filled;
    try_compute(b);
  }

  void granted(std::size_t b) {
    ++boundaries_[b].granted;
    try_send(b);
  }

  // A buffer at the receiving end is free again.
  void release(std::size_t b) {
    if (spec_.local[b] == 0) return after_latency(EventKind::kGranted, b);
    ++boundaries_[b].free_out;
    out_is_free(b);
  }

  void out_is_free(std::size_t b) {
    if (b == 0) return feed();
    try_publish(b - 1);
  }

  void try_compute(std::size_t s) {
    Stage& stage = stages_[s];
    if (stage.state != Stage::State::kIdle || boundaries_[s].filled == 0) return;
    --boundaries_[s].filled;
    stage.state = Stage::State::kComputing;
    stage.start_s = now_;
    at(compute_time(spec_, s, stage.microbatch), EventKind::kComputed, s);
  }

  void computed(std::size_t s) {
    stages_[s].state = Stage::State::kBlocked;
    stages_[s].end_s = now_;
    try_publish(s);
  }

  void try_publish(std::size_t s) {
    Stage& stage = stages_[s];
    if (stage.state != Stage::State::kBlocked || boundaries_[s + 1].free_out == 0) return;
    record_.computed(s, stage.microbatch++, stage.free_s, stage.start_s, stage.end_s, now_);
    stage.state = Stage::State::kIdle;
    stage.free_s = now_;
    publish(s + 1);
    release(s);
    try_compute(s);
  }

  const PipelineSpec& spec_;
  std::vector<Stage> stages_;
  std::vector<Boundary> boundaries_;
  std::vector<Sharing> sharing_;
  std::vector<Lane> lanes_;
  std::vector<std::size_t> lane_of_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> queue_;
  Record record_;
  double now_ = 0.0;
  i64 num_fed_ = 0;
  i64 num_results_ = 0;
  i64 announced_ = -1;
};

}  // namespace

SimulationResult play_events(const PipelineSpec& spec) { return Events(spec).run(); }

}  // namespace native_sched
