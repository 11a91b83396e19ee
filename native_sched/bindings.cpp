// The Python module: plain data in, plain data out; no scheduling here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "native_sched/simulation.hpp"
#include "native_sched/solver.hpp"
#include "problem/instance.hpp"

namespace nb = nanobind;
using namespace native_sched;  // NOLINT(google-build-using-namespace): every name here is the core's

namespace {

void bind_problem(nb::module_& m) {
  nb::class_<KindSpec>(m, "KindSpec")
      .def(nb::init<>())
      .def_rw("unit_s", &KindSpec::unit_s)
      .def_rw("encode_s", &KindSpec::encode_s)
      .def_rw("decode_s", &KindSpec::decode_s)
      .def_rw("runtime_bytes", &KindSpec::runtime_bytes)
      .def_rw("saved_bytes", &KindSpec::saved_bytes);
  nb::class_<HostSpec>(m, "HostSpec")
      .def(nb::init<>())
      .def_rw("kind", &HostSpec::kind)
      .def_rw("memory_bytes", &HostSpec::memory_bytes)
      .def_rw("bandwidth_bytes_per_s", &HostSpec::bandwidth_bytes_per_s);
  nb::enum_<LinkModel>(m, "LinkModel")
      .value("HOST", LinkModel::kHost)
      .value("PAIRWISE", LinkModel::kPairwise)
      .value("MEDIUM", LinkModel::kMedium);
  nb::class_<LinksSpec>(m, "LinksSpec")
      .def(nb::init<>())
      .def_rw("model", &LinksSpec::model)
      .def_rw("medium_bytes_per_s", &LinksSpec::medium_bytes_per_s)
      .def_rw("latency_s", &LinksSpec::latency_s)
      .def_rw("bandwidth", &LinksSpec::bandwidth)
      .def_rw("latency", &LinksSpec::latency);
  nb::class_<SharedWeightSpec>(m, "SharedWeightSpec")
      .def(nb::init<>())
      .def_rw("units", &SharedWeightSpec::units)
      .def_rw("num_bytes", &SharedWeightSpec::num_bytes);
  nb::class_<PinSpec>(m, "PinSpec")
      .def(nb::init<>())
      .def_rw("first", &PinSpec::first)
      .def_rw("last", &PinSpec::last)
      .def_rw("hosts", &PinSpec::hosts);
  nb::class_<RangeSpec>(m, "RangeSpec")
      .def(nb::init<>())
      .def_rw("first", &RangeSpec::first)
      .def_rw("last", &RangeSpec::last);
  nb::class_<AssignmentSpec>(m, "AssignmentSpec")
      .def(nb::init<>())
      .def_rw("first", &AssignmentSpec::first)
      .def_rw("last", &AssignmentSpec::last)
      .def_rw("host", &AssignmentSpec::host);
  nb::enum_<Objective>(m, "Objective")
      .value("PERIOD", Objective::kPeriod)
      .value("LATENCY", Objective::kLatency)
      .value("PERIOD_UNDER_LATENCY", Objective::kPeriodUnderLatency);
  nb::class_<ProblemSpec>(m, "ProblemSpec")
      .def(nb::init<>())
      .def_rw("kinds", &ProblemSpec::kinds)
      .def_rw("hosts", &ProblemSpec::hosts)
      .def_rw("links", &ProblemSpec::links)
      .def_rw("cut_bytes", &ProblemSpec::cut_bytes)
      .def_rw("weight_bytes", &ProblemSpec::weight_bytes)
      .def_rw("activation_bytes", &ProblemSpec::activation_bytes)
      .def_rw("shared_weights", &ProblemSpec::shared_weights)
      .def_rw("entry_bytes", &ProblemSpec::entry_bytes)
      .def_rw("exit_bytes", &ProblemSpec::exit_bytes)
      .def_rw("data_host", &ProblemSpec::data_host, nb::arg().none())
      .def_rw("objective", &ProblemSpec::objective)
      .def_rw("latency_limit_s", &ProblemSpec::latency_limit_s, nb::arg().none())
      .def_rw("pins", &ProblemSpec::pins)
      .def_rw("together", &ProblemSpec::together)
      .def_rw("excluded_hosts", &ProblemSpec::excluded_hosts)
      .def_rw("host_order", &ProblemSpec::host_order, nb::arg().none())
      .def_rw("max_hosts", &ProblemSpec::max_hosts, nb::arg().none())
      .def_rw("period_limit_s", &ProblemSpec::period_limit_s, nb::arg().none())
      .def_rw("state_budget", &ProblemSpec::state_budget)
      .def_rw("settle_ties", &ProblemSpec::settle_ties)
      .def_rw("any_plan", &ProblemSpec::any_plan);
}

void bind_result(nb::module_& m) {
  nb::class_<StageCost>(m, "StageCost")
      .def_ro("first", &StageCost::first)
      .def_ro("last", &StageCost::last)
      .def_ro("host", &StageCost::host)
      .def_ro("compute_ps", &StageCost::compute_ps)
      .def_ro("receive_ps", &StageCost::receive_ps)
      .def_ro("send_ps", &StageCost::send_ps)
      .def_ro("memory_bytes", &StageCost::memory_bytes);
  nb::enum_<BottleneckKind>(m, "BottleneckKind")
      .value("STAGE", BottleneckKind::kStage)
      .value("LINK", BottleneckKind::kLink)
      .value("INTERFACE", BottleneckKind::kInterface)
      .value("MEDIUM", BottleneckKind::kMedium);
  nb::class_<Bottleneck>(m, "Bottleneck")
      .def_ro("kind", &Bottleneck::kind)
      .def_ro("stage", &Bottleneck::stage)
      .def_ro("hosts", &Bottleneck::hosts);
  nb::class_<PlanCost>(m, "PlanCost")
      .def_ro("stages", &PlanCost::stages)
      .def_ro("period_ps", &PlanCost::period_ps)
      .def_ro("latency_ps", &PlanCost::latency_ps)
      .def_ro("bottleneck", &PlanCost::bottleneck);
  nb::enum_<Method>(m, "Method")
      .value("EXACT", Method::kExact)
      .value("EXACT_TIES_OPEN", Method::kExactTiesOpen)
      .value("BOUNDED", Method::kBounded);
  nb::class_<Solution>(m, "Solution")
      .def_ro("feasible", &Solution::feasible)
      .def_ro("plan", &Solution::plan)
      .def_ro("method", &Solution::method)
      .def_ro("lower_bound_ps", &Solution::lower_bound_ps)
      .def_ro("furthest_cut", &Solution::furthest_cut)
      .def_ro("num_probes", &Solution::num_probes);
}

void bind_simulation(nb::module_& m) {
  nb::class_<SharedSpec>(m, "SharedSpec")
      .def(nb::init<>())
      .def_rw("boundaries", &SharedSpec::boundaries)
      .def_rw("share", &SharedSpec::share);
  nb::class_<PipelineSpec>(m, "PipelineSpec")
      .def(nb::init<>())
      .def_rw("compute_s", &PipelineSpec::compute_s)
      .def_rw("transfer_s", &PipelineSpec::transfer_s)
      .def_rw("latency_s", &PipelineSpec::latency_s)
      .def_rw("local", &PipelineSpec::local)
      .def_rw("shared", &PipelineSpec::shared)
      .def_rw("num_buffers_in", &PipelineSpec::num_buffers_in)
      .def_rw("num_buffers_out", &PipelineSpec::num_buffers_out)
      .def_rw("num_microbatches", &PipelineSpec::num_microbatches)
      .def_rw("ready_s", &PipelineSpec::ready_s)
      .def_rw("sigma", &PipelineSpec::sigma)
      .def_rw("seed", &PipelineSpec::seed)
      .def_rw("num_warm_up", &PipelineSpec::num_warm_up)
      .def_rw("warm_up_factor", &PipelineSpec::warm_up_factor)
      .def_rw("count_from", &PipelineSpec::count_from)
      .def_rw("trace_from", &PipelineSpec::trace_from)
      .def_rw("trace_to", &PipelineSpec::trace_to)
      .def_rw("by_events", &PipelineSpec::by_events);
  nb::class_<SimulationResult>(m, "SimulationResult")
      .def_ro("fed_s", &SimulationResult::fed_s)
      .def_ro("result_s", &SimulationResult::result_s)
      .def_ro("busy_s", &SimulationResult::busy_s)
      .def_ro("starved_s", &SimulationResult::starved_s)
      .def_ro("blocked_s", &SimulationResult::blocked_s)
      .def_ro("sending_s", &SimulationResult::sending_s)
      .def_ro("trace_start_s", &SimulationResult::trace_start_s)
      .def_ro("trace_end_s", &SimulationResult::trace_end_s)
      .def_ro("trace_published_s", &SimulationResult::trace_published_s)
      .def_ro("trace_send_start_s", &SimulationResult::trace_send_start_s)
      .def_ro("trace_send_end_s", &SimulationResult::trace_send_end_s);
}

}  // namespace

NB_MODULE(_native_sched, m) {
  bind_problem(m);
  bind_result(m);
  bind_simulation(m);
  m.def("solve", &solve, nb::arg("problem"), nb::call_guard<nb::gil_scoped_release>());
  m.def("pareto", &pareto, nb::arg("problem"), nb::call_guard<nb::gil_scoped_release>());
  m.def("evaluate", &evaluate, nb::arg("problem"), nb::arg("assignments"),
        nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "lower_bound_ps", [](const ProblemSpec& problem) { return Instance(problem).trivial_period_ps(); },
      nb::arg("problem"), nb::call_guard<nb::gil_scoped_release>());
  m.def("simulate", &simulate, nb::arg("pipeline"), nb::call_guard<nb::gil_scoped_release>());
  m.def("jitter", &jitter, nb::arg("seed"), nb::arg("stage"), nb::arg("microbatch"), nb::arg("sigma"));
}
