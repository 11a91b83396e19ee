"""A plan of no model, with which the boards measure the links between them: `edgelaunch links` reads hosts from a plan.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgecompile.contract.cluster import Device, Host, Limits, Network
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

__all__ = ["link_plan"]

KIND = "board"
NOTHING = "0" * 64
MEMORY_BYTES = 1 << 30
S = 1e-3
JOIN_S = 60.0
"""For importing torch, on a slow board."""


def link_plan(names: Sequence[str], addresses: Sequence[str], ports: Sequence[int]) -> Plan:
    """Each host has a stage that is never loaded."""
    tensor = TensorSpec(name="nothing", shape=(1, 1), dtype="float32")
    count = len(names)
    free = {KIND: {"fp32": 0.0}}
    prediction = StagePrediction(compute_s=S, send_s=S, memory_bytes=1)
    return Plan(
        version=1,
        model=ModelInfo(name="links", microbatch=1, num_parameters=0, weights="random", capture="export"),
        objective="period",
        predicted=Predicted(throughput_items_per_s=1 / S, period_s=S, latency_s=S, bottleneck="stage 0"),
        certificate=Certificate(method="exact", period_s=S, lower_bound_s=S, gap=0.0),
        hosts=tuple(
            Host(rank=rank, name=names[rank], address=addresses[rank], port=ports[rank], device=KIND, execution="cpu",
                 dtype="float32", threads=1, limits=Limits(memory_bytes=MEMORY_BYTES))
            for rank in range(count)
        ),
        cluster=tuple(names),
        devices=(
            Device(name=KIND, execution="cpu", dtype="float32", peak_flops_per_s=1e9, memory_bytes_per_s=1e9,
                   launch_s=0.0, memory_bytes=MEMORY_BYTES, runtime_bytes=0, network_bytes_per_s=1e9, threads=1),
        ),
        network=Network(model="host"),
        runtime=Runtime(num_buffers_in=1, num_buffers_out=1, timeout_s=JOIN_S),
        inputs=(tensor,),
        outputs=(tensor,),
        data=DataSpec(kind="tensor"),
        golden=Golden(file="golden.safetensors", sha256=NOTHING, num_items=1, tolerance={tensor.name: 1.0}),
        stages=tuple(
            Stage(stage=rank, rank=rank, units=(rank, rank), first_op="nothing", last_op="nothing",
                  shard=f"shards/{rank}.pt", sha256=NOTHING, inputs=(tensor,), outputs=(tensor,), predicted=prediction)
            for rank in range(count)
        ),
        units=tuple(
            UnitEntry(unit=number, op="nothing", flops=1, weight_bytes=1, activation_bytes=1, boundary=number,
                      time_s={KIND: S})
            for number in range(count)
        ),
        scheduling=Scheduling(method="exact", wire="fp32", state_budget=1),
        boundaries=tuple(
            BoundaryEntry(boundary=number, wire_bytes={"fp32": 1}, encode_s=free, decode_s=free)
            for number in range(count + 1)
        ),
    )  # fmt: skip
