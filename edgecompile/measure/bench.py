"""Runs one range of units as a stage would, whole and unit by unit, to time it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from edgecompile.artifacts.lowering import Lowering, LowWeights
from edgecompile.artifacts.shards import freeze_module, live_module, needed_module, stage_module
from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.generation import state_within
from edgecompile.execution.allocator import give_back
from edgecompile.execution.attention import bound
from edgecompile.execution.prepack import pays_here, prepack_traced
from edgecompile.execution.slot_state import Step
from edgecompile.execution.torchscript import plain_execution
from edgecompile.frontend.chain.kept_state import state_of, usual_context
from edgecompile.frontend.chain.units import Chain
from edgecompile.measure.sizes import MeasuredSize
from edgecompile.measure.stretches import Atom, atoms_of
from edgecompile.measure.surroundings import KeptContext

__all__ = ["Bench", "Sample", "far_context", "peak_growth_bytes"]

Tensors = tuple[torch.Tensor, ...]

_WARM_RUNS = 2
_MEMORY_RUNS = 4
"""The heap of a rank grows for a few microbatches, until each operator finds a place of the right size."""


_FAR = 4
"""Times the usual context: attention is measured there too, for what each token more that it sees takes."""


def far_context(usual: int) -> int:
    return _FAR * usual


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
        sizes: Sequence[MeasuredSize] = (),
        precision: Precision = Precision.FP32,
        keep: Sequence[str] = (),
    ) -> None:
        """
        Args:
            atoms: to time one by one, in order, covering the range; empty: only the whole is timed.
            examples: the model's inputs, one microbatch, at the largest extents.
            prepack: `runtime.prepack`.
            sizes: to run at, all with one module that is traced at the largest, as a rank's is; empty: the examples'
                alone. Not empty only where the chain's sizes vary.
            precision: of products with weights, but for those of the modules to `keep`.

        Raises:
            NotSymbolic: with `sizes`, an atom alone lacks a tensor with a dimension that it needs.
        """
        self.device = device
        self._packs = device == "cpu" and pays_here(prepack, precision)
        self._lowering = Lowering(precision=precision, weights=LowWeights(), keep=tuple(keep))
        self._wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else _nothing
        self._generic = bool(sizes)
        self._sizes = sizes or (MeasuredSize(microbatch=len(examples[0])),)
        self._near, self._far = self._contexts(chain, first, last, bool(atoms))
        weights = _Weights(device)
        with torch.inference_mode(False):
            try:
                self._build(chain, first, last, atoms, examples, weights, _boundary_tensors)
            except (RuntimeError, IndexError):  # operators that insist on values which made-up tensors do not have
                self._build(chain, first, last, atoms, examples, weights, _real_tensors)

    def _contexts(
        self, chain: Chain, first: int, last: int, alone: bool
    ) -> tuple[KeptContext | None, KeptContext | None]:
        """What slots hold in the usual case, and where atoms run alone much more; None of units that keep nothing."""
        specs, usual = state_within(state_of(chain), (first, last)), usual_context(chain)
        if not specs or chain.captured.sampling is None:
            return None, None
        rows = max(size.microbatch for size in self._sizes)
        tokens = max(size.tokens(chain) for size in self._sizes)
        near = KeptContext(specs, rows, tokens, usual, self.device)
        return near, KeptContext(specs, rows, tokens, far_context(usual), self.device) if alone and usual else None

    def _build(
        self,
        chain: Chain,
        first: int,
        last: int,
        atoms: Sequence[Atom],
        examples: Sequence[torch.Tensor],
        weights: _Weights,
        made: Callable[[Chain, int, MeasuredSize, Sequence[torch.Tensor], str], Tensors],
    ) -> None:
        largest = made(chain, first, MeasuredSize(microbatch=len(examples[0])), examples, self.device)
        self._whole = self._frozen(weights, stage_module(chain, first, last, generic=self._generic), largest)
        self._atoms = self._build_atoms(chain, atoms, weights, _live_tensors(chain, first, largest))
        self._inputs = [made(chain, first, size, examples, self.device) for size in self._sizes]
        self._live = [_live_tensors(chain, first, inputs) for inputs in self._inputs]
        self._counts = [(size.microbatch, size.tokens(chain)) for size in self._sizes]
        self._steps = {
            far: [kept.step(*count) for count in self._counts] if kept is not None else []
            for far, kept in ((False, self._near), (True, self._far))
        }
        for place in range(len(self._sizes)):
            for _ in range(_WARM_RUNS):
                self.run_whole(place)
                self.run_atoms(place)
                if self.has_far:
                    self.run_atoms(place, far=True)

    @property
    def has_far(self) -> bool:
        """Whether its attention can be measured with more context than usual."""
        return self._far is not None

    def _build_atoms(self, chain: Chain, atoms: Sequence[Atom], weights: _Weights, values: Tensors) -> list[Any]:
        """What is made again where a stage begins is not an atom's work: they hand on what is alive."""
        built = []
        for atom in atoms:
            unfilled = stage_module(chain, atom.first, atom.last, live=True, generic=self._generic)
            module = self._frozen(weights, unfilled, tuple(values))
            with torch.no_grad():
                values = module(*values)
            built.append(module)
        return built

    def _frozen(self, weights: _Weights, module: fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> Any:
        """The module as a rank would run it."""
        frozen = freeze_module(self._lowering.applied(weights.filled(module)), inputs)
        if not self._packs:
            return frozen.module
        return prepack_traced(frozen.module, frozen.rows, known=weights.prepacked)

    def run_whole(self, place: int = 0) -> Sample:
        """One run of the whole range, at the size in this place."""
        with torch.inference_mode(), plain_execution():
            begin_s, begin_cpu_s = self._now()
            with _reading(None if self._near is None else self._near.step(*self._counts[place])):
                results = self._whole(*self._inputs[place])
            end_s, end_cpu_s = self._now()
            del results
        return Sample(end_s - begin_s, end_cpu_s - begin_cpu_s)

    def run_atoms(self, place: int = 0, *, far: bool = False) -> list[Sample]:
        """One run, each atom timed by itself; tensors are freed as soon as no later atom reads them.

        Args:
            far: with much more context than usual.
        """
        step = self._steps[far][place] if self._steps[far] else None
        samples = []
        values: Sequence[torch.Tensor] = self._live[place]
        with torch.inference_mode(), plain_execution(), _reading(step):
            for module in self._atoms:
                begin_s, begin_cpu_s = self._now()
                values = module(*values)
                end_s, end_cpu_s = self._now()
                samples.append(Sample(end_s - begin_s, end_cpu_s - begin_cpu_s))
        return samples

    def _now(self) -> tuple[float, float]:
        self._wait()
        return time.perf_counter(), time.process_time()

    def warm_inputs(self, place: int = 0) -> None:
        """Brings the inputs into the caches, where the link or the units before have just left them."""
        for value in self._inputs[place]:
            value.clone()


def _nothing() -> None:
    pass


def _reading(step: Step | None) -> AbstractContextManager[None]:
    """A rank makes a step a message, and its calls of attention share what it knows of it."""
    return nullcontext() if step is None else bound(step)


class _Weights:
    """Random weights in place of those of the model, the same ones wherever a weight is read again."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._made: dict[int, Any] = {}
        self.prepacked: dict[Hashable, torch.Tensor] = {}

    def filled(self, module: fx.GraphModule) -> fx.GraphModule:
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
    chain: Chain, index: int, size: MeasuredSize, examples: Sequence[torch.Tensor], device: str
) -> Tensors:
    """What a stage that begins here takes: the model's own inputs as they are, other floats random.

    Integers that the model computes are real: they are indices, and what they choose is the work.
    """
    own = size.inputs(chain, examples)
    inputs = {tensor.node: example for tensor, example in zip(chain.boundaries[0].tensors, own, strict=True)}
    known = {node: example.clone() for node, example in inputs.items()}
    computed = [tensor for tensor in chain.boundaries[index].tensors if tensor.node not in inputs]
    indices = [tensor for tensor in computed if _is_integer(getattr(torch, tensor.dtype))]
    if indices:
        module = needed_module(chain, index, indices, generic=chain.captured.sampling is not None)
        if module is None:
            return _real_tensors(chain, index, size, examples, device)
        with torch.no_grad():
            found = module(*(example.clone() for example in own))
        known |= {tensor.node: value.contiguous() for tensor, value in zip(indices, found, strict=True)}
    values = []
    for tensor in chain.boundaries[index].at(size.sizes(chain)).tensors:
        dtype = getattr(torch, tensor.dtype)
        if tensor.node in known:
            value = known[tensor.node]
        elif dtype.is_floating_point:
            value = torch.randn(tensor.shape).to(dtype)
        else:
            value = torch.ones(tensor.shape, dtype=dtype)
        values.append(value.to(device))
    return tuple(values)


def _is_integer(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point and dtype is not torch.bool


def _real_tensors(
    chain: Chain, index: int, size: MeasuredSize, examples: Sequence[torch.Tensor], device: str
) -> Tensors:
    """What the units before make of the examples, a few units in memory at a time, with random weights."""
    values: Sequence[torch.Tensor] = [example.clone() for example in size.inputs(chain, examples)]
    with torch.no_grad():
        for atom in atoms_of(chain):
            if atom.last < index:
                module = stage_module(chain, atom.first, atom.last, generic=chain.captured.sampling is not None)
                values = _Weights("cpu").filled(module)(*values)
    return tuple(value.contiguous().to(device) for value in values)


def _live_tensors(chain: Chain, index: int, travelled: Sequence[torch.Tensor]) -> Tensors:
    """What is alive where a stage begins, of what travels in its place."""
    boundary = chain.boundaries[index]
    if boundary.live == boundary.tensors:
        return tuple(travelled)
    with torch.no_grad():
        module = live_module(chain, index, generic=chain.captured.sampling is not None)
        return tuple(module.to(travelled[0].device)(*travelled))


def peak_growth_bytes(bench: Bench, place: int = 0) -> int | None:
    """How much memory its runs add to this process at its peak; None where the system does not tell."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        bench.run_whole(place)
        return int(torch.cuda.max_memory_allocated() - before)
    try:
        give_back()
        clear.write_text("5", encoding="utf-8")  # resets the high-water mark
        before = _kilobytes(status.read_text(encoding="utf-8"), "VmRSS")
        for _ in range(_MEMORY_RUNS):
            bench.run_whole(place)
        after = _kilobytes(status.read_text(encoding="utf-8"), "VmHWM")
    except (OSError, KeyError):
        return None
    bench.run_atoms(place)  # takes back the pages that the next runs shall find
    return max(0, after - before) * 1024


def _kilobytes(text: str, key: str) -> int:
    entries = dict(line.split(":", 1) for line in text.splitlines())
    return int(entries[key].split()[0])
