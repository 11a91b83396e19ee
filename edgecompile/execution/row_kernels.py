"""Operators that a rank's graph alone has: products of eight bits and all that stands between them, row by row.

A language model's step of one token is some fifty small operators a layer, which together take as long as its products
do. By native code, for one thread; with more of them torch's own operators share the work.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import mmap
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from edgecompile.execution.low_precision import LEAST, LEVELS

__all__ = [
    "GATE_AND_SCALE",
    "NORMALIZE",
    "NORMALIZE_AND_SCALE",
    "SCALE",
    "STRETCH",
    "Link",
    "Operand",
    "PackedWeights",
    "Stretch",
    "candidates",
    "native",
    "native_products_run",
    "native_runs",
    "register_row_kernels",
]

native: Any = None
with contextlib.suppress(ImportError):  # of the source folder by itself nothing was built: torch computes the same
    from edgecompile import _native_text as native

SCALE, NORMALIZE = "edgecompile::scale_rows", "edgecompile::normalize_rows"
NORMALIZE_AND_SCALE, GATE_AND_SCALE = "edgecompile::normalize_and_scale_rows", "edgecompile::gate_and_scale_rows"
STRETCH = "edgecompile::stretch"
_REGISTERED: list[Any] = []
"""What is registered goes with the last reference to its library."""


def native_runs(*tensors: torch.Tensor) -> bool:
    """Whether native code is to compute on these."""
    if native is None or torch.get_num_threads() != 1:
        return False
    for tensor in tensors:  # noqa: SIM110
        if tensor.dtype is not torch.float32 or not tensor.is_cpu:
            return False
    return True


def scale_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations as integer products take them.

    Args:
        x: (..., size), float32.

    Returns:
        Each row times 127 over its largest value, and that value, (..., 1).
    """
    if not native_runs(x):
        worth = x.abs().amax(-1, keepdim=True).clamp_min(LEAST)
        return x * (LEVELS / worth), worth
    x, stride = _rows_of(x)
    scaled, worth = _room_for(x)
    native.scale(x.data_ptr(), stride, worth.numel(), x.shape[-1], scaled.data_ptr(), worth.data_ptr(), LEVELS, LEAST)
    return scaled, worth


def normalize_rows(x: torch.Tensor, weights: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Root mean square normalization of (..., size), with weights (size,)."""
    if not native_runs(x, weights) or not _one_each(weights, x):
        normal: torch.Tensor = weights * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon))
        return normal
    x, stride = _rows_of(x)
    result, size = torch.empty_like(x, memory_format=torch.contiguous_format), x.shape[-1]
    native.normalize(
        x.data_ptr(), stride, x.numel() // max(1, size), size, weights.data_ptr(), epsilon, result.data_ptr()
    )
    return result


def normalize_and_scale_rows(
    x: torch.Tensor, weights: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """scale_rows of normalize_rows."""
    if not native_runs(x, weights) or not _one_each(weights, x):
        return scale_rows(normalize_rows(x, weights, epsilon))
    x, stride = _rows_of(x)
    scaled, worth = _room_for(x)
    native.normalize_and_scale(
        x.data_ptr(), stride, worth.numel(), x.shape[-1], weights.data_ptr(), epsilon, scaled.data_ptr(),
        worth.data_ptr(), LEVELS, LEAST,
    )  # fmt: skip
    return scaled, worth


def gate_and_scale_rows(gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """scale_rows of silu(gate) * up, of the same shape."""
    if not native_runs(gate, up) or gate.shape != up.shape:
        return scale_rows(functional.silu(gate) * up)
    (gate, gate_stride), (up, up_stride) = _rows_of(gate), _rows_of(up)
    scaled, worth = _room_for(gate)
    native.gate_and_scale(
        gate.data_ptr(), gate_stride, up.data_ptr(), up_stride, worth.numel(), gate.shape[-1], scaled.data_ptr(),
        worth.data_ptr(), LEVELS, LEAST,
    )  # fmt: skip
    return scaled, worth


def candidates(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The most likely tokens, the most likely first: of equal ones that with the least id, as argmax has it.

    Args:
        logits: (rows, vocabulary).

    Returns:
        Their scores and their ids, (rows, count) each, and the logarithm of the sum of all exponentials, (rows,).
    """
    rows, size = logits.shape
    if native_runs(logits) and logits.is_contiguous() and count <= size:
        scores, ids, sums = (
            logits.new_empty(rows, count),
            logits.new_empty((rows, count), dtype=torch.int64),
            logits.new_empty(rows),
        )
        native.candidates(logits.data_ptr(), rows, size, count, scores.data_ptr(), ids.data_ptr(), sums.data_ptr())
        return scores, ids, sums
    scores, ids = logits.topk(count)
    best = logits.argmax(-1, keepdim=True)
    ids = torch.where(ids == best, ids[:, :1], ids)  # its score is the first one's, wherever topk put it
    ids[:, :1] = best
    return scores, ids, logits.logsumexp(-1)


# --- products --------------------------------------------------------------------------------------------------------


def native_products_run() -> bool:
    """Whether native code is to compute products of eight bits: with several threads FBGEMM's and oneDNN's share them.

    They beat both on one thread, by a third for one row and for many (AMD EPYC of the Zen 4 generation).
    """
    return native_runs() and bool(native.product_instructions())


class PackedWeights:
    """Room for the weights of a stage as native code reads them, one behind the other."""

    def __init__(self, shapes: Sequence[Sequence[int]]) -> None:
        """
        Args:
            shapes: (out, in) of what will be added.
        """
        self._room = _large_pages(sum(native.codes_size(*shape) for shape in shapes))
        self._end = 0

    def add(self, codes: torch.Tensor) -> torch.Tensor:
        """Weights (out, in), int8 from -127 to 127; returns where they are now."""
        out, size = codes.shape
        begin, self._end = self._end, self._end + native.codes_size(out, size)
        packed, codes = self._room[begin : self._end], codes.contiguous()
        native.pack_codes(codes.data_ptr(), out, size, packed.data_ptr())
        return packed


_PAGE_BYTES = 1 << 21


def _large_pages(num_bytes: int) -> torch.Tensor:
    """Memory in pages of 2 MiB where the system has them: a step of one token reads all weights, and in a virtual
    machine 4 KiB pages take longer to find than to read (5.5 ms against 3.5 for SmolLM2's layers, AMD EPYC)."""
    whole = mmap.mmap(-1, num_bytes + _PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            whole.madvise(mmap.MADV_HUGEPAGE)
    room = torch.frombuffer(whole, dtype=torch.uint8)
    begin = -room.data_ptr() % _PAGE_BYTES
    return room[begin : begin + num_bytes]


@dataclass(frozen=True)
class Operand:
    """A part of a value: as many numbers of each row as are needed, from `begin` on."""

    value: int
    """What a stretch is given comes first, then the result of each link."""
    begin: int = 0


@dataclass(frozen=True, kw_only=True)
class Link:
    """A product of eight bits, with what stands before and behind it."""

    packed: torch.Tensor
    scale: torch.Tensor
    """(out,): what a code of each output channel is worth."""
    bias: torch.Tensor | None
    num_inputs: int
    x: Operand
    gated: Operand | None = None
    """The activations are silu(x) * gated, where there is one."""
    normalizing: torch.Tensor | None = None
    """Weights of a root mean square normalization of the activations."""
    epsilon: float = 0.0
    added: Operand | None = None
    """To the result."""

    def plain(self) -> Any:
        """As native code takes it."""
        bias, normalizing = (0 if part is None else part.data_ptr() for part in (self.bias, self.normalizing))
        operands = [(-1, 0) if part is None else (part.value, part.begin) for part in (self.x, self.gated, self.added)]
        weights = (self.packed.data_ptr(), self.scale.data_ptr(), bias, len(self.scale), self.num_inputs)
        return weights, operands[0], operands[1], normalizing, self.epsilon, operands[2]


class Stretch:
    """Products that follow each other, in one call. A graph holds its number; it lives as long as this object."""

    def __init__(self, sizes: Sequence[int], links: Sequence[Link], wanted: Sequence[bool]) -> None:
        """
        Args:
            sizes: of a row of each value that is given.
            wanted: for each link, whether its result is asked for.
        """
        self._sizes, self._links, self._wanted = tuple(sizes), tuple(links), tuple(wanted)
        self._native = native.Stretch(list(sizes), [link.plain() for link in links])
        self._outs = [len(link.scale) if asked else 0 for link, asked in zip(links, wanted, strict=True)]
        self.number = next(_NUMBERS)
        _STRETCHES[self.number] = self

    def __call__(self, given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """
        Args:
            given: (..., size) each.

        Returns:
            What is asked for, (..., out) each.
        """
        ahead = given[0].shape[:-1]
        rows, num_rows = [], 0
        for value, size in zip(given, self._sizes, strict=True):
            if value.shape[-1] != size or value.shape[:-1] != ahead or value.dtype is not torch.float32:
                return self._one_by_one(given)
            rows.append(_rows_of(value))
            num_rows = value.numel() // size
        results = [given[0].new_empty((*ahead, out)) for out in self._outs if out]
        rest = iter(results)
        self._native.run(
            num_rows,
            [(value.data_ptr(), stride) for value, stride in rows],
            [next(rest).data_ptr() if out else 0 for out in self._outs],
        )
        return results

    def _one_by_one(self, given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The same by torch's operators between products: for values of unlike shapes, which broadcast."""
        values = list(given)
        for link in self._links:
            x = _part(values, link.x, link.num_inputs)
            if link.gated is not None:
                x = functional.silu(x) * _part(values, link.gated, link.num_inputs)
            if link.normalizing is not None:
                x = normalize_rows(x, link.normalizing, link.epsilon)
            alone = replace(link, x=Operand(0), gated=None, normalizing=None, added=None)
            (result,) = Stretch([link.num_inputs], [alone], [True])([x.float()])
            if link.added is not None:
                result = result + _part(values, link.added, len(link.scale))
            values.append(result)
        return [value for value, asked in zip(values[len(given) :], self._wanted, strict=True) if asked]


_NUMBERS = itertools.count()
_STRETCHES: weakref.WeakValueDictionary[int, Stretch] = weakref.WeakValueDictionary()


def _part(values: Sequence[torch.Tensor], operand: Operand, size: int) -> torch.Tensor:
    value = values[operand.value]
    return value if value.shape[-1] in (1, size) else value[..., operand.begin : operand.begin + size]


def stretch(given: list[torch.Tensor], number: int) -> list[torch.Tensor]:
    """The stretch of that number."""
    return _STRETCHES[number](given)


# --- rows ------------------------------------------------------------------------------------------------------------


def _one_each(weights: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether there is a weight for each number of a row, behind each other: a single one for all is torch's."""
    return weights.shape == x.shape[-1:] and weights.is_contiguous()


def _rows_of(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The same with its rows at one distance, and how far apart: parts of a joined product are not contiguous."""
    size = x.shape[-1]
    if x.is_contiguous():
        return x, size
    if x.stride(-1) == 1 and x.dim() == 3 and (x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1)):
        return x, x.stride(1)
    return x.contiguous(), size


def _room_for(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of its type and on its device, whatever an application's defaults are: native code writes there. empty_like takes
    half of new_empty's time, and a step calls this a hundred times."""
    return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1))


@functools.cache
def register_row_kernels() -> None:
    """Makes torch know the operators. Costs nothing the second time."""
    library: Any = torch.library.Library("edgecompile", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema, function in (
        ("scale_rows(Tensor x) -> (Tensor, Tensor)", scale_rows),
        ("normalize_rows(Tensor x, Tensor weights, float epsilon) -> Tensor", normalize_rows),
        ("normalize_and_scale_rows(Tensor x, Tensor weights, float epsilon) -> (Tensor, Tensor)",
         normalize_and_scale_rows),
        ("gate_and_scale_rows(Tensor gate, Tensor up) -> (Tensor, Tensor)", gate_and_scale_rows),
    ):  # fmt: skip
        library.define(schema)
        library.impl(function.__name__, function, "CompositeExplicitAutograd")
    library.define("stretch(Tensor[] given, int number) -> Tensor[]")
    library.impl("stretch", stretch, "CompositeExplicitAutograd")
    _REGISTERED.append(library)
