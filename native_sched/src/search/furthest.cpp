#include "search/furthest.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>

namespace native_sched {
namespace {

// The last two lanes of a table are no sizes: one is always 0, the start; one is the end of the chain, where
// reached.
constexpr int kSpareLanes = 2;
constexpr int kMostLanes = 16 - kSpareLanes;

template <typename Cut, int kLanes>
void raise(std::array<Cut, kLanes>& best, const Cut* other) {
  for (int k = 0; k < kLanes; ++k)
    best[static_cast<std::size_t>(k)] = std::max(best[static_cast<std::size_t>(k)], other[k]);
}

// Does `cost` never fall as the cuts in `order` get larger, and is it equal where they are equal?
template <typename Cost>
bool rises(const std::vector<int>& order, const std::vector<int>& size, Cost cost) {
  for (std::size_t k = 1; k < order.size(); ++k) {
    const auto a = order[k - 1];
    const auto b = order[k];
    if (cost(a) > cost(b)) return false;
    if (size[static_cast<std::size_t>(a)] == size[static_cast<std::size_t>(b)] && cost(a) != cost(b))
      return false;
  }
  return true;
}

}  // namespace

std::optional<Furthest> Furthest::build(const Model& model, i64 budget) {
  if (model.ordered() || !model.rates_by_host()) return std::nullopt;
  Furthest search(model);
  i64 total = 1;
  for (int c = 0; c < model.num_classes(); ++c) {
    search.stride_.push_back(static_cast<int>(total));
    total *= model.count(c) + 1;
    if (total > std::min<i64>(budget, i64{1} << 23)) return std::nullopt;
  }
  search.total_ = static_cast<int>(total);
  if (!search.rank_cuts()) return std::nullopt;
  return search;
}

bool Furthest::rank_cuts() {
  const Model& model = *model_;
  std::vector<int> order(at(std::max(model.last_cut() - 1, 0)));
  std::iota(order.begin(), order.end(), 1);
  std::ranges::stable_sort(order, {}, [&](int cut) { return model.bytes_id(cut); });
  size_.assign(at(model.num_cuts()), 0);
  num_sizes_ = 0;
  for (std::size_t k = 0; k < order.size(); ++k) {
    if (k > 0 && model.bytes_id(order[k]) != model.bytes_id(order[k - 1])) ++num_sizes_;
    size_[at(order[k])] = num_sizes_;
  }
  ++num_sizes_;
  starts_alike_ = true;
  for (int c = 0; c < model.num_classes(); ++c) {
    const auto decode = [&](int cut) { return model.decode_ps(c, cut); };
    const auto encode = [&](int cut) { return model.encode_ps(c, cut); };
    if (!rises(order, size_, decode) || !rises(order, size_, encode)) return false;
    for (const int cut : order) starts_alike_ = starts_alike_ && decode(cut) == decode(order.front());
    if (model.fits_always(c)) continue;
    const auto entry = [&](int cut) { return model.entry_bytes(cut); };
    if (!rises(order, size_, entry)) return false;
    if (!rises(order, size_, [&](int cut) { return model.exit_bytes(cut); })) return false;
    for (const int cut : order) starts_alike_ = starts_alike_ && entry(cut) == entry(order.front());
  }
  return starts_alike_ || num_sizes_ <= kMostLanes;
}

// Where a stage's cost does not depend on the cut it starts at, only what the classes can carry tells sizes
// apart.
void Furthest::choose_lanes(i64 period) {
  const Model& model = *model_;
  const int cuts = model.num_cuts();
  limit_.assign(at(model.num_classes()), -1);
  for (int cut = 1; cut < cuts - 1; ++cut) {
    for (int c = 0; c < model.num_classes(); ++c) {
      if (size_[at(cut)] > limit_[at(c)] && model.own_transfer(c, cut) <= period)
        limit_[at(c)] = size_[at(cut)];
    }
  }
  if (starts_alike_) {
    lanes_ = limit_;
    std::ranges::sort(lanes_);
    const auto repeats = std::ranges::unique(lanes_);
    lanes_.erase(repeats.begin(), repeats.end());
    std::erase(lanes_, -1);
  } else {
    lanes_.resize(at(num_sizes_));
    std::iota(lanes_.begin(), lanes_.end(), 0);
  }
  start_lane_.clear();
  for (const int limit : limit_) {
    start_lane_.push_back(static_cast<int>(std::ranges::upper_bound(lanes_, limit) - lanes_.begin()) - 1);
  }
  before_.assign(lanes_.size(), std::vector<int>(at(cuts), 0));
  for (std::size_t lane = 0; lane < lanes_.size(); ++lane) {
    for (int cut = 1; cut < cuts; ++cut) {
      const bool within = cut < cuts - 1 && size_[at(cut)] <= lanes_[lane];
      before_[lane][at(cut)] = within ? cut : before_[lane][at(cut - 1)];
    }
  }
}

// The lanes a stage of this class may start from: of the cuts it can receive the furthest, where their size
// matters no further; else all. A class that can receive none starts the chain or has no stage.
template <int kLanes>
std::pair<int, int> Furthest::start_lanes(int cls) const {
  const int top = start_lane_[at(cls)];
  if (top < 0) return {kLanes - kSpareLanes, kLanes - kSpareLanes};
  return {starts_alike_ ? top : 0, top};
}

// The next combination of used hosts; by how many hosts it has more.
int Furthest::count_up(std::vector<int>& digits) const {
  int more = 1;
  std::size_t c = 0;
  for (; digits[c] == model_->count(static_cast<int>(c)); ++c) {
    more -= digits[c];
    digits[c] = 0;
  }
  ++digits[c];
  return more;
}

template <typename Cut, int kLanes>
void Furthest::fill_rows(int cls, const Rows& ends, i64 period, std::vector<Cut>& table) {
  const Model& model = *model_;
  const int cuts = model.num_cuts();
  table.assign(at(cuts) * kLanes, 0);
  const int most_lane = start_lane_[at(cls)];  // what a class can receive it can send, and no more
  for (int p = model.input(cls) <= period ? 0 : 1; p < cuts - 1; ++p) {
    const int first_run = ends.begin[at(p)];
    const int stop_run = ends.begin[at(p + 1)];
    if (first_run == stop_run) continue;
    const bool whole = ends.runs[at(stop_run - 1)].stop == cuts && model.output(cls) <= period;
    if (whole) table[at(p) * kLanes + kLanes - 1] = static_cast<Cut>(cuts - 1);
    for (int lane = 0; lane < static_cast<int>(lanes_.size()); ++lane) {
      const int within = std::min(lane, most_lane);
      if (within < 0) break;
      for (int r = stop_run - 1; r >= first_run; --r) {
        const int reach = before_[at(within)][at(ends.runs[at(r)].stop - 1)];
        if (reach < ends.runs[at(r)].first) continue;
        table[at(p) * kLanes + at(lane)] = static_cast<Cut>(reach);
        break;
      }
    }
  }
}

template <typename Cut, int kLanes>
std::optional<Steps> Furthest::run(i64 period) {
  const Model& model = *model_;
  const int classes = model.num_classes();
  std::vector<std::vector<Cut>> rows(at(classes));
  for (int c = 0; c < classes; ++c) fill_rows<Cut, kLanes>(c, model.rows(c, period), period, rows[at(c)]);
  std::vector<Cut> far(at(total_) * kLanes, 0);
  std::vector<int> digits(at(classes), 0);
  int stages = 0;
  furthest_ = 0;
  for (int counts = 1; counts < total_; ++counts) {
    stages += count_up(digits);
    if (stages > model.max_stages()) continue;
    std::array<Cut, kLanes> best{};
    for (int c = 0; c < classes; ++c) {
      if (digits[at(c)] == 0) continue;
      const Cut* before = far.data() + at(counts - stride_[at(c)]) * kLanes;
      const auto [low, high] = start_lanes<kLanes>(c);
      raise<Cut, kLanes>(best, before);
      for (int lane = low; lane <= high; ++lane)
        raise<Cut, kLanes>(best, rows[at(c)].data() + at(before[lane]) * kLanes);
    }
    std::ranges::copy(best, far.begin() + std::ptrdiff_t{counts} * kLanes);
    if (best[kLanes - 1] != 0) return trace<Cut, kLanes>(counts, far, rows);
    furthest_ = std::max(furthest_, static_cast<int>(*std::ranges::max_element(best)));
  }
  return std::nullopt;
}

template <typename Cut, int kLanes>
Steps Furthest::trace(int counts, const std::vector<Cut>& far, const std::vector<std::vector<Cut>>& rows) {
  furthest_ = model_->last_cut();
  Steps steps;
  const auto holds = [](const Cut* lanes, int cut) {
    return std::find(lanes, lanes + kLanes, static_cast<Cut>(cut)) != lanes + kLanes;
  };
  // A host that changes nothing is dropped without a stage; one that does is found by what it adds.
  const auto step_to = [&](int cut) {
    for (int c = 0; c < model_->num_classes(); ++c) {
      if (used(counts, c) && holds(far.data() + at(counts - stride_[at(c)]) * kLanes, cut))
        return Model::Step{c, -1};
    }
    for (int c = 0; c < model_->num_classes(); ++c) {
      if (!used(counts, c)) continue;
      const Cut* before = far.data() + at(counts - stride_[at(c)]) * kLanes;
      const auto [low, high] = start_lanes<kLanes>(c);
      for (int lane = low; lane <= high; ++lane) {
        if (holds(rows[at(c)].data() + at(before[lane]) * kLanes, cut)) return Model::Step{c, before[lane]};
      }
    }
    throw std::logic_error("a furthest cut that nothing reaches");
  };
  for (int cut = model_->last_cut(); cut > 0;) {
    const Model::Step step = step_to(cut);
    counts -= stride_[at(step.cls)];
    if (step.first_cut < 0) continue;
    steps.push_back(step);
    cut = step.first_cut;
  }
  std::ranges::reverse(steps);
  return steps;
}

std::optional<Steps> Furthest::probe(i64 period) {
  choose_lanes(period);
  const bool narrow = model_->num_cuts() < 32767;
  if (lanes_.size() <= 8 - kSpareLanes)
    return narrow ? run<std::int16_t, 8>(period) : run<std::int32_t, 8>(period);
  return narrow ? run<std::int16_t, 16>(period) : run<std::int32_t, 16>(period);
}

}  // namespace native_sched
