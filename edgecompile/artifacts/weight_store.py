"""Stores the model's weights once, beside the shards, whatever number of stages, fallbacks or wire formats need them.

A safetensors file for each unit, and one for each group of units that share tensors.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from edgecompile.contract.files.atomic_files import store
from edgecompile.contract.plan import SUFFIX, WEIGHTS_FOLDER
from edgecompile.execution.stored_weights import StoredTensor
from edgecompile.frontend.capture.graphs import constant_nodes
from edgecompile.frontend.chain.units import Chain, unit_tensors

__all__ = ["WeightStore"]

_DTYPES: Mapping[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""As the format names them; tensors of other dtypes stay in the shards."""
_LEAST_BYTES = 1024
"""What freezing makes of weights and is smaller stays in the shards."""
_MOST_OVERLAPS = 8
"""Of tensors that partly share memory so many are tried as what a constant is a part of."""
_ALIGNMENT = 64
"""Of the data in a file, in bytes: vectors are loaded fastest so."""
_PIECE_BYTES = 16 << 20


@dataclass(kw_only=True)
class _Stored:
    """One tensor of a weights file: values that lie side by side."""

    name: str
    values: torch.Tensor
    units: set[int]
    """Those that read it, or a part of it."""

    @property
    def begin(self) -> int:
        return self.values.data_ptr()

    @property
    def end(self) -> int:
        return self.begin + self.values.numel() * self.values.element_size()

    def holds(self, value: torch.Tensor) -> bool:
        """Whether all that the value reads is in it."""
        inside = self.begin <= value.data_ptr() and _end(value) <= self.end
        return inside and value.dtype is self.values.dtype and self._offset_bytes(value) % value.element_size() == 0

    def seen(self, value: torch.Tensor, file: str) -> StoredTensor:
        offset = self._offset_bytes(value) // value.element_size()
        if offset == 0 and value.shape == self.values.shape and value.is_contiguous():
            return StoredTensor(file=file, name=self.name)
        return StoredTensor(file=file, name=self.name, shape=tuple(value.shape), stride=value.stride(), offset=offset)

    def _offset_bytes(self, value: torch.Tensor) -> int:
        return value.data_ptr() - self.begin


class WeightStore:
    """Writes weights files into `weights/` below the plan's folder, each when a shard first needs it."""

    def __init__(self, chain: Chain, folder: Path) -> None:
        """`folder`: the plan's."""
        self._folder = folder / WEIGHTS_FOLDER
        self._stored = _collected(chain)
        """In the order of memory; none is a part of another."""
        self._begins = [item.begin for item in self._stored]
        self._written: dict[frozenset[int], str] = {}
        self._alone: dict[tuple[int, int, torch.dtype], tuple[_Stored, str]] = {}

    def place(self, value: torch.Tensor) -> StoredTensor | None:
        """Where a constant of a shard is stored, and written by now; None: it stays in the shard."""
        if not _is_storable(value):
            return None
        value = value.detach()
        for index in range(bisect_right(self._begins, value.data_ptr()) - 1, -1, -1)[:_MOST_OVERLAPS]:
            if self._stored[index].holds(value):
                return self._stored[index].seen(value, self._file(self._stored[index].units))
        dense = _dense(value)
        if dense is None or dense.numel() * dense.element_size() < _LEAST_BYTES:
            return None
        item, file = self._by_itself(dense)
        return item.seen(value, file)

    def together(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Stores what stages were given in place of the model's own tensors in one file; it must outlive the store."""
        large = {name: value for name, value in tensors.items() if value.numel() * value.element_size() >= _LEAST_BYTES}
        keys = {name: (value.data_ptr(), value.numel(), value.dtype) for name, value in large.items()}
        if all(key in self._alone for key in keys.values()):
            return
        file = self._write(large)
        for name, value in large.items():
            self._alone[keys[name]] = _Stored(name=name, values=value, units=set()), file

    def _file(self, units: Collection[int]) -> str:
        """Of what exactly these units read."""
        group = frozenset(units)
        if group not in self._written:
            self._written[group] = self._write({item.name: item.values for item in self._stored if item.units == group})
        return self._written[group]

    def _by_itself(self, dense: torch.Tensor) -> tuple[_Stored, str]:
        """What freezing has made of the model's own tensors: the same values make the same file, whatever the stage."""
        key = (dense.data_ptr(), dense.numel(), dense.dtype)
        if key not in self._alone:
            item = _Stored(name="value", values=dense, units=set())
            self._alone[key] = item, self._write({item.name: dense})
        return self._alone[key]

    def _write(self, tensors: Mapping[str, torch.Tensor]) -> str:
        _, digest = store(self._folder, SUFFIX, lambda file: _write_safetensors(tensors, file))
        return digest


def _collected(chain: Chain) -> list[_Stored]:
    """The tensors that the chain's units read. One that is a part of another is stored as that."""
    found: dict[tuple[int, int, torch.dtype], _Stored] = {}
    graph_module = chain.captured.graph_module
    constant = constant_nodes(graph_module.graph)
    for index, unit in enumerate(chain.units):
        for name, value in unit_tensors(graph_module, unit.nodes, constant):
            dense = _dense(value.detach()) if _is_storable(value) else None
            if dense is None:
                continue
            key = (dense.data_ptr(), dense.numel(), dense.dtype)
            item = found.setdefault(key, _Stored(name=name, values=dense, units=set()))
            item.units.add(index)
            if value.is_contiguous() and (name < item.name or item.values.shape != value.shape):
                item.name, item.values = name, dense
    kept: list[_Stored] = []
    for item in sorted(found.values(), key=lambda item: (item.begin, -item.end, item.name)):
        whole = next((other for other in kept[-_MOST_OVERLAPS:] if other.holds(item.values)), None)
        if whole is None:
            kept.append(item)
        else:
            whole.units |= item.units
    return kept


def _is_storable(value: torch.Tensor) -> bool:
    """Whether the format can hold it."""
    if value.layout is not torch.strided or value.dtype not in _DTYPES or value.numel() == 0 or value.dim() == 0:
        return False
    return not value.is_conj() and not value.is_neg() and type(value) in (torch.Tensor, torch.nn.Parameter)


def _end(value: torch.Tensor) -> int:
    """The address behind the last element."""
    last = sum((extent - 1) * stride for extent, stride in zip(value.shape, value.stride(), strict=True))
    return value.data_ptr() + (last + 1) * value.element_size()


def _dense(value: torch.Tensor) -> torch.Tensor | None:
    """The tensor's values, each once, in the order of memory; None where others lie between them."""
    if value.is_contiguous():
        return value
    axes = [axis for axis, extent in enumerate(value.shape) if extent > 1 and value.stride(axis) != 0]
    axes.sort(key=value.stride, reverse=True)
    values = value.as_strided([value.shape[axis] for axis in axes], [value.stride(axis) for axis in axes])
    return values if values.is_contiguous() else None


def _write_safetensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """The format as its authors describe it: a header's length, a header of JSON, the data.

    Their library copies all tensors first, which a model that fills the memory cannot afford.
    """
    header: dict[str, object] = {}
    offset = 0
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # each dtype aligned
    for name, value in ordered:
        size = value.numel() * value.element_size()
        header[name] = {
            "dtype": _DTYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, value in ordered:
            for piece in _pieces(value):
                file.write(piece)


def _pieces(value: torch.Tensor) -> Iterable[memoryview]:
    flat = value.reshape(-1).view(torch.uint8)
    for start in range(0, len(flat), _PIECE_BYTES):
        yield flat[start : start + _PIECE_BYTES].numpy().data
