"""Explains why a scheduling problem has no solution: what does not fit, or which constraint excludes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from edgecompile.contract.quantities import format_bytes, format_time
from edgecompile.planning.native_bridge import native_module, spec_of

if TYPE_CHECKING:
    from edgecompile.planning.problem import Problem

__all__ = ["explain"]


Name = Callable[[str], str]
"""From a field of the problem to what the user calls it."""


def explain(problem: Problem, furthest_cut: int, words: Mapping[str, str] | None = None) -> str:
    """One line for the user about a problem that has no plan.

    Args:
        furthest_cut: the most units that any plan covers.
        words: what the user calls the problem's fields; None: as the problem does.
    """

    def name(field: str) -> str:
        assert field in {item.name for item in fields(problem)}, field
        return (words or {}).get(field, field)

    usable = _usable_hosts(problem)
    if not usable:
        return f"no host is left to run a stage: {name('excluded_hosts')} and {name('host_order')} leave none"
    free = replace(problem, latency_limit_s=None, period_limit_s=None, objective=type(problem.objective).PERIOD)
    return (
        _tight_unit(problem, usable, name)
        or _total_shortfall(problem, usable)
        or _limits(problem, free, name)
        or _constraints(problem, free, name)
        or _more_memory(free, furthest_cut)
    )


def _usable_hosts(problem: Problem) -> list[int]:
    named = range(len(problem.hosts)) if problem.host_order is None else problem.host_order
    return [host for host in named if host not in problem.excluded_hosts]


def _groups(problem: Problem) -> list[tuple[int, int]]:
    """First and last unit of what no cut may part."""
    num_units = len(problem.weight_bytes)
    joined = {unit for first, last in problem.together for unit in range(first + 1, last + 1)}
    starts = [unit for unit in range(num_units) if unit not in joined]
    return [(start, stop - 1) for start, stop in zip(starts, starts[1:] + [num_units], strict=True)]


def _units(first: int, last: int) -> str:
    return f"unit {first}" if first == last else f"units {first}-{last}"


def _needed(problem: Problem, first: int, last: int, host: int) -> int:
    shared = sum(w.num_bytes for w in problem.shared_weights if any(first <= unit <= last for unit in w.units))
    kind = problem.kinds[problem.hosts[host].kind]
    return (
        kind.runtime_bytes
        + sum(problem.weight_bytes[first : last + 1])
        - sum(kind.saved_bytes[first : last + 1])
        + shared
        + max(problem.activation_bytes[first : last + 1])
        + problem.entry_bytes[first]
        + problem.exit_bytes[last + 1]
    )


def _tight_unit(problem: Problem, usable: list[int], name: Name) -> str | None:
    """The single unit, or units kept together, that fits on no host it may run on."""
    worst: tuple[int, str] | None = None
    for first, last in _groups(problem):
        pins = [pin for pin in problem.pins if pin.units[0] <= last and first <= pin.units[1]]
        allowed = [host for host in usable if all(host in pin.hosts for pin in pins)]
        if not allowed:
            causes = f"{name('pins')}, {name('excluded_hosts')} and {name('host_order')}"
            return f"{causes} leave no host for {_units(first, last)}"
        short, host = min(
            (_needed(problem, first, last, host) - problem.hosts[host].memory_bytes, host) for host in allowed
        )
        if short > 0 and (worst is None or short > worst[0]):
            need, have = _needed(problem, first, last, host), problem.hosts[host]
            allowance = " it may run on" if pins or len(allowed) < len(problem.hosts) else ""
            worst = (
                short,
                (
                    f"{_units(first, last)} fits on no host{allowance}: it needs {format_bytes(need, 4)} on "
                    f"{have.name}, the closest, which has {format_bytes(have.memory_bytes, 4)}: "
                    f"short by {format_bytes(short, 4)}"
                ),
            )
    return worst[1] if worst else None


def _total_shortfall(problem: Problem, usable: list[int]) -> str | None:
    """All weights together are more than the hosts have."""
    rooms = sorted(
        (problem.hosts[h].memory_bytes - problem.kinds[problem.hosts[h].kind].runtime_bytes for h in usable),
        reverse=True,
    )
    rooms = [room for room in rooms[: problem.max_hosts or len(rooms)] if room > 0]
    saved = max((sum(problem.kinds[problem.hosts[host].kind].saved_bytes) for host in usable), default=0)
    need = sum(problem.weight_bytes) - saved + sum(weight.num_bytes for weight in problem.shared_weights)
    need += max(problem.activation_bytes) + problem.entry_bytes[0] + problem.exit_bytes[-1]
    have = sum(rooms)
    if need <= have:
        return None
    what = f"{len(rooms)} hosts have" if len(rooms) != 1 else "1 host has"
    return (
        f"{_units(0, len(problem.weight_bytes) - 1)} need at least {format_bytes(need, 4)}; the cluster's {what} "
        f"{format_bytes(have, 4)} beside their runtimes: short by {format_bytes(need - have, 4)}: "
        "add a host or lower microbatch"
    )


def _limits(problem: Problem, free: Problem, name: Name) -> str | None:
    """The limit on period or latency that no plan keeps."""
    module = native_module()
    solution = module.solve(spec_of(free))
    if not solution.feasible:
        return None
    reasons = []
    least = solution.plan.period_ps / 1e12
    if problem.period_limit_s is not None and least > problem.period_limit_s:
        limit = format_time(problem.period_limit_s, 6)
        reasons.append(f"the least period is {format_time(least, 6)}, above {name('period_limit_s')} = {limit}")
    fastest = module.solve(spec_of(replace(free, objective=type(free.objective).LATENCY))).plan.latency_ps / 1e12
    if problem.latency_limit_s is not None and fastest > problem.latency_limit_s:
        limit = format_time(problem.latency_limit_s, 6)
        reasons.append(f"the least latency is {format_time(fastest, 6)}, above {name('latency_limit_s')} = {limit}")
    if not reasons:
        reasons.append(
            f"no plan keeps both {name('period_limit_s')} = {format_time(problem.period_limit_s or 0.0, 6)} "
            f"and {name('latency_limit_s')} = {format_time(problem.latency_limit_s or 0.0, 6)}: "
            f"the least period alone is {format_time(least, 6)}, the least latency alone {format_time(fastest, 6)}"
        )
    return "; ".join(reasons)


def _constraints(problem: Problem, free: Problem, name: Name) -> str | None:
    """The constraints each of which, if it were lifted, would let a plan through."""
    lifted = {
        "pins": replace(free, pins=()),
        "together": replace(free, together=()),
        "excluded_hosts": replace(free, excluded_hosts=()),
        "host_order": replace(free, host_order=None),
        "max_hosts": replace(free, max_hosts=None),
    }
    present = [field for field in lifted if getattr(problem, field) not in ((), None)]
    guilty = [field for field in present if _feasible(lifted[field])]
    if guilty:
        causes = " and ".join(f"{name(field)} = {getattr(problem, field)!r:.80}" for field in guilty)
        verb = "excludes" if len(guilty) == 1 else "each exclude"
        return f"{causes} {verb} every plan that fits in memory: lift it or add a host"
    bare = replace(free, pins=(), together=(), excluded_hosts=(), host_order=None, max_hosts=None)
    if present and _feasible(bare):
        return f"{', '.join(map(name, present))} together exclude every plan that fits in memory"
    return None


def _feasible(problem: Problem) -> bool:
    spec = spec_of(problem)
    spec.any_plan = True
    return bool(native_module().solve(spec).feasible)


def _more_memory(problem: Problem, furthest_cut: int) -> str:
    """No way of cutting fits: by how much each host would have to be larger."""
    low, high = 0, max(1, _needed(problem, 0, len(problem.weight_bytes) - 1, 0))
    while high - low > 1:
        middle = (low + high) // 2
        hosts = tuple(replace(host, memory_bytes=host.memory_bytes + middle) for host in problem.hosts)
        if _feasible(replace(problem, hosts=hosts)):
            high = middle
        else:
            low = middle
    reach = f"; the best plan gets as far as unit {furthest_cut - 1}" if furthest_cut > 0 else ""
    return (
        f"no way of cutting {_units(0, len(problem.weight_bytes) - 1)} fits in memory{reach}: "
        f"each host would need {format_bytes(high, 4)} more: add a host or lower microbatch"
    )
