"""Simulates a pipeline as the runtime behaves: bounded buffers, messages, jitter, arrivals.

The native core simulates; this module prepares its input and evaluates its output. A stage decodes, computes and
encodes in one thread; a message waits for a free receive buffer at the other end, then takes its transfer
time; messages that cross the data host's interface in one direction, or a shared medium, at the same time share it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from edgecompile.contract.plan import Runtime
from edgecompile.planning.native_bridge import native_module
from edgecompile.planning.problem import HostLinks, PairwiseLinks, Problem, Schedule, SharedMedium

if TYPE_CHECKING:
    from edgecompile import _native_sched as native

__all__ = [
    "Latencies",
    "LinkUse",
    "Options",
    "SharedUse",
    "Simulation",
    "StageUse",
    "Trace",
    "interfaces_of",
    "simulate",
]

_Z95 = 1.6448536269514722


@dataclass(frozen=True, kw_only=True)
class Options:
    num_microbatches: int = 1000
    microbatch: float = 1
    """Items in each, on average."""
    rate_items_per_s: float | None = None
    """How fast items come; None: whenever there is room."""
    jitter: float = 1.0
    """Of a stage's compute times: the 95th percentile over the median; lognormal."""
    seed: int = 0
    num_warm_up: int = 0
    """So many first microbatches of each stage take `warm_up_factor` times as long."""
    warm_up_factor: float = 2.0
    trace: tuple[int, int] = (0, 0)
    """First microbatch to keep the times of, and the first one not to."""


@dataclass(frozen=True, kw_only=True)
class StageUse:
    """Shares of a stage's time in the second half of the run; they add up to 1."""

    stage: int
    host: int
    compute_s: float
    """Mean."""
    busy: float
    starved: float
    """Waiting for input."""
    blocked: float
    """Waiting for a free send buffer."""

    @property
    def bubble(self) -> float:
        return self.starved + self.blocked


@dataclass(frozen=True, kw_only=True)
class LinkUse:
    boundary: int
    source: int
    """A host; the data host before the first stage."""
    destination: int
    transfer_s: float
    """Mean, slowed by what shares its way."""
    busy: float


@dataclass(frozen=True, kw_only=True)
class SharedUse:
    what: str
    """`sends` or `receives` of the data host's interface, or `medium`."""
    boundaries: tuple[int, ...]
    busy: float


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Seconds from when an item came, or got a buffer where items come whenever there is room, to its result."""

    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Times of some microbatches, seconds from the start: [stage or boundary][microbatch]; NaN inside a host."""

    first: int
    start_s: tuple[tuple[float, ...], ...]
    end_s: tuple[tuple[float, ...], ...]
    published_s: tuple[tuple[float, ...], ...]
    """When the stage had handed its result on and could take the next input."""
    send_start_s: tuple[tuple[float, ...], ...]
    send_end_s: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Simulation:
    period_s: float | None
    """Mean time between results while the stream is in full flow; None for a single microbatch."""
    throughput_items_per_s: float | None
    latency: Latencies
    fill_s: float
    """Until the first result."""
    total_s: float
    """Until the last one."""
    stages: tuple[StageUse, ...]
    links: tuple[LinkUse, ...]
    """Boundaries between two hosts."""
    shared: tuple[SharedUse, ...]
    trace: Trace = field(repr=False)


def simulate(problem: Problem, schedule: Schedule, runtime: Runtime, options: Options) -> Simulation:
    """Runs `schedule` on the hosts of `problem`; the same seed gives the same figures.

    Raises:
        ValueError: an option is out of its range; names it.
    """
    assert problem.data_host is not None
    module = native_module()
    ends = [problem.data_host, *(stage.host for stage in schedule.stages), problem.data_host]
    spec: native.PipelineSpec = module.PipelineSpec()
    spec.compute_s = [stage.compute_s for stage in schedule.stages]
    spec.transfer_s = [*(stage.receive_s for stage in schedule.stages), schedule.stages[-1].send_s]
    spec.latency_s = [_latency_s(problem, *pair) for pair in pairwise(ends)]
    spec.local = [int(first == second) for first, second in pairwise(ends)]
    shared = interfaces_of(problem, ends)
    spec.shared = [_shared_spec(shares) for _, shares in shared]
    spec.num_buffers_in, spec.num_buffers_out = runtime.num_buffers_in, runtime.num_buffers_out
    spec.num_microbatches = options.num_microbatches
    spec.ready_s = _ready_s(options)
    spec.sigma = math.log(options.jitter) / _Z95
    spec.seed = options.seed
    spec.num_warm_up, spec.warm_up_factor = options.num_warm_up, options.warm_up_factor
    spec.count_from = options.num_microbatches // 2
    spec.trace_from, spec.trace_to = options.trace
    result: native.SimulationResult = module.simulate(spec)
    period_s = _period_s(result.fed_s, result.result_s)
    stages = _stages(schedule, result, options.num_microbatches - spec.count_from)
    return Simulation(
        period_s=period_s,
        throughput_items_per_s=options.microbatch / period_s if period_s else None,
        latency=_latencies(result.fed_s, result.result_s, options),
        fill_s=result.result_s[0],
        total_s=result.result_s[-1],
        stages=stages,
        links=_links(ends, spec, result),
        shared=tuple(
            SharedUse(
                what=what,
                boundaries=tuple(shares),
                busy=sum(spec.transfer_s[boundary] * share for boundary, share in shares.items()) / period_s,
            )
            for what, shares in shared
            if period_s
        ),
        trace=_trace(spec, result),
    )


def _latency_s(problem: Problem, source: int, destination: int) -> float:
    if source == destination:
        return 0.0
    links = problem.links
    return links.latency_s[source][destination] if isinstance(links, PairwiseLinks) else links.latency_s


_Shared = tuple[str, dict[int, float]]
"""What it is, and for each boundary that crosses it the share that a message alone takes."""


def interfaces_of(problem: Problem, ends: list[int]) -> list[_Shared]:
    """What several boundaries cross: a medium, or the data host's interface in one direction.

    Args:
        ends: the hosts of the data, of each stage, and of the data again.
    """
    crossing = [boundary for boundary, (source, destination) in enumerate(pairwise(ends)) if source != destination]
    if isinstance(problem.links, SharedMedium):
        return [("medium", dict.fromkeys(crossing, 1.0))] if len(crossing) > 1 else []
    data_host = ends[0]
    found = []
    for what, offset in (("sends", 0), ("receives", 1)):
        mine = [boundary for boundary in crossing if ends[boundary + offset] == data_host]
        if len(mine) > 1:
            peers = [ends[boundary + 1 - offset] for boundary in mine]
            shares = (_share(problem, data_host, peer) for peer in peers)
            found.append((what, dict(zip(mine, shares, strict=True))))
    return found


def _share(problem: Problem, data_host: int, peer: int) -> float:
    """Of the data host's interface, for a message to or from `peer` that is alone on its way."""
    own, other = (problem.hosts[host].bandwidth_bytes_per_s for host in (data_host, peer))
    if not isinstance(problem.links, HostLinks) or own is None or other is None:
        return 1.0
    return min(1.0, other / own)


def _shared_spec(shares: dict[int, float]) -> native.SharedSpec:
    spec: native.SharedSpec = native_module().SharedSpec()
    spec.boundaries, spec.share = list(shares), list(shares.values())
    return spec


def _ready_s(options: Options) -> list[float]:
    """When the last item of each microbatch has come; [] where items come whenever there is room."""
    if options.rate_items_per_s is None:
        return []
    step = options.microbatch
    return [((index + 1) * step - 1) / options.rate_items_per_s for index in range(options.num_microbatches)]


def _period_s(fed_s: list[float], result_s: list[float]) -> float | None:
    """Over the results that came while items were still fed, from the middle one on; over the last half if few did."""
    while_fed = bisect_right(result_s, fed_s[-1])
    last = while_fed - 1 if while_fed > 8 else len(result_s) - 1
    first = last // 2
    return (result_s[last] - result_s[first]) / (last - first) if last > first else None


def _latencies(fed_s: list[float], result_s: list[float], options: Options) -> Latencies:
    rate, size = options.rate_items_per_s, options.microbatch
    if rate is None:
        values = sorted(result - fed for fed, result in zip(fed_s, result_s, strict=True))
    else:
        values = sorted(
            result - (index * size + item) / rate
            for index, result in enumerate(result_s)
            for item in range(max(1, round(size)))
        )

    def quantile(share: float) -> float:
        return values[max(0, math.ceil(share * len(values)) - 1)]

    return Latencies(p50_s=quantile(0.5), p95_s=quantile(0.95), p99_s=quantile(0.99), max_s=values[-1])


def _stages(schedule: Schedule, result: native.SimulationResult, num_counted: int) -> tuple[StageUse, ...]:
    uses = []
    for index, stage in enumerate(schedule.stages):
        sums = [getattr(result, name)[index] for name in ("busy_s", "starved_s", "blocked_s")]
        total = sum(sums) or 1.0
        busy, starved, blocked = (value / total for value in sums)
        uses.append(
            StageUse(
                stage=index,
                host=stage.host,
                compute_s=sums[0] / num_counted,
                busy=busy,
                starved=starved,
                blocked=blocked,
            )
        )
    return tuple(uses)


def _links(ends: list[int], spec: native.PipelineSpec, result: native.SimulationResult) -> tuple[LinkUse, ...]:
    """Busy in the time of the stage that takes or, for results, gives the messages."""
    uses = []
    sums = [getattr(result, name) for name in ("busy_s", "starved_s", "blocked_s")]
    num_stages = len(ends) - 2
    counted = spec.num_microbatches - spec.count_from
    sending_s = result.sending_s
    for boundary, (source, destination) in enumerate(pairwise(ends)):
        if source == destination:
            continue
        span_s = sum(values[min(boundary, num_stages - 1)] for values in sums) or 1.0
        uses.append(
            LinkUse(
                boundary=boundary,
                source=source,
                destination=destination,
                transfer_s=sending_s[boundary] / counted,
                busy=min(1.0, sending_s[boundary] / span_s),
            )
        )
    return tuple(uses)


def _trace(spec: native.PipelineSpec, result: native.SimulationResult) -> Trace:
    first, stop = spec.trace_from, spec.trace_to
    width = max(0, stop - first)

    def rows(name: str) -> tuple[tuple[float, ...], ...]:
        flat = getattr(result, name)
        return tuple(tuple(flat[at : at + width]) for at in range(0, len(flat), width)) if width else ()

    return Trace(
        first=first,
        start_s=rows("trace_start_s"),
        end_s=rows("trace_end_s"),
        published_s=rows("trace_published_s"),
        send_start_s=rows("trace_send_start_s"),
        send_end_s=rows("trace_send_end_s"),
    )
