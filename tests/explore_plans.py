"""Plans out of figures alone: what the compiler would write for such a model and cluster, without either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgecompile.contract.cluster import Device, Host, Limits, Network, SpareHost
from edgecompile.contract.costs import BoundaryEntry, Scheduling, UnitEntry
from edgecompile.contract.plan import (
    Certificate,
    DataSpec,
    Golden,
    ModelInfo,
    Plan,
    Predicted,
    Runtime,
    Stage,
    StagePrediction,
    TensorSpec,
)
from edgecompile.planning.from_plan import bottleneck_name, problem_of
from edgecompile.planning.problem import Assignment, Schedule
from edgecompile.planning.solver import evaluate, solve

RUNTIME_BYTES = 1000
RATE = 1e6
FORMATS = {"fp32": 1.0, "int8": 0.25}


def make_plan(
    kinds: Mapping[str, Sequence[float]],
    hosts: Sequence[tuple[str, str]],
    sizes: Sequence[int],
    *,
    assignments: Sequence[tuple[int, int, int]] | None = None,
    memory: Mapping[str, int] | None = None,
    rates: Mapping[str, float] | None = None,
    network: Network | None = None,
    microbatch: int = 1,
    buffers: tuple[int, int] = (2, 2),
    encode_s: float = 0.0,
    **asked: Any,
) -> Plan:
    """A plan.

    Args:
        kinds: seconds of each of L units, by device kind.
        hosts: name and kind, the data host first.
        sizes: L + 1 bytes of what crosses each boundary.
        assignments: first unit, last unit and host of each stage; None: the best there are.
        memory, rates: of the hosts that have other than plenty and 1 MB/s.
        encode_s: seconds that int8 costs to encode; decoding costs half.
        asked: fields of Scheduling.
    """
    (num_units,) = {len(seconds) for seconds in kinds.values()}
    plan = Plan(
        version=1,
        model=ModelInfo(name="figures", microbatch=microbatch, num_parameters=1, weights="none", capture="none"),
        objective="period",
        predicted=Predicted(throughput_items_per_s=1.0, period_s=1.0, latency_s=1.0, bottleneck=""),
        certificate=Certificate(method="exact", period_s=1.0, lower_bound_s=1.0, gap=0.0),
        hosts=(),
        unused_hosts=tuple(_spare(name, kind, memory or {}, rates or {}) for name, kind in hosts),
        cluster=tuple(name for name, _ in hosts),
        devices=tuple(_device(name) for name in kinds),
        network=network or Network(model="host"),
        runtime=Runtime(num_buffers_in=buffers[0], num_buffers_out=buffers[1], timeout_s=60.0),
        inputs=_tensors(sizes[0], microbatch),
        outputs=_tensors(sizes[-1], microbatch),
        data=DataSpec(kind="tensor"),
        golden=Golden(file="golden.safetensors", sha256="0" * 64, num_items=1, tolerance={"x": 0.0}),
        stages=(),
        scheduling=Scheduling(method="exact", wire="fp32", state_budget=1_000_000, **asked),
        boundaries=tuple(
            _boundary(index, size, 0 < index < num_units, list(kinds), encode_s) for index, size in enumerate(sizes)
        ),
        units=tuple(
            UnitEntry(unit=index, op=f"blocks.{index}.linear", boundary=index, flops=1, weight_bytes=100,
                      activation_bytes=10, time_s={name: seconds[index] for name, seconds in kinds.items()})
            for index in range(num_units)
        ),
    )  # fmt: skip
    problem = problem_of(plan)
    if assignments is None:
        return with_stages(plan, solve(problem))
    given = [Assignment(first=first, last=last, host=host) for first, last, host in assignments]
    return with_stages(plan, evaluate(problem, given))


def with_stages(plan: Plan, schedule: Schedule) -> Plan:
    """The plan with these stages, and ranks to run them."""
    every = plan.all_hosts
    ranks = [0, *(stage.host for stage in schedule.stages if stage.host != 0)]
    boundaries = [*(plan.boundaries[unit.boundary] for unit in plan.units), plan.boundaries[-1]]

    def tensors(cut: int) -> tuple[TensorSpec, ...]:
        return _tensors(boundaries[cut].wire_bytes["fp32"], plan.model.microbatch)

    stages = tuple(
        Stage(
            stage=index, rank=ranks.index(stage.host), units=(stage.first, stage.last),
            first_op=plan.units[stage.first].op, last_op=plan.units[stage.last].op, shard=f"shards/{index}.pt",
            sha256="0" * 64, inputs=tensors(stage.first), outputs=tensors(stage.last + 1),
            predicted=StagePrediction(compute_s=stage.compute_s, send_s=stage.send_s, memory_bytes=stage.memory_bytes),
        )
        for index, stage in enumerate(schedule.stages)
    )  # fmt: skip
    found = schedule.certificate
    return replace(
        plan,
        predicted=Predicted(
            throughput_items_per_s=plan.model.microbatch / schedule.period_s,
            period_s=schedule.period_s,
            latency_s=schedule.latency_s,
            bottleneck=bottleneck_name(schedule, plan.cluster),
        ),
        certificate=Certificate(
            method=found.method, period_s=found.period_s, lower_bound_s=found.lower_bound_s, gap=found.gap
        ),
        hosts=tuple(_host(rank, every[index]) for rank, index in enumerate(ranks)),
        unused_hosts=tuple(
            SpareHost(name=host.name, address=host.address, port=host.port, device=host.device, threads=host.threads,
                      limits=host.limits)
            for index, host in enumerate(every)
            if index not in ranks
        ),
        stages=stages,
    )  # fmt: skip


def _spare(name: str, kind: str, memory: Mapping[str, int], rates: Mapping[str, float]) -> SpareHost:
    limits = Limits(memory_bytes=memory.get(name, 10**12), bandwidth_bytes_per_s=rates.get(name, RATE))
    return SpareHost(name=name, address="127.0.0.1", port=29500, device=kind, threads=1, limits=limits)


def _host(rank: int, host: Host | SpareHost) -> Host:
    return Host(rank=rank, name=host.name, address=host.address, port=host.port, device=host.device, execution="cpu",
                dtype="float32", threads=host.threads, limits=host.limits)  # fmt: skip


def _device(name: str) -> Device:
    return Device(name=name, execution="cpu", dtype="float32", peak_flops_per_s=1e9, memory_bytes_per_s=1e9,
                  launch_s=0.0, memory_bytes=10**12, runtime_bytes=RUNTIME_BYTES, network_bytes_per_s=RATE,
                  threads=1)  # fmt: skip


def _boundary(index: int, size: int, inner: bool, kinds: list[str], encode_s: float) -> BoundaryEntry:
    formats = FORMATS if inner else {"fp32": 1.0}
    encode = {name: encode_s if name == "int8" else 0.0 for name in formats}
    decode = {name: seconds / 2 for name, seconds in encode.items()}
    return BoundaryEntry(
        boundary=index,
        wire_bytes={name: round(size * share) for name, share in formats.items()},
        encode_s={kind: dict(encode) for kind in kinds},
        decode_s={kind: dict(decode) for kind in kinds},
    )


def _tensors(size: int, microbatch: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="x", shape=(microbatch, size), dtype="uint8"),)
