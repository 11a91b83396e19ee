"""Runs one range of units as a stage would, whole and unit by unit, to time it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecompile.artifacts.shards import freeze_module, live_module, stage_module
from edgecompile.execution.allocator import give_back
from edgecompile.execution.prepack import pays_here, prepack_traced
from edgecompile.execution.torchscript import plain_execution
from edgecompile.frontend.chain.units import Chain
from edgecompile.measure.stretches import Atom, atoms_of

__all__ = ["Bench", "Sample", "peak_growth_bytes"]

_WARM_RUNS = 2
_MEMORY_RUNS = 4
"""The heap of a rank grows for a few microbatches, until each operator finds a place of the right size."""


@dataclass(frozen=True)
class Sample:
    """Seconds of one run on the wall, and of all this process's threads on their cores."""

    wall_s: float
    cpu_s: float


class Bench:
    """Units `first` to `last` with random weights on the device, frozen as their shard would be.

    The weights live as long as the bench does.
    """

    def __init__(
        self,
        chain: Chain,
        first: int,
        last: int,
        atoms: Sequence[Atom],
        examples: Sequence[torch.Tensor],
        device: str,
        prepack: str = "auto",
    ) -> None:
        """
        Args:
            atoms: to time one by one, in order, covering the range; empty: only the whole is timed.
            examples: the model's inputs, one microbatch.
            prepack: `runtime.prepack`.
        """
        self.device = device
        self._packs = device == "cpu" and pays_here(prepack)
        self._wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else _nothing
        weights = _Weights(device)
        self._inputs = _boundary_tensors(chain, first, examples, device)
        with torch.inference_mode(False):
            try:
                self._build(chain, first, last, atoms, weights)
            except (RuntimeError, IndexError):  # operators that insist on values which made-up tensors do not have
                self._inputs = _real_tensors(chain, first, examples, device)
                self._build(chain, first, last, atoms, weights)

    def _build(self, chain: Chain, first: int, last: int, atoms: Sequence[Atom], weights: _Weights) -> None:
        self._whole = self._frozen(weights, stage_module(chain, first, last), self._inputs)
        self._live = _live_tensors(chain, first, self._inputs)
        self._atoms = self._build_atoms(chain, atoms, weights)
        for _ in range(_WARM_RUNS):
            self.run_whole()
            self.run_atoms()

    def _build_atoms(self, chain: Chain, atoms: Sequence[Atom], weights: _Weights) -> list[Any]:
        """What is made again where a stage begins is not an atom's work: they hand on what is alive."""
        built = []
        values: Sequence[torch.Tensor] = self._live
        for atom in atoms:
            module = self._frozen(weights, stage_module(chain, atom.first, atom.last, live=True), tuple(values))
            with torch.no_grad():
                values = module(*values)
            built.append(module)
        return built

    def _frozen(self, weights: _Weights, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
        """The module as a rank would run it."""
        frozen = freeze_module(weights.filled(module), inputs)
        if not self._packs:
            return frozen.module
        return prepack_traced(frozen.module, frozen.rows, known=weights.prepacked)

    def run_whole(self) -> Sample:
        """One run of the whole range."""
        with torch.inference_mode(), plain_execution():
            begin_s, begin_cpu_s = self._now()
            results = self._whole(*self._inputs)
            end_s, end_cpu_s = self._now()
            del results
        return Sample(end_s - begin_s, end_cpu_s - begin_cpu_s)

    def run_atoms(self) -> list[Sample]:
        """One run, each atom timed by itself; tensors are freed as soon as no later atom reads them."""
        samples = []
        values: Sequence[torch.Tensor] = self._live
        with torch.inference_mode(), plain_execution():
            for module in self._atoms:
                begin_s, begin_cpu_s = self._now()
                values = module(*values)
                end_s, end_cpu_s = self._now()
                samples.append(Sample(end_s - begin_s, end_cpu_s - begin_cpu_s))
        return samples

    def _now(self) -> tuple[float, float]:
        self._wait()
        return time.perf_counter(), time.process_time()

    def warm_inputs(self) -> None:
        """Brings the inputs into the caches, where the link or the units before have just left them."""
        for value in self._inputs:
            value.clone()


def _nothing() -> None:
    pass


class _Weights:
    """Random weights in place of those of the model, the same ones wherever a weight is read again."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._made: dict[int, Any] = {}
        self.prepacked: dict[int, torch.Tensor] = {}

    def filled(self, module: nn.Module) -> nn.Module:
        """A copy of the module that holds them. Buffers keep their values: they are indices, masks and tables."""
        for value in module.parameters():
            if id(value) not in self._made:
                self._made[id(value)] = nn.Parameter(_random(value).to(self._device), requires_grad=False)
        return copy.deepcopy(module, dict(self._made)).to(self._device)


def _random(like: torch.Tensor) -> torch.Tensor:
    """Numbers that keep activations of a usual size, so that none becomes infinite or denormal."""
    if not like.is_floating_point():
        return torch.zeros_like(like)
    value = torch.empty(like.shape, dtype=like.dtype)
    if like.dim() < 2:
        return value.uniform_(0.5, 1.5)
    deviation = 1 / math.sqrt(max(1, like[0].numel()))
    return value.uniform_(-1.7 * deviation, 1.7 * deviation)


def _boundary_tensors(
    chain: Chain, index: int, examples: Sequence[torch.Tensor], device: str
) -> tuple[torch.Tensor, ...]:
    """What a stage that begins here takes: the model's own inputs as they are, other floats random.

    Integers that the model computes are real: they are indices, and what they choose is the work.
    """
    inputs = {tensor.node: example for tensor, example in zip(chain.boundaries[0].tensors, examples, strict=True)}
    computed = [getattr(torch, tensor.dtype) for tensor in chain.boundaries[index].tensors if tensor.node not in inputs]
    if any(not dtype.is_floating_point and dtype is not torch.bool for dtype in computed):
        return _real_tensors(chain, index, examples, device)
    values = []
    for tensor in chain.boundaries[index].tensors:
        dtype = getattr(torch, tensor.dtype)
        if tensor.node in inputs:
            value = inputs[tensor.node].clone()
        elif dtype.is_floating_point:
            value = torch.randn(tensor.shape).to(dtype)
        else:
            value = torch.ones(tensor.shape, dtype=dtype)
        values.append(value.to(device))
    return tuple(values)


def _real_tensors(chain: Chain, index: int, examples: Sequence[torch.Tensor], device: str) -> tuple[torch.Tensor, ...]:
    """What the units before make of the examples, a few units in memory at a time, with random weights."""
    values: Sequence[torch.Tensor] = [example.clone() for example in examples]
    with torch.no_grad():
        for atom in atoms_of(chain):
            if atom.last < index:
                values = _Weights("cpu").filled(stage_module(chain, atom.first, atom.last))(*values)
    return tuple(value.contiguous().to(device) for value in values)


def _live_tensors(chain: Chain, index: int, travelled: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """What is alive where a stage begins, of what travels in its place."""
    boundary = chain.boundaries[index]
    if boundary.live == boundary.tensors:
        return tuple(travelled)
    with torch.no_grad():
        return tuple(live_module(chain, index).to(travelled[0].device)(*travelled))


def peak_growth_bytes(bench: Bench) -> int | None:
    """How much memory its runs add to this process at its peak; None where the system does not tell."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        bench.run_whole()
        return int(torch.cuda.max_memory_allocated() - before)
    try:
        give_back()
        clear.write_text("5", encoding="utf-8")  # resets the high-water mark
        before = _kilobytes(status.read_text(encoding="utf-8"), "VmRSS")
        for _ in range(_MEMORY_RUNS):
            bench.run_whole()
        after = _kilobytes(status.read_text(encoding="utf-8"), "VmHWM")
    except (OSError, KeyError):
        return None
    bench.run_atoms()  # takes back the pages that the next runs shall find
    return max(0, after - before) * 1024


def _kilobytes(text: str, key: str) -> int:
    entries = dict(line.split(":", 1) for line in text.splitlines())
    return int(entries[key].split()[0])
