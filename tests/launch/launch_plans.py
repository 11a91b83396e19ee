"""Writes tiny plans with hand-made TorchScript shards: what the compiler would write, without the compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from edgecompile.contract.cluster import Device, Host, Limits, Network
from edgecompile.contract.costs import BoundaryEntry, Scheduling, UnitEntry
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan import (
    Certificate,
    Contingency,
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
from edgecompile.execution import torchscript

Tensors = dict[str, torch.Tensor]


@dataclass
class Part:
    """One stage: a module from the tensors of the boundary before to those named in `outputs`."""

    module: torch.nn.Module
    outputs: Sequence[str]


@dataclass
class Written:
    path: Path
    plan: Plan
    parts: list[Part]
    microbatch: int
    names: list[str] = field(default_factory=list)

    def eager(self, items: Tensors) -> Tensors:
        """All items (N, ...) through the parts, a microbatch at a time, padded as the runtime pads."""
        names = [spec.name for spec in self.plan.inputs]
        count = len(items[names[0]])
        results: list[list[torch.Tensor]] = []
        for begin in range(0, count, self.microbatch):
            rows = [min(begin + index, count - 1) for index in range(self.microbatch)]
            values: Any = tuple(items[name][rows] for name in names)
            for part in self.parts:
                values = part.module(*values)
            valid = min(self.microbatch, count - begin)
            results.append([value[:valid] for value in values])
        outputs = self.parts[-1].outputs
        return {name: torch.cat([row[index] for row in results]) for index, name in enumerate(outputs)}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def save(written: Written) -> None:
    """Writes the plan, also one that breaks a rule."""
    text = yaml.dump(asdict(written.plan), Dumper=_Dumper, sort_keys=False)
    written.path.write_text(text, encoding="utf-8")


def rehash_golden(written: Written) -> None:
    """After a test changed the golden file."""
    hash_golden(written)
    save(written)


def hash_golden(written: Written) -> None:
    golden = replace(written.plan.golden, sha256=file_sha256(written.path.parent / written.plan.golden.file))
    written.plan = replace(written.plan, golden=golden)


def export_stage(written: Written, number: int, module: torch.nn.Module) -> None:
    """Writes a stage's shard as a torch.export program."""
    stage = written.plan.stages[number]
    inputs = tuple(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in stage.inputs)
    path = written.path.parent / "shards" / f"{number}.pt2"
    torch.export.save(torch.export.export(module.eval(), inputs, strict=False), path)
    stage = replace(stage, shard=f"shards/{number}.pt2", sha256=file_sha256(path), artifact="pt2")
    stages = [stage if index == number else other for index, other in enumerate(written.plan.stages)]
    written.plan = replace(written.plan, stages=tuple(stages))
    save(written)


def specs_of(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
        for name, tensor in zip(names, tensors, strict=True)
    )


DEVICE = Device(name="cpu", execution="cpu", dtype="float32", peak_flops_per_s=1e11, memory_bytes_per_s=1e10,
                launch_s=0.0, memory_bytes=1 << 30, runtime_bytes=0, network_bytes_per_s=1e9, threads=1)  # fmt: skip


def write(
    folder: Path,
    inputs: Tensors,
    parts: list[Part],
    *,
    microbatch: int = 2,
    ranks: Sequence[int] | None = None,
    addresses: Sequence[str] | None = None,
    data: DataSpec | None = None,
    timeout_s: float = 20.0,
    detect_s: float = 4.0,
    rejoin_s: float = 0.0,
    port: int = 29999,
    change: Callable[[Plan], Plan] = lambda plan: plan,
) -> Written:
    """`inputs`: golden items (N, ...) by input name. `ranks`: each stage's, default 0, 1, ..."""
    ranks = list(range(len(parts))) if ranks is None else list(ranks)
    addresses = addresses or ["127.0.0.1"] * (max(ranks) + 1)
    stages = save_stages(folder, {name: tensor[[0] * microbatch] for name, tensor in inputs.items()}, parts, ranks)
    outputs = stages[-1].outputs
    free = {"cpu": {"fp32": 0.0}}
    plan = Plan(
        version=1,
        model=ModelInfo(name="tiny", microbatch=microbatch, num_parameters=1, weights="random", capture="export"),
        objective="period",
        predicted=Predicted(throughput_items_per_s=1000.0, period_s=0.002, latency_s=0.004, bottleneck="stage 0"),
        certificate=Certificate(method="exact", period_s=0.002, lower_bound_s=0.002, gap=0.0),
        hosts=tuple(_host(rank, address, port) for rank, address in enumerate(addresses)),
        cluster=tuple(f"host-{rank}" for rank in range(len(addresses))),
        devices=(DEVICE,),
        network=Network(model="host"),
        runtime=Runtime(
            num_buffers_in=2, num_buffers_out=2, timeout_s=timeout_s, detect_s=detect_s, rejoin_s=rejoin_s
        ),
        inputs=stages[0].inputs,
        outputs=outputs,
        data=data or DataSpec(kind="tensor"),
        golden=Golden(file="golden.safetensors", sha256="0" * 64, num_items=len(next(iter(inputs.values()))),
                      tolerance={spec.name: 1e-5 for spec in outputs}),
        stages=stages,
        units=tuple(
            UnitEntry(unit=number, op=f"op{number}", flops=1, weight_bytes=1, activation_bytes=1, boundary=number,
                      time_s={"cpu": 0.001})
            for number in range(len(parts))
        ),
        scheduling=Scheduling(method="exact", wire="fp32", state_budget=1_000_000),
        boundaries=tuple(
            BoundaryEntry(boundary=number, wire_bytes={"fp32": 1}, encode_s=free, decode_s=free)
            for number in range(len(parts) + 1)
        ),
    )  # fmt: skip
    written = Written(folder / "plan.yaml", plan, parts, microbatch)
    save_golden(written, inputs)
    written.plan = change(written.plan)
    save(written)
    return written


def _host(rank: int, address: str, port: int) -> Host:
    return Host(rank=rank, name=f"host-{rank}", address=address, port=port, device="cpu", execution="cpu",
                dtype="float32", threads=1, limits=Limits(memory_bytes=1 << 30))  # fmt: skip


def save_stages(folder: Path, values: Tensors, parts: list[Part], ranks: Sequence[int]) -> tuple[Stage, ...]:
    """Writes the shards, traced with one microbatch of inputs."""
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    tensors: tuple[torch.Tensor, ...] = tuple(values.values())
    boundary = specs_of(list(values), tensors)
    stages = []
    for number, part in enumerate(parts):
        module = part.module.eval()
        traced = module
        if not isinstance(module, torch.jit.ScriptModule):
            traced = torchscript.trace(module, tensors)
        shard = folder / "shards" / f"{number}.pt"
        torchscript.save(torchscript.freeze(traced), shard)
        tensors = module(*tensors)
        outputs = specs_of(part.outputs, tensors)
        stages.append(
            Stage(
                stage=number, rank=ranks[number], units=(number, number), first_op=f"op{number}", last_op=f"op{number}",
                shard=f"shards/{number}.pt", sha256=file_sha256(shard), inputs=boundary, outputs=outputs,
                predicted=StagePrediction(compute_s=0.001, send_s=0.0001, memory_bytes=1 << 20),
            )
        )  # fmt: skip
        boundary = outputs
    return tuple(stages)


def save_golden(written: Written, inputs: Tensors) -> None:
    """Writes the golden items with what the parts make of them, and their hash into the plan."""
    with torch.no_grad():
        outputs = written.eager(inputs)
    golden = {f"input.{name}": tensor.contiguous() for name, tensor in inputs.items()}
    golden |= {f"output.{name}": tensor.contiguous() for name, tensor in outputs.items()}
    save_file(golden, written.path.parent / written.plan.golden.file)
    hash_golden(written)


# --- models --------------------------------------------------------------------------------------------------------


class First(torch.nn.Module):
    """Two inputs; an int and a bool tensor cross the cut, and one input passes through as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 8)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.embedding(ids), mask, ids.sum(1), ids > 7


class Second(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, total: torch.Tensor, big: torch.Tensor) -> Any:
        # a view of an input and a transposed tensor leave this stage: neither is a fresh contiguous tensor
        return self.linear(hidden).transpose(1, 2), mask.view(mask.shape), total, big


class Third(torch.nn.Module):
    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, total: torch.Tensor, big: torch.Tensor) -> Any:
        weights = mask.unsqueeze(1).to(hidden.dtype)
        return (hidden * weights).sum(2).softmax(-1), total + 1, big & mask.bool(), hidden.bfloat16()


def three_stages(folder: Path, **options: Any) -> Written:
    torch.manual_seed(0)
    inputs = {"ids": torch.randint(0, 50, (5, 6)), "mask": torch.randint(0, 2, (5, 6))}
    boundary = ["hidden", "mask", "total", "big"]
    parts = [Part(First(), boundary), Part(Second(), boundary), Part(Third(), ["scores", "total", "big", "raw"])]
    return write(folder, inputs, parts, **options)


class Scale(torch.nn.Module):
    """Sleeps or fails where the first element says so: for runs that must last, or end badly."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (x * self.factor,)


class Failing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        assert bool((x >= 0).all()), "the shard met a negative number"
        return (x,)


class Heavy(torch.nn.Module):
    """Keeps a core busy for some milliseconds."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        y = torch.ones(400, 400) * x.sum()  # of x, so that no optimiser computes it once and for all
        for _ in range(20):
            y = (y @ y).clamp(0.0, 1.0)
        return (x + y[0, 0] - y[0, 0],)


def floats(folder: Path, num_stages: int = 2, middle: torch.nn.Module | None = None, **options: Any) -> Written:
    """One float input (4,), one output `y`; `middle` in place of the second stage's module."""
    torch.manual_seed(1)
    parts = [Part(Scale(2.0), ["y"]) for _ in range(num_stages)]
    if middle is not None:
        torchscript.silence_deprecation()
        parts[min(1, num_stages - 1)] = Part(torch.jit.script(middle), ["y"])
    return write(folder, {"x": torch.rand(6, 4)}, parts, **options)


def with_contingencies(written: Written) -> Written:
    """For the loss of each rank but 0: the stage before it takes over its unit. For plans of `floats`."""
    plan, folder = written.plan, written.path.parent
    fallbacks = []
    for lost in range(1, len(plan.stages)):
        pair = torch.nn.Sequential(_Unpacked(written.parts[lost - 1].module), _Unpacked(written.parts[lost].module))
        modules: list[torch.nn.Module] = [part.module for part in written.parts]
        modules[lost - 1 : lost + 1] = [_Packed(pair)]
        kept = [stage for stage in plan.stages if stage.rank != lost]
        stages = []
        for number, (stage, module) in enumerate(zip(kept, modules, strict=True)):
            units = (stage.units[0], stage.units[1] + (number == lost - 1))
            name = f"shards/without-{lost}-{number}.pt"
            values = tuple(torch.ones(spec.shape) for spec in stage.inputs)
            torchscript.save(torchscript.freeze(torchscript.trace(module.eval(), values)), folder / name)
            stages.append(replace(stage, stage=number, units=units, shard=name, sha256=file_sha256(folder / name)))
        fallbacks.append(Contingency(lost=plan.hosts[lost].name, predicted=plan.predicted,
                                     certificate=plan.certificate, stages=tuple(stages)))  # fmt: skip
    written.plan = replace(plan, contingencies=tuple(fallbacks))
    save(written)
    return written


class _Unpacked(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)[0]


class _Packed(_Unpacked):
    def forward(self, x: torch.Tensor) -> Any:
        return (self.module(x),)
