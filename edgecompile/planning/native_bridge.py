"""Converts problems and schedules between Python and the native scheduler; the only user of the bindings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from edgecompile.planning import problem as domain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from edgecompile import _native_sched as native

__all__ = ["assignments_of", "native_module", "plan_of", "schedule_of", "spec_of"]

_METHODS = {"EXACT": "exact", "EXACT_TIES_OPEN": "exact, ties open", "BOUNDED": "bounded"}
_INT64 = 1 << 63

T = TypeVar("T")


def native_module() -> ModuleType:
    """The compiled scheduler.

    Raises:
        ImportError: it was not built; says how to build it.
    """
    try:
        from edgecompile import _native_sched
    except ImportError as error:
        raise ImportError(f"the compiled scheduler is missing ({error}): install edgecompile with pip") from error
    return _native_sched


def spec_of(problem: domain.Problem) -> native.ProblemSpec:
    """The native form of a problem; what the numbers mean is checked on the native side.

    Raises:
        ValueError: a value has the wrong type or does not fit 64 bits; names field and index.
    """
    module = native_module()
    spec = module.ProblemSpec()
    spec.kinds = [_kind(module, where, kind) for where, kind in _items("kinds", problem.kinds, domain.Kind)]
    spec.hosts = [_host(module, where, host) for where, host in _items("hosts", problem.hosts, domain.SchedHost)]
    spec.links = _links(module, problem.links)
    for name in ("cut_bytes", "weight_bytes", "activation_bytes", "entry_bytes", "exit_bytes", "excluded_hosts"):
        _put(spec, name, getattr(problem, name), name, _integer)
    shared_weights = _items("shared_weights", problem.shared_weights, domain.SharedWeight)
    spec.shared_weights = [_shared(module, where, weight) for where, weight in shared_weights]
    spec.pins = [_pin(module, where, pin) for where, pin in _items("pins", problem.pins, domain.Pin)]
    spec.together = [_range(module, where, units) for where, units in _items("together", problem.together, tuple)]
    for name in ("data_host", "max_hosts", "state_budget"):
        _put(spec, name, getattr(problem, name), name, _integer)
    for name in ("latency_limit_s", "period_limit_s"):
        _put(spec, name, getattr(problem, name), name, _number)
    if problem.host_order is not None:
        _put(spec, "host_order", problem.host_order, "host_order", _integer)
    try:
        spec.objective = getattr(module.Objective, domain.Objective(problem.objective).name)
    except ValueError:
        raise ValueError(f"objective is {problem.objective!r:.60}: expected one of {list(domain.Objective)}") from None
    return spec  # type: ignore[no-any-return]


def assignments_of(assignments: Sequence[domain.Assignment]) -> list[native.AssignmentSpec]:
    """The native form of a given plan.

    Raises:
        ValueError: a value is not a whole number; names field and index.
    """
    module = native_module()
    result = []
    for index, stage in enumerate(assignments):
        given = module.AssignmentSpec()
        for name in ("first", "last", "host"):
            _put(given, name, getattr(stage, name), f"assignments[{index}].{name}", _integer)
        result.append(given)
    return result


def schedule_of(problem: domain.Problem, solution: native.Solution) -> domain.Schedule:
    """A solution as a Schedule."""
    plan = solution.plan
    by_latency = problem.objective == domain.Objective.LATENCY
    return plan_of(
        plan,
        method=_METHODS[solution.method.name],
        lower_bound_ps=solution.lower_bound_ps,
        objective_ps=plan.latency_ps if by_latency else plan.period_ps,
    )


def is_proved(solution: native.Solution) -> bool:
    """Whether the search behind this answer was exhaustive: an infeasible problem then has no plan at all."""
    return _METHODS[solution.method.name] != "bounded"


def plan_of(plan: native.PlanCost, *, method: str, lower_bound_ps: int, objective_ps: int) -> domain.Schedule:
    """A costed plan as a Schedule; `objective_ps` is the plan's figure that the bound is of."""
    stages = tuple(
        domain.StageResult(
            first=stage.first,
            last=stage.last,
            host=stage.host,
            compute_s=stage.compute_ps / 1e12,
            receive_s=stage.receive_ps / 1e12,
            send_s=stage.send_ps / 1e12,
            memory_bytes=stage.memory_bytes,
        )
        for stage in plan.stages
    )
    bottleneck = domain.Bottleneck(
        kind=plan.bottleneck.kind.name.lower(),
        stage=plan.bottleneck.stage if plan.bottleneck.stage >= 0 else None,
        hosts=tuple(plan.bottleneck.hosts),
    )
    gap = 0.0 if lower_bound_ps >= objective_ps else 1.0 - lower_bound_ps / objective_ps
    period_s = plan.period_ps / 1e12
    certificate = domain.Certificate(method=method, period_s=period_s, lower_bound_s=lower_bound_ps / 1e12, gap=gap)
    return domain.Schedule(
        stages=stages,
        period_s=period_s,
        latency_s=plan.latency_ps / 1e12,
        bottleneck=bottleneck,
        certificate=certificate,
    )


def _kind(module: ModuleType, where: str, kind: domain.Kind) -> native.KindSpec:
    spec = module.KindSpec()
    for name in ("unit_s", "encode_s", "decode_s"):
        _put(spec, name, getattr(kind, name), f"{where}.{name}", _number)
    for name in ("runtime_bytes", "saved_bytes"):
        _put(spec, name, getattr(kind, name), f"{where}.{name}", _integer)
    return spec  # type: ignore[no-any-return]


def _host(module: ModuleType, where: str, host: domain.SchedHost) -> native.HostSpec:
    spec = module.HostSpec()
    _put(spec, "kind", host.kind, f"{where}.kind", _integer)
    _put(spec, "memory_bytes", host.memory_bytes, f"{where}.memory_bytes", _integer)
    bandwidth = math.inf if host.bandwidth_bytes_per_s is None else host.bandwidth_bytes_per_s
    _put(spec, "bandwidth_bytes_per_s", bandwidth, f"{where}.bandwidth_bytes_per_s", _number)
    return spec  # type: ignore[no-any-return]


def _items(where: str, values: Any, kind: type[T]) -> list[tuple[str, T]]:
    """Each item with the name that messages give it."""
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{where} is {values!r:.60}: expected a tuple of {kind.__name__}")
    for index, value in enumerate(values):
        if not isinstance(value, kind):
            raise ValueError(f"{where}[{index}] is {value!r:.60}: expected a {kind.__name__}")
    return [(f"{where}[{index}]", value) for index, value in enumerate(values)]


def _links(module: ModuleType, links: domain.Links) -> native.LinksSpec:
    spec = module.LinksSpec()
    if isinstance(links, domain.PairwiseLinks):
        spec.model = module.LinkModel.PAIRWISE
        for name, there in (("bandwidth", "bandwidth_bytes_per_s"), ("latency", "latency_s")):
            _put(spec, name, getattr(links, there), f"links.{there}", _numbers)
        return spec  # type: ignore[no-any-return]
    if not isinstance(links, (domain.HostLinks, domain.SharedMedium)):
        raise ValueError(f"links is {links!r:.60}: expected HostLinks, PairwiseLinks or SharedMedium")
    _put(spec, "latency_s", links.latency_s, "links.latency_s", _number)
    spec.model = module.LinkModel.HOST
    if isinstance(links, domain.SharedMedium):
        spec.model = module.LinkModel.MEDIUM
        _put(spec, "medium_bytes_per_s", links.bandwidth_bytes_per_s, "links.bandwidth_bytes_per_s", _number)
    return spec  # type: ignore[no-any-return]


def _shared(module: ModuleType, where: str, weight: domain.SharedWeight) -> native.SharedWeightSpec:
    spec = module.SharedWeightSpec()
    _put(spec, "units", weight.units, f"{where}.units", _integer)
    _put(spec, "num_bytes", weight.num_bytes, f"{where}.num_bytes", _integer)
    return spec  # type: ignore[no-any-return]


def _pin(module: ModuleType, where: str, pin: domain.Pin) -> native.PinSpec:
    spec = module.PinSpec()
    _put_range(spec, pin.units, f"{where}.units")
    _put(spec, "hosts", pin.hosts, f"{where}.hosts", _integer)
    return spec  # type: ignore[no-any-return]


def _range(module: ModuleType, where: str, units: tuple[int, int]) -> native.RangeSpec:
    spec = module.RangeSpec()
    _put_range(spec, units, where)
    return spec  # type: ignore[no-any-return]


def _put_range(spec: Any, units: tuple[int, int], where: str) -> None:
    if not isinstance(units, (list, tuple)):
        raise ValueError(f"{where} is {units!r:.60}: expected (first, last)")
    if len(units) != 2:
        raise ValueError(f"{where} has {len(units)} entries: expected (first, last)")
    for name, index, value in (("first", 0, units[0]), ("last", 1, units[1])):
        _put(spec, name, value, f"{where}[{index}]", _integer)


def _put(spec: Any, name: str, value: Any, where: str, check: Callable[[str, Any], None]) -> None:
    """Hands a value over as it is, and looks for what is wrong with it only when the native side does not take it."""
    try:
        setattr(spec, name, value)
    except (TypeError, OverflowError, RuntimeError):
        check(where, value)
        for index, item in enumerate(value if isinstance(value, (list, tuple)) else ()):
            check(f"{where}[{index}]", item)
        raise ValueError(f"{where}: the native scheduler does not accept {value!r:.60}") from None


def _integer(where: str, value: Any) -> None:
    if isinstance(value, (list, tuple)):
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{where} is {value!r:.60}: expected a whole number")
    if not -_INT64 <= value < _INT64:
        raise ValueError(f"{where} is {value}: it does not fit 64 bits (at most 2^62 bytes)")


def _number(where: str, value: Any) -> None:
    if isinstance(value, (list, tuple)):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where} is {value!r:.60}: expected a number")


def _numbers(where: str, value: Any) -> None:
    if not isinstance(value, (list, tuple)):
        _number(where, value)
        return
    for index, item in enumerate(value):
        _number(f"{where}[{index}]", item)
