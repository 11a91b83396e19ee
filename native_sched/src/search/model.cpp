#include "search/model.hpp"

#include <algorithm>
#include <map>
#include <numeric>

namespace native_sched {
namespace {

bool same_links(const Instance& instance, int u, int v) {
  if (instance.spec().links.model != LinkModel::kPairwise) {
    const auto& hosts = instance.spec().hosts;
    return hosts[static_cast<std::size_t>(u)].bandwidth_bytes_per_s ==
           hosts[static_cast<std::size_t>(v)].bandwidth_bytes_per_s;
  }
  const auto alike = [&](int a, int b, int c, int d) {
    return instance.bandwidth(a, b) == instance.bandwidth(c, d) &&
           instance.latency(a, b) == instance.latency(c, d);
  };
  if (!alike(u, v, v, u)) return false;
  for (int w = 0; w < instance.num_hosts(); ++w) {
    if (w != u && w != v && !(alike(u, w, v, w) && alike(w, u, w, v))) return false;
  }
  return true;
}

bool same_pins(const ProblemSpec& spec, int u, int v) {
  return std::ranges::all_of(spec.pins, [&](const PinSpec& pin) {
    return (std::ranges::find(pin.hosts, u) != pin.hosts.end()) ==
           (std::ranges::find(pin.hosts, v) != pin.hosts.end());
  });
}

bool alike(const Instance& instance, int u, int v) {
  const ProblemSpec& spec = instance.spec();
  const HostSpec& a = spec.hosts[static_cast<std::size_t>(u)];
  const HostSpec& b = spec.hosts[static_cast<std::size_t>(v)];
  if (spec.data_host && (*spec.data_host == u || *spec.data_host == v)) return false;
  return a.kind == b.kind && a.memory_bytes == b.memory_bytes && same_links(instance, u, v) &&
         same_pins(spec, u, v);
}

}  // namespace

bool Rows::slide() const {
  int furthest = 0;
  for (int i = 0; i + 1 < static_cast<int>(begin.size()); ++i) {
    if (empty(i)) continue;
    const auto first = static_cast<std::size_t>(begin[static_cast<std::size_t>(i)]);
    if (begin[static_cast<std::size_t>(i) + 1] != begin[static_cast<std::size_t>(i)] + 1) return false;
    if (runs[first].first != i + 1 || runs[first].stop < furthest) return false;
    furthest = runs[first].stop;
  }
  return true;
}

Model::Model(const Instance& instance) : instance_(&instance) {
  const ProblemSpec& spec = instance.spec();
  ordered_ = spec.host_order.has_value();
  medium_ = spec.links.model == LinkModel::kMedium;
  has_data_host_ = spec.data_host.has_value();
  most_period_ = instance.horizon_ps();
  most_latency_ = instance.horizon_ps();
  if (spec.period_limit_s)
    most_period_ = std::min(most_period_, to_ps(*spec.period_limit_s, "period_limit_s"));
  if (spec.latency_limit_s)
    most_latency_ = std::min(most_latency_, to_ps(*spec.latency_limit_s, "latency_limit_s"));
  find_cuts();
  find_classes();
  read_times();
  read_links();
  find_memory_rows();
}

void Model::find_cuts() {
  const ProblemSpec& spec = instance_->spec();
  const int units = instance_->num_units();
  std::vector<int> opened(at(units + 1));
  for (const RangeSpec& range : spec.together) {
    if (range.first == range.last) continue;
    ++opened[static_cast<std::size_t>(range.first + 1)];
    --opened[static_cast<std::size_t>(range.last + 1)];
  }
  int open = 0;
  for (int cut = 0; cut <= units; ++cut) {
    open += opened[at(cut)];
    if (open == 0 || cut == units) cut_of_.push_back(cut);
  }
}

void Model::find_classes() {
  const ProblemSpec& spec = instance_->spec();
  const auto excluded = [&](int host) {
    return std::ranges::find(spec.excluded_hosts, host) != spec.excluded_hosts.end();
  };
  std::vector<int> hosts(at(instance_->num_hosts()));
  std::iota(hosts.begin(), hosts.end(), 0);
  if (ordered_) hosts.assign(spec.host_order->begin(), spec.host_order->end());
  std::erase_if(hosts, excluded);
  for (const int host : hosts) {
    const auto same = std::ranges::find_if(classes_, [&](const HostClass& cls) {
      return !ordered_ && alike(*instance_, cls.hosts.front(), host);
    });
    if (same != classes_.end()) {
      same->hosts.push_back(host);
      continue;
    }
    const int kind = instance_->kind_of(host);
    const i64 memory = spec.hosts[at(host)].memory_bytes - spec.kinds[at(kind)].runtime_bytes;
    classes_.push_back({kind, {host}, memory, spec.data_host == host});
  }
  max_stages_ = std::min(last_cut(), static_cast<int>(hosts.size()));
  if (spec.max_hosts) max_stages_ = static_cast<int>(std::min<i64>(max_stages_, *spec.max_hosts));
  for (int c = 0; c < num_classes(); ++c) {
    counts_.push_back(std::min(max_stages_, static_cast<int>(classes_[at(c)].hosts.size())));
    if (classes_[at(c)].is_data_host) data_class_ = c;
  }
}

void Model::read_times() {
  const auto kinds = instance_->spec().kinds.size();
  for (std::size_t k = 0; k < kinds; ++k) {
    std::vector<i64> start;
    std::vector<i64> end;
    for (const int cut : cut_of_) {
      start.push_back(instance_->start_ps(static_cast<int>(k))[at(cut)]);
      end.push_back(instance_->end_ps(static_cast<int>(k))[at(cut)]);
    }
    const KindSpec& kind = instance_->spec().kinds[k];
    const auto coded = [&](const std::vector<double>& seconds) {
      std::vector<i64> costs(cut_of_.size(), 0);
      for (std::size_t c = 0; c < cut_of_.size() && !seconds.empty(); ++c)
        costs[c] = to_ps(seconds[at(cut_of_[c])], "");
      return costs;
    };
    decode_.push_back(coded(kind.decode_s));
    encode_.push_back(coded(kind.encode_s));
    end_ascends_.push_back(std::ranges::is_sorted(end));
    sorted_end_.push_back(end);
    if (!end_ascends_.back()) std::ranges::sort(sorted_end_.back());
    start_.push_back(std::move(start));
    end_.push_back(std::move(end));
  }
}

void Model::read_links() {
  std::vector<i64> bytes;
  for (const int cut : cut_of_) bytes.push_back(instance_->spec().cut_bytes[at(cut)]);
  std::vector<i64> distinct = bytes;
  std::ranges::sort(distinct);
  const auto repeats = std::ranges::unique(distinct);
  distinct.erase(repeats.begin(), repeats.end());
  for (const i64 value : bytes) {
    bytes_id_.push_back(static_cast<int>(std::ranges::lower_bound(distinct, value) - distinct.begin()));
  }
  std::map<double, int> rates;
  for (int u = 0; u < num_classes(); ++u) {
    for (int v = 0; v < num_classes(); ++v) {
      const int from = classes_[at(u)].hosts.front();
      const int to = u == v ? classes_[at(v)].hosts.back() : classes_[at(v)].hosts.front();
      // One host alone sends nothing to itself; its pair is never used, and the matrix says nothing of it.
      const double bandwidth = from == to ? kNoBandwidth : instance_->bandwidth(from, to);
      const auto [found, added] = rates.try_emplace(bandwidth, static_cast<int>(times_.size()));
      if (added) {
        std::vector<i64>& times = times_.emplace_back();
        for (const i64 value : distinct) times.push_back(transfer_ps(value, bandwidth));
      }
      rate_.push_back(found->second);
      latency_.push_back(instance_->latency(from, to));
    }
  }
  rates_by_host_ = instance_->spec().links.model == LinkModel::kHost;
  for (const HostClass& cls : classes_) {
    std::vector<i64>& own = own_times_.emplace_back();
    if (!rates_by_host_) continue;
    const double bandwidth = instance_->spec().hosts[at(cls.hosts.front())].bandwidth_bytes_per_s;
    for (const i64 value : distinct) own.push_back(transfer_ps(value, bandwidth));
  }
  for (const HostClass& cls : classes_) {
    const int data_host = has_data_host_ ? static_cast<int>(*instance_->spec().data_host) : cls.hosts.front();
    const int host = has_data_host_ ? cls.hosts.front() : data_host;
    input_.push_back(instance_->transfer(data_host, host, 0));
    output_.push_back(instance_->transfer(host, data_host, instance_->num_units()));
    input_latency_.push_back(instance_->latency(data_host, host));
    output_latency_.push_back(instance_->latency(host, data_host));
  }
}

void Model::find_memory_rows() {
  const ProblemSpec& spec = instance_->spec();
  const int groups = last_cut();
  for (int g = 0; g < groups; ++g) {
    i64 live = 0;
    for (int u = cut_of_[at(g)]; u < cut_of_[at(g + 1)]; ++u)
      live = std::max(live, spec.activation_bytes[at(u)]);
    activation_.push_back(live);
  }
  for (const KindSpec& kind : spec.kinds) {
    std::vector<i64>& weights = weight_.emplace_back();
    for (int g = 0; g < groups; ++g) {
      i64 weight = 0;
      for (int u = cut_of_[at(g)]; u < cut_of_[at(g + 1)]; ++u) {
        weight += spec.weight_bytes[at(u)] - (kind.saved_bytes.empty() ? 0 : kind.saved_bytes[at(u)]);
      }
      weights.push_back(weight);
    }
  }
  for (const int cut : cut_of_) {
    entry_.push_back(spec.entry_bytes[at(cut)]);
    exit_.push_back(spec.exit_bytes[at(cut)]);
  }
  uses_.resize(at(groups));
  for (const SharedWeight& shared : instance_->shared_weights()) {
    int previous = -1;
    for (const int unit : shared.units) {
      const auto group = static_cast<int>(std::ranges::upper_bound(cut_of_, unit) - cut_of_.begin()) - 1;
      if (group != previous) uses_[at(group)].push_back({previous, shared.num_bytes});
      previous = group;
    }
  }
  for (const HostClass& cls : classes_) {
    fits_always_.push_back(all_fits(cls));
    memory_rows_.push_back(scan_memory(cls));
  }
}

std::vector<int> Model::pin_stops(const HostClass& cls) const {
  const int cuts = num_cuts();
  std::vector<bool> forbidden(at(cuts));
  for (const PinSpec& pin : instance_->spec().pins) {
    if (std::ranges::find(pin.hosts, cls.hosts.front()) != pin.hosts.end()) continue;
    for (int g = 0; g < last_cut(); ++g) {
      if (cut_of_[at(g)] <= pin.last && cut_of_[at(g + 1)] > pin.first) forbidden[at(g)] = true;
    }
  }
  std::vector<int> stops(at(cuts), last_cut());
  for (int g = last_cut() - 1; g >= 0; --g) stops[at(g)] = forbidden[at(g)] ? g : stops[at(g + 1)];
  return stops;
}

bool Model::all_fits(const HostClass& cls) const {
  i64 most = *std::ranges::max_element(activation_) + *std::ranges::max_element(entry_) +
             *std::ranges::max_element(exit_);
  for (const i64 weight : weight_[at(cls.kind)]) most += weight;
  for (const SharedWeight& shared : instance_->shared_weights()) most += shared.num_bytes;
  return most <= cls.memory_bytes;
}

Rows Model::scan_memory(const HostClass& cls) const {
  const std::vector<int> stops = pin_stops(cls);
  const bool always = all_fits(cls);
  const std::vector<i64>& weights = weight_[at(cls.kind)];
  Rows rows;
  for (int i = 0; i < last_cut(); ++i) {
    rows.begin.push_back(static_cast<int>(rows.runs.size()));
    const int stop = stops[at(i)];
    if (always) {
      if (stop > i) rows.runs.push_back({i + 1, stop + 1});
      continue;
    }
    i64 weight = entry_[at(i)];
    i64 live = 0;
    bool open = false;
    for (int j = i + 1; j <= stop; ++j) {
      weight += weights[at(j - 1)];
      live = std::max(live, activation_[at(j - 1)]);
      for (const Use& use : uses_[at(j - 1)]) weight += use.previous < i ? use.num_bytes : 0;
      if (weight + live > cls.memory_bytes) break;
      const bool fits = weight + live + exit_[at(j)] <= cls.memory_bytes;
      if (fits && open) ++rows.runs.back().stop;
      if (fits && !open) rows.runs.push_back({j, j + 1});
      open = fits;
    }
  }
  rows.begin.push_back(static_cast<int>(rows.runs.size()));
  rows.begin.push_back(static_cast<int>(rows.runs.size()));
  return rows;
}

Rows Model::rows(int c, i64 period) const {
  const Rows& memory = memory_rows(c);
  const i64* start = start_ps(c);
  const i64* end = end_ps(c);
  Rows rows;
  rows.begin.reserve(memory.begin.size());
  rows.runs.reserve(memory.runs.size());
  const bool ascends = end_ascends_[at(host_class(c).kind)];
  int reach = 0;  // where `end` ascends: the first cut too far from here
  for (int i = 0; i < last_cut(); ++i) {
    rows.begin.push_back(static_cast<int>(rows.runs.size()));
    const i64 room = period - start[i];
    if (ascends) {
      while (reach < num_cuts() && end[reach] <= room) ++reach;
      while (reach > 0 && end[reach - 1] > room) --reach;
    }
    for (int r = memory.begin[at(i)]; r < memory.begin[at(i + 1)]; ++r) {
      const Run run = memory.runs[at(r)];
      if (ascends) {
        if (run.first < reach) rows.runs.push_back({run.first, std::min(run.stop, reach)});
        continue;
      }
      bool open = false;
      for (int j = run.first; j < run.stop; ++j) {
        const bool fits = end[j] <= room;
        if (fits && open) ++rows.runs.back().stop;
        if (fits && !open) rows.runs.push_back({j, j + 1});
        open = fits;
      }
    }
  }
  rows.begin.push_back(static_cast<int>(rows.runs.size()));
  rows.begin.push_back(static_cast<int>(rows.runs.size()));
  return rows;
}

i64 Model::next_candidate(i64 period) const {
  i64 next = instance_->horizon_ps();
  const auto consider = [&](const std::vector<i64>& ascending, i64 offset) {
    const auto above = std::ranges::upper_bound(ascending, period - offset);
    if (above != ascending.end()) next = std::min(next, *above + offset);
  };
  std::vector<bool> seen(start_.size());
  for (const HostClass& cls : classes_) {
    if (seen[at(cls.kind)]) continue;
    seen[at(cls.kind)] = true;
    const std::vector<i64>& ends = sorted_end_[at(cls.kind)];
    std::size_t above = 0;
    for (const i64 start : start_[at(cls.kind)]) {
      while (above < ends.size() && ends[above] + start <= period) ++above;
      while (above > 0 && ends[above - 1] + start > period) --above;
      if (above < ends.size()) next = std::min(next, ends[above] + start);
    }
  }
  for (const std::vector<i64>& times : times_) consider(times, 0);
  for (const i64 time : input_) next = time > period ? std::min(next, time) : next;
  for (const i64 time : output_) next = time > period ? std::min(next, time) : next;
  if (data_class_ < 0) return next;
  for (int c = 0; c < num_classes(); ++c) {
    for (int b = 0; b < num_classes(); ++b) {
      consider(times_[at(rate(data_class_, b))], input(c));
      consider(times_[at(rate(b, data_class_))], output(c));
    }
  }
  return next;
}

int Model::crossing_sizes(int from, int to, const Limits& limits) const {
  if (from == to && count(from) == 1) return 0;
  const std::vector<i64>& times = times_[at(rate(from, to))];
  return static_cast<int>(std::ranges::upper_bound(times, transfer_limit(from, to, limits)) - times.begin());
}

// The distinct times of `ends` (inputs, or results) that leave different rooms for what else the interface
// carries.
std::vector<i64> Model::shares(const std::vector<i64>& ends, bool sends, i64 period) const {
  std::vector<i64> distinct = ends;
  std::ranges::sort(distinct);
  const auto repeats = std::ranges::unique(distinct);
  distinct.erase(repeats.begin(), repeats.end());
  std::vector<i64> kept;
  std::vector<std::size_t> last_room;
  for (const i64 share : distinct) {
    if (share > period) break;
    std::vector<std::size_t> room;
    for (int c = 0; c < num_classes(); ++c) {
      const auto& times = times_[at(sends ? rate(data_class_, c) : rate(c, data_class_))];
      room.push_back(
          static_cast<std::size_t>(std::ranges::upper_bound(times, period - share) - times.begin()));
    }
    if (!kept.empty() && room == last_room) kept.pop_back();
    kept.push_back(share);
    last_room = std::move(room);
  }
  return kept;
}

std::vector<Limits> Model::splits(i64 period) const {
  std::vector<Limits> result;
  for (const i64 input : shares(input_, true, period)) {
    for (const i64 output : shares(output_, false, period)) {
      result.push_back({period, input, output, period - input, period - output});
    }
  }
  return result;
}

std::vector<AssignmentSpec> Model::assign(const std::vector<Step>& steps) const {
  std::vector<std::size_t> used(classes_.size());
  std::vector<AssignmentSpec> assignments;
  for (std::size_t s = 0; s < steps.size(); ++s) {
    const int end = s + 1 < steps.size() ? steps[s + 1].first_cut : last_cut();
    const int host = classes_[at(steps[s].cls)].hosts[used[at(steps[s].cls)]++];
    assignments.push_back({cut_of_[at(steps[s].first_cut)], cut_of_[at(end)] - 1, host});
  }
  return assignments;
}

}  // namespace native_sched
