#include "native_sched/instance.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace native_sched {
namespace {

__extension__ using u128 = unsigned __int128;

constexpr i64 kMostBytes = i64{1} << 62;
constexpr std::size_t kMostUnits = 1'000'000;
constexpr std::size_t kMostHosts = 4096;

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

std::string item(const std::string& field, std::size_t index) { return field + "[" + std::to_string(index) + "]"; }

void check_length(const std::string& field, std::size_t have, std::size_t want) {
  if (have != want) fail(field + " has " + std::to_string(have) + " entries: it must have " + std::to_string(want));
}

void check_bytes(const std::string& field, i64 value) {
  if (value < 0) fail(field + " is " + std::to_string(value) + ": bytes cannot be negative");
  if (value > kMostBytes) fail(field + " is " + std::to_string(value) + ": more than 2^62 bytes");
}

void check_all_bytes(const std::string& field, const std::vector<i64>& values) {
  for (std::size_t k = 0; k < values.size(); ++k) {
    if (values[k] < 0 || values[k] > kMostBytes) check_bytes(item(field, k), values[k]);
  }
}

void check_rate(const std::string& field, double value) {
  if (!std::isfinite(value) || value <= 0.0) {
    fail(field + " is " + std::to_string(value) + ": a bandwidth must be a finite number above 0");
  }
}

void check_index(const std::string& field, i64 value, int count) {
  if (value < 0 || value >= count) {
    fail(field + " is " + std::to_string(value) + ": it must be from 0 to " + std::to_string(count - 1));
  }
}

i64 sum_bytes(const std::string& field, const std::vector<i64>& values, i64 total) {
  for (std::size_t k = 0; k < values.size(); ++k) {
    total += values[k];
    if (total > kMostBytes) fail(item(field, k) + ": all bytes together are more than 2^62");
  }
  return total;
}

i64 largest(const std::vector<i64>& values) { return values.empty() ? 0 : *std::ranges::max_element(values); }

i64 add_time(const std::string& field, i64 total, i64 more) {
  if (more > kLimit - total) fail(field + ": times add up to more than 2^59 picoseconds (6 days)");
  return total + more;
}

std::vector<i64> all_ps(const std::string& field, const std::vector<double>& seconds) {
  std::vector<i64> result(seconds.size());
  for (std::size_t k = 0; k < seconds.size(); ++k) {
    const double ps = seconds[k] * 1e12;
    // The field's name is put together for the error alone: this runs once a unit and kind.
    if (!(ps >= 0.0 && ps < 0x1p59)) (void)to_ps(seconds[k], item(field, k));
    result[k] = static_cast<i64>(std::nearbyint(ps));
  }
  return result;
}

}  // namespace

i64 to_ps(double seconds, const std::string& field) {
  if (!std::isfinite(seconds)) fail(field + " is " + std::to_string(seconds) + ": it must be a finite number");
  if (seconds < 0.0) fail(field + " is " + std::to_string(seconds) + ": a time cannot be negative");
  const double ps = seconds * 1e12;
  if (!(ps < 0x1p59)) fail(field + " is " + std::to_string(seconds) + " s: more than 2^59 picoseconds (6 days)");
  return static_cast<i64>(std::nearbyint(ps));
}

i64 transfer_ps(i64 num_bytes, double bytes_per_s) {
  if (num_bytes == 0 || std::isinf(bytes_per_s)) return 0;
  int exponent = 0;
  auto mantissa = static_cast<std::uint64_t>(std::ldexp(std::frexp(bytes_per_s, &exponent), 53));
  exponent -= 53;
  while (exponent < 0 && (mantissa & 1U) == 0) {
    mantissa >>= 1;
    ++exponent;
  }
  const u128 scaled = static_cast<u128>(num_bytes) * 1'000'000'000'000U;
  if (exponent >= 64) return 1;
  if (exponent >= 0) {
    const u128 divisor = static_cast<u128>(mantissa) << exponent;
    const u128 quotient = (scaled + divisor - 1) / divisor;
    return quotient >= static_cast<u128>(kLimit) ? kLimit : static_cast<i64>(quotient);
  }
  u128 quotient = scaled / mantissa;
  u128 rest = scaled % mantissa;
  for (int shift = -exponent; shift > 0;) {
    const int step = std::min(shift, 60);
    if (quotient > (static_cast<u128>(kLimit) >> step)) return kLimit;
    rest <<= step;
    quotient = (quotient << step) + rest / mantissa;
    rest %= mantissa;
    shift -= step;
  }
  if (rest != 0) ++quotient;
  return quotient >= static_cast<u128>(kLimit) ? kLimit : static_cast<i64>(quotient);
}

Instance::Instance(const ProblemSpec& spec) : spec_(spec) {
  check_sizes();
  read_bytes();
  read_kinds();
  read_hosts();
  read_links();
  if (spec_.links.model == LinkModel::kPairwise) {
    for (std::size_t u = 0; u < spec_.hosts.size(); ++u) {
      latency_ps_.push_back(all_ps(item("links.latency_s", u), spec_.links.latency[u]));
    }
  } else {
    common_latency_ps_ = to_ps(spec_.links.latency_s, "links.latency_s");
  }
  read_constraints();
  bound_times();
}

void Instance::check_sizes() const {
  if (spec_.kinds.empty()) fail("kinds is empty: a problem has one kind at least");
  if (spec_.hosts.empty()) fail("hosts is empty: a problem has one host at least");
  if (spec_.hosts.size() > kMostHosts) fail("hosts has more than 4096 entries");
  const std::size_t units = spec_.weight_bytes.size();
  if (units == 0) fail("weight_bytes is empty: a problem has one unit at least");
  if (units > kMostUnits) fail("weight_bytes has more than 1000000 entries");
  check_length("activation_bytes", spec_.activation_bytes.size(), units);
  check_length("cut_bytes", spec_.cut_bytes.size(), units + 1);
  check_length("entry_bytes", spec_.entry_bytes.size(), units + 1);
  check_length("exit_bytes", spec_.exit_bytes.size(), units + 1);
  for (std::size_t k = 0; k < spec_.kinds.size(); ++k) {
    const KindSpec& kind = spec_.kinds[k];
    check_length(item("kinds", k) + ".unit_s", kind.unit_s.size(), units);
    if (!kind.encode_s.empty()) check_length(item("kinds", k) + ".encode_s", kind.encode_s.size(), units + 1);
    if (!kind.decode_s.empty()) check_length(item("kinds", k) + ".decode_s", kind.decode_s.size(), units + 1);
  }
}

void Instance::read_kinds() {
  num_hosts_ = static_cast<int>(spec_.hosts.size());
  for (std::size_t k = 0; k < spec_.kinds.size(); ++k) {
    const KindSpec& kind = spec_.kinds[k];
    const std::string name = item("kinds", k);
    check_bytes(name + ".runtime_bytes", kind.runtime_bytes);
    const std::vector<i64> units = all_ps(name + ".unit_s", kind.unit_s);
    std::vector<i64> encode = all_ps(name + ".encode_s", kind.encode_s);
    std::vector<i64> decode = all_ps(name + ".decode_s", kind.decode_s);
    encode.resize(units.size() + 1);
    decode.resize(units.size() + 1);
    i64 total = 0;
    for (std::size_t u = 0; u <= units.size(); ++u) {
      encode[u] += total;
      decode[u] -= total;
      if (u < units.size()) total = add_time(name + ".unit_s", total, units[u]);
    }
    start_ps_.push_back(std::move(decode));
    end_ps_.push_back(std::move(encode));
  }
}

void Instance::read_hosts() const {
  for (std::size_t h = 0; h < spec_.hosts.size(); ++h) {
    const HostSpec& host = spec_.hosts[h];
    const std::string name = item("hosts", h);
    check_index(name + ".kind", host.kind, static_cast<int>(spec_.kinds.size()));
    check_bytes(name + ".memory_bytes", host.memory_bytes);
    const bool unlimited = std::isinf(host.bandwidth_bytes_per_s) && host.bandwidth_bytes_per_s > 0;
    if (unlimited && spec_.links.model != LinkModel::kHost) continue;
    check_rate(name + ".bandwidth_bytes_per_s", host.bandwidth_bytes_per_s);
  }
}

void Instance::read_links() const {
  const LinksSpec& links = spec_.links;
  if (links.model == LinkModel::kMedium) check_rate("links.bandwidth_bytes_per_s", links.medium_bytes_per_s);
  if (links.model != LinkModel::kPairwise) return;
  const std::size_t hosts = spec_.hosts.size();
  check_length("links.bandwidth_bytes_per_s", links.bandwidth.size(), hosts);
  check_length("links.latency_s", links.latency.size(), hosts);
  for (std::size_t u = 0; u < hosts; ++u) {
    check_length(item("links.bandwidth_bytes_per_s", u), links.bandwidth[u].size(), hosts);
    check_length(item("links.latency_s", u), links.latency[u].size(), hosts);
    for (std::size_t v = 0; v < hosts; ++v) {
      if (u != v) check_rate(item(item("links.bandwidth_bytes_per_s", u), v), links.bandwidth[u][v]);
    }
  }
}

void Instance::read_bytes() {
  num_units_ = static_cast<int>(spec_.weight_bytes.size());
  check_all_bytes("cut_bytes", spec_.cut_bytes);
  check_all_bytes("weight_bytes", spec_.weight_bytes);
  check_all_bytes("activation_bytes", spec_.activation_bytes);
  check_all_bytes("entry_bytes", spec_.entry_bytes);
  check_all_bytes("exit_bytes", spec_.exit_bytes);
  i64 total = sum_bytes("weight_bytes", spec_.weight_bytes, 0);
  for (std::size_t w = 0; w < spec_.shared_weights.size(); ++w) {
    const SharedWeightSpec& shared = spec_.shared_weights[w];
    const std::string name = item("shared_weights", w);
    check_bytes(name + ".num_bytes", shared.num_bytes);
    if (shared.units.empty()) fail(name + ".units is empty: name the units that use this weight");
    SharedWeight weight{{}, shared.num_bytes};
    for (std::size_t k = 0; k < shared.units.size(); ++k) {
      check_index(item(name + ".units", k), shared.units[k], num_units_);
      weight.units.push_back(static_cast<int>(shared.units[k]));
    }
    std::ranges::sort(weight.units);
    const auto repeats = std::ranges::unique(weight.units);
    weight.units.erase(repeats.begin(), repeats.end());
    total = sum_bytes(name + ".num_bytes", {shared.num_bytes}, total);
    shared_weights_.push_back(std::move(weight));
  }
  total = sum_bytes("activation_bytes (largest)", {largest(spec_.activation_bytes)}, total);
  total = sum_bytes("entry_bytes (largest)", {largest(spec_.entry_bytes)}, total);
  total = sum_bytes("exit_bytes (largest)", {largest(spec_.exit_bytes)}, total);
  for (const KindSpec& kind : spec_.kinds) {
    if (kind.runtime_bytes >= 0) (void)sum_bytes("kinds.runtime_bytes", {std::min(kind.runtime_bytes, kMostBytes)}, total);
  }
}

void Instance::read_constraints() const {
  const int hosts = num_hosts_;
  if (spec_.data_host) check_index("data_host", *spec_.data_host, hosts);
  for (std::size_t p = 0; p < spec_.pins.size(); ++p) {
    const PinSpec& pin = spec_.pins[p];
    const std::string name = item("pins", p);
    check_index(name + ".units[0]", pin.first, num_units_);
    check_index(name + ".units[1]", pin.last, num_units_);
    if (pin.first > pin.last) fail(name + ".units: the first unit comes after the last");
    if (pin.hosts.empty()) fail(name + ".hosts is empty: name one host at least");
    for (std::size_t k = 0; k < pin.hosts.size(); ++k) check_index(item(name + ".hosts", k), pin.hosts[k], hosts);
  }
  for (std::size_t t = 0; t < spec_.together.size(); ++t) {
    const std::string name = item("together", t);
    check_index(name + "[0]", spec_.together[t].first, num_units_);
    check_index(name + "[1]", spec_.together[t].last, num_units_);
    if (spec_.together[t].first > spec_.together[t].last) fail(name + ": the first unit comes after the last");
  }
  for (std::size_t k = 0; k < spec_.excluded_hosts.size(); ++k) {
    check_index(item("excluded_hosts", k), spec_.excluded_hosts[k], hosts);
  }
  if (spec_.host_order) {
    if (spec_.host_order->empty()) fail("host_order is empty: name one host at least");
    std::vector<bool> seen(static_cast<std::size_t>(hosts));
    for (std::size_t k = 0; k < spec_.host_order->size(); ++k) {
      const i64 host = (*spec_.host_order)[k];
      check_index(item("host_order", k), host, hosts);
      if (seen[static_cast<std::size_t>(host)]) fail(item("host_order", k) + " names host " + std::to_string(host) + " again");
      seen[static_cast<std::size_t>(host)] = true;
    }
  }
  if (spec_.max_hosts && *spec_.max_hosts < 1) fail("max_hosts is " + std::to_string(*spec_.max_hosts) + ": it must be 1 at least");
  if (spec_.state_budget < 1) fail("state_budget is " + std::to_string(spec_.state_budget) + ": it must be 1 at least");
  if (spec_.period_limit_s) (void)to_ps(*spec_.period_limit_s, "period_limit_s");
  if (spec_.latency_limit_s) (void)to_ps(*spec_.latency_limit_s, "latency_limit_s");
  if (spec_.objective == Objective::kPeriodUnderLatency && !spec_.latency_limit_s) {
    fail("latency_limit_s is missing: the objective period_under_latency needs it");
  }
}

void Instance::bound_times() {
  i64 total = 0;
  i64 most_extra = 0;
  std::vector<i64> least(at(num_units_), kLimit);
  for (std::size_t k = 0; k < spec_.kinds.size(); ++k) {
    const std::string name = item("kinds", k) + ".unit_s";
    const i64 units = end_ps_[k].back();
    total = add_time(name, total, units);
    for (int u = 0; u < num_units_; ++u) {
      least[at(u)] = std::min(least[at(u)], to_ps(spec_.kinds[k].unit_s[at(u)], name));
    }
    for (const auto* costs : {&spec_.kinds[k].encode_s, &spec_.kinds[k].decode_s}) {
      if (!costs->empty()) most_extra = std::max(most_extra, to_ps(*std::ranges::max_element(*costs), name));
    }
  }
  double slowest = spec_.links.model == LinkModel::kMedium ? spec_.links.medium_bytes_per_s : kNoBandwidth;
  i64 latency = common_latency_ps_;
  for (int u = 0; u < num_hosts_; ++u) {
    for (int v = 0; v < num_hosts_ && spec_.links.model == LinkModel::kPairwise; ++v) {
      if (u == v) continue;
      slowest = std::min(slowest, spec_.links.bandwidth[at(u)][at(v)]);
      latency = std::max(latency, latency_ps_[at(u)][at(v)]);
    }
    if (spec_.links.model != LinkModel::kPairwise) slowest = std::min(slowest, spec_.hosts[at(u)].bandwidth_bytes_per_s);
  }
  const auto widest = static_cast<std::size_t>(std::ranges::max_element(spec_.cut_bytes) - spec_.cut_bytes.begin());
  const i64 transfer = transfer_ps(spec_.cut_bytes[widest], slowest);
  for (int stage = 0; stage < std::min(num_hosts_, num_units_) + 2; ++stage) {
    total = add_time("kinds.encode_s or kinds.decode_s", total, most_extra);
    total = add_time("kinds.encode_s or kinds.decode_s", total, most_extra);
    total = add_time(item("cut_bytes", widest) + " over the slowest link", total, transfer);
    total = add_time("links.latency_s", total, latency);
  }
  horizon_ps_ = total;
  i64 sum = 0;
  for (const i64 unit : least) {
    sum += unit;
    trivial_period_ps_ = std::max(trivial_period_ps_, unit);
  }
  const i64 stages = std::min(num_hosts_, num_units_);
  trivial_period_ps_ = std::max(trivial_period_ps_, (sum + stages - 1) / stages);
}

double Instance::bandwidth(int from, int to) const {
  const LinksSpec& links = spec_.links;
  if (links.model == LinkModel::kPairwise) return links.bandwidth[at(from)][at(to)];
  const double ends = std::min(spec_.hosts[at(from)].bandwidth_bytes_per_s, spec_.hosts[at(to)].bandwidth_bytes_per_s);
  return links.model == LinkModel::kMedium ? std::min(ends, links.medium_bytes_per_s) : ends;
}

i64 Instance::transfer(int from, int to, int cut) const {
  return from == to ? 0 : transfer_ps(spec_.cut_bytes[at(cut)], bandwidth(from, to));
}

i64 Instance::latency(int from, int to) const {
  if (from == to) return 0;
  return spec_.links.model == LinkModel::kPairwise ? latency_ps_[at(from)][at(to)] : common_latency_ps_;
}

i64 Instance::stage_memory(int kind, int first_cut, int last_cut) const {
  i64 weights = 0;
  i64 live = 0;
  for (int u = first_cut; u < last_cut; ++u) {
    weights += spec_.weight_bytes[at(u)];
    live = std::max(live, spec_.activation_bytes[at(u)]);
  }
  for (const SharedWeight& shared : shared_weights_) {
    const auto use = std::ranges::lower_bound(shared.units, first_cut);
    if (use != shared.units.end() && *use < last_cut) weights += shared.num_bytes;
  }
  return spec_.kinds[at(kind)].runtime_bytes + weights + live + spec_.entry_bytes[at(first_cut)] + spec_.exit_bytes[at(last_cut)];
}

void Instance::check_chain(const std::vector<AssignmentSpec>& assignments) const {
  if (assignments.empty()) fail("assignments is empty: a plan has one stage at least");
  std::vector<i64> user(at(num_hosts_), -1);
  i64 next = 0;
  for (std::size_t s = 0; s < assignments.size(); ++s) {
    const AssignmentSpec& stage = assignments[s];
    const std::string name = item("assignments", s);
    check_index(name + ".first", stage.first, num_units_);
    check_index(name + ".last", stage.last, num_units_);
    check_index(name + ".host", stage.host, num_hosts_);
    if (stage.first > stage.last) fail(name + ": the first unit comes after the last");
    if (stage.first != next) {
      fail(name + ".first is " + std::to_string(stage.first) + ": it must be " + std::to_string(next) +
           (stage.first > next ? ", or units are left out" : ", or units run twice"));
    }
    i64& used_by = user[static_cast<std::size_t>(stage.host)];
    if (used_by >= 0) {
      fail(name + ".host is " + std::to_string(stage.host) + ", which runs stage " + std::to_string(used_by) + " already");
    }
    used_by = static_cast<i64>(s);
    next = stage.last + 1;
  }
  if (next != num_units_) {
    fail(item("assignments", assignments.size() - 1) + ".last is " + std::to_string(next - 1) + ": the last unit is " +
         std::to_string(num_units_ - 1));
  }
}

PlanCost Instance::cost(const std::vector<AssignmentSpec>& assignments) const {
  check_chain(assignments);
  PlanCost plan;
  const int data_host = spec_.data_host ? static_cast<int>(*spec_.data_host) : -1;
  int previous = data_host;
  i64 crossing = 0;
  i64 input = 0;
  for (const AssignmentSpec& given : assignments) {
    const int host = static_cast<int>(given.host);
    const int begin = static_cast<int>(given.first);
    const int end = static_cast<int>(given.last) + 1;
    crossing = previous < 0 ? 0 : transfer(previous, host, begin);
    if (previous >= 0) plan.latency_ps += crossing + latency(previous, host);
    if (plan.stages.empty()) {
      input = crossing;
    } else {
      plan.stages.back().send_ps = crossing;
    }
    const i64 compute = start_ps(kind_of(host))[at(begin)] + end_ps(kind_of(host))[at(end)];
    plan.latency_ps += compute;
    plan.stages.push_back({given.first, given.last, given.host, compute, crossing, 0, stage_memory(kind_of(host), begin, end)});
    previous = host;
  }
  const i64 output = data_host < 0 ? 0 : transfer(previous, data_host, num_units_);
  if (data_host >= 0) plan.latency_ps += output + latency(previous, data_host);
  plan.stages.back().send_ps = output;
  find_period(plan, input, output);
  return plan;
}

void Instance::find_period(PlanCost& plan, i64 input_ps, i64 output_ps) const {
  const i64 data_host = spec_.data_host.value_or(-1);
  bool first = true;
  const auto consider = [&](i64 time, BottleneckKind kind, i64 stage, std::vector<i64> hosts) {
    if (!first && time <= plan.period_ps) return;
    first = false;
    plan.period_ps = time;
    plan.bottleneck = {kind, stage, std::move(hosts)};
  };
  i64 medium = input_ps + output_ps;
  i64 sent = 0;
  i64 received = 0;
  if (plan.stages.front().host != data_host) sent += input_ps;
  if (plan.stages.back().host != data_host) received += output_ps;
  for (std::size_t s = 0; s < plan.stages.size(); ++s) {
    consider(plan.stages[s].compute_ps, BottleneckKind::kStage, static_cast<i64>(s), {plan.stages[s].host});
  }
  consider(input_ps, BottleneckKind::kLink, -1, {data_host, plan.stages.front().host});
  for (std::size_t s = 0; s + 1 < plan.stages.size(); ++s) {
    const i64 crossing = plan.stages[s].send_ps;
    medium += crossing;
    if (plan.stages[s].host == data_host) sent += crossing;
    if (plan.stages[s + 1].host == data_host) received += crossing;
    consider(crossing, BottleneckKind::kLink, -1, {plan.stages[s].host, plan.stages[s + 1].host});
  }
  consider(output_ps, BottleneckKind::kLink, -1, {plan.stages.back().host, data_host});
  if (data_host >= 0) consider(std::max(sent, received), BottleneckKind::kInterface, -1, {data_host});
  if (spec_.links.model == LinkModel::kMedium) consider(medium, BottleneckKind::kMedium, -1, {});
}

}  // namespace native_sched
