#include <algorithm>
#include <string>

#include "problem/instance.hpp"
#include "problem/refuse.hpp"

namespace native_sched {

double Instance::bandwidth(int from, int to) const {
  const LinksSpec& links = spec_.links;
  if (links.model == LinkModel::kPairwise) return links.bandwidth[at(from)][at(to)];
  const double ends =
      std::min(spec_.hosts[at(from)].bandwidth_bytes_per_s, spec_.hosts[at(to)].bandwidth_bytes_per_s);
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
  const std::vector<i64>& saved = spec_.kinds[at(kind)].saved_bytes;
  i64 weights = 0;
  i64 live = 0;
  for (int u = first_cut; u < last_cut; ++u) {
    weights += spec_.weight_bytes[at(u)] - (saved.empty() ? 0 : saved[at(u)]);
    live = std::max(live, spec_.activation_bytes[at(u)]);
  }
  for (const SharedWeight& shared : shared_weights_) {
    const auto use = std::ranges::lower_bound(shared.units, first_cut);
    if (use != shared.units.end() && *use < last_cut) weights += shared.num_bytes;
  }
  return spec_.kinds[at(kind)].runtime_bytes + weights + live + spec_.entry_bytes[at(first_cut)] +
         spec_.exit_bytes[at(last_cut)];
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
      fail(name + ".first is " + std::to_string(stage.first) + ": expected " + std::to_string(next) +
           (stage.first > next ? ", or units are left out" : ", or units run twice"));
    }
    i64& used_by = user[static_cast<std::size_t>(stage.host)];
    if (used_by >= 0) {
      fail(name + ".host is " + std::to_string(stage.host) + ", which runs stage " + std::to_string(used_by) +
           " already");
    }
    used_by = static_cast<i64>(s);
    next = stage.last + 1;
  }
  if (next != num_units_) {
    fail(item("assignments", assignments.size() - 1) + ".last is " + std::to_string(next - 1) +
         ": the last unit is " + std::to_string(num_units_ - 1));
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
    plan.stages.push_back(
        {given.first, given.last, given.host, compute, crossing, 0, stage_memory(kind_of(host), begin, end)});
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
