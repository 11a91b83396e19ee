#include "problem/instance.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "problem/refuse.hpp"

namespace native_sched {
namespace {

__extension__ using u128 = unsigned __int128;

constexpr std::size_t kMostUnits = 1'000'000;
constexpr std::size_t kMostHosts = 4096;

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
  if (!std::isfinite(seconds)) fail(field + " is " + std::to_string(seconds) + ": expected a finite number");
  if (seconds < 0.0) fail(field + " is " + std::to_string(seconds) + ": a time cannot be negative");
  const double ps = seconds * 1e12;
  if (!(ps < 0x1p59))
    fail(field + " is " + std::to_string(seconds) + " s: more than 2^59 picoseconds (6 days)");
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
  bound_period();
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
    if (!kind.saved_bytes.empty())
      check_length(item("kinds", k) + ".saved_bytes", kind.saved_bytes.size(), units);
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
  for (std::size_t k = 0; k < spec_.kinds.size(); ++k) {
    const std::string name = item("kinds", k) + ".saved_bytes";
    check_all_bytes(name, spec_.kinds[k].saved_bytes);
    for (std::size_t u = 0; u < spec_.kinds[k].saved_bytes.size(); ++u) {
      if (spec_.kinds[k].saved_bytes[u] > spec_.weight_bytes[u])
        fail(item(name, u) + " is more than the weight has");
    }
  }
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
    if (kind.runtime_bytes >= 0)
      (void)sum_bytes("kinds.runtime_bytes", {std::min(kind.runtime_bytes, kMostBytes)}, total);
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
    for (std::size_t k = 0; k < pin.hosts.size(); ++k)
      check_index(item(name + ".hosts", k), pin.hosts[k], hosts);
  }
  for (std::size_t t = 0; t < spec_.together.size(); ++t) {
    const std::string name = item("together", t);
    check_index(name + "[0]", spec_.together[t].first, num_units_);
    check_index(name + "[1]", spec_.together[t].last, num_units_);
    if (spec_.together[t].first > spec_.together[t].last)
      fail(name + ": the first unit comes after the last");
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
      if (seen[static_cast<std::size_t>(host)])
        fail(item("host_order", k) + " names host " + std::to_string(host) + " again");
      seen[static_cast<std::size_t>(host)] = true;
    }
  }
  if (spec_.max_hosts && *spec_.max_hosts < 1)
    fail("max_hosts is " + std::to_string(*spec_.max_hosts) + ": expected at least 1");
  if (spec_.state_budget < 1)
    fail("state_budget is " + std::to_string(spec_.state_budget) + ": expected at least 1");
  if (spec_.period_limit_s) (void)to_ps(*spec_.period_limit_s, "period_limit_s");
  if (spec_.latency_limit_s) (void)to_ps(*spec_.latency_limit_s, "latency_limit_s");
  if (spec_.objective == Objective::kPeriodUnderLatency && !spec_.latency_limit_s) {
    fail("latency_limit_s is missing: the objective period_under_latency needs it");
  }
}

void Instance::bound_times() {
  i64 total = 0;
  i64 most_extra = 0;
  for (std::size_t k = 0; k < spec_.kinds.size(); ++k) {
    const std::string name = item("kinds", k);
    total = add_time(name + ".unit_s", total, end_ps_[k].back());
    for (const auto* costs : {&spec_.kinds[k].encode_s, &spec_.kinds[k].decode_s}) {
      if (!costs->empty()) most_extra = std::max(most_extra, to_ps(*std::ranges::max_element(*costs), name));
    }
  }
  const auto [slowest, latency] = slowest_link();
  const auto widest =
      static_cast<std::size_t>(std::ranges::max_element(spec_.cut_bytes) - spec_.cut_bytes.begin());
  const i64 transfer = transfer_ps(spec_.cut_bytes[widest], slowest);
  for (int stage = 0; stage < std::min(num_hosts_, num_units_) + 2; ++stage) {
    total = add_time("kinds.encode_s or kinds.decode_s", total, most_extra);
    total = add_time("kinds.encode_s or kinds.decode_s", total, most_extra);
    total = add_time(item("cut_bytes", widest) + " over the slowest link", total, transfer);
    total = add_time("links.latency_s", total, latency);
  }
  horizon_ps_ = total;
}

// The least bandwidth and the most latency, in picoseconds, of any pair of hosts.
std::pair<double, i64> Instance::slowest_link() const {
  double bandwidth = spec_.links.medium_bytes_per_s;
  if (spec_.links.model != LinkModel::kMedium) bandwidth = kNoBandwidth;
  i64 latency = common_latency_ps_;
  for (int u = 0; u < num_hosts_; ++u) {
    for (int v = 0; v < num_hosts_ && spec_.links.model == LinkModel::kPairwise; ++v) {
      if (u == v) continue;
      bandwidth = std::min(bandwidth, spec_.links.bandwidth[at(u)][at(v)]);
      latency = std::max(latency, latency_ps_[at(u)][at(v)]);
    }
    if (spec_.links.model == LinkModel::kPairwise) continue;
    bandwidth = std::min(bandwidth, spec_.hosts[at(u)].bandwidth_bytes_per_s);
  }
  return {bandwidth, latency};
}

// The dearest unit on its fastest kind, and the mean over hosts of all units on theirs.
void Instance::bound_period() {
  i64 sum = 0;
  for (std::size_t u = 0; u < spec_.weight_bytes.size(); ++u) {
    double least = spec_.kinds.front().unit_s[u];
    for (const KindSpec& kind : spec_.kinds) least = std::min(least, kind.unit_s[u]);
    const i64 time = to_ps(least, "kinds.unit_s");
    sum += time;
    trivial_period_ps_ = std::max(trivial_period_ps_, time);
  }
  const i64 stages = std::min(num_hosts_, num_units_);
  trivial_period_ps_ = std::max(trivial_period_ps_, (sum + stages - 1) / stages);
}

}  // namespace native_sched
