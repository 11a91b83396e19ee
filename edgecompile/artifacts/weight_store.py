"""Stores the model's weights once, beside the shards, whatever number of stages, fallbacks or wire formats need them.

A safetensors file for each unit, and one for each group of units that share tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from edgecompile.contract.atomic_files import store
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
"""What is smaller stays in the shards, but for what belongs to a unit."""
_ALONE = "value"
_ALIGNMENT = 64
"""Of the data in a file, in bytes: vectors are loaded fastest so."""
_PIECE_BYTES = 16 << 20

Key = tuple[int, int, torch.dtype]
"""Where a tensor's values lie, how many they are, and of which dtype."""


@dataclass(frozen=True, kw_only=True)
class _Dense:
    """A tensor's values, each once, in the order of memory."""

    values: torch.Tensor
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """Of the tensor itself, in elements of `values`."""
    is_plain: bool
    """Whether `values` is the tensor itself."""

    @property
    def key(self) -> Key:
        return self.values.data_ptr(), self.values.numel(), self.values.dtype


class WeightStore:
    """Writes weights files into `weights/` below the plan's folder, each when a shard first needs it."""

    def __init__(self, chain: Chain, folder: Path) -> None:
        """`folder`: the plan's."""
        self._folder = folder / WEIGHTS_FOLDER
        self._groups: dict[Key, frozenset[int]] = {}
        self._names: dict[Key, str] = {}
        self._members: dict[frozenset[int], dict[Key, torch.Tensor]] = {}
        self._written: dict[frozenset[int], str] = {}
        self._alone: dict[Key, StoredTensor] = {}
        self._kept: list[torch.Tensor] = []
        """So that no address is used again."""
        self._collect(chain)

    def _collect(self, chain: Chain) -> None:
        readers: dict[Key, set[int]] = {}
        values: dict[Key, torch.Tensor] = {}
        graph_module = chain.captured.graph_module
        constant = constant_nodes(graph_module.graph)
        for index, unit in enumerate(chain.units):
            for name, value in unit_tensors(graph_module, unit.nodes, constant):
                dense = _dense(value)
                if dense is None:
                    continue
                readers.setdefault(dense.key, set()).add(index)
                if dense.key not in values or (dense.is_plain and name < self._names[dense.key]):
                    values[dense.key], self._names[dense.key] = dense.values, name
        for key, units in readers.items():
            group = frozenset(units)
            self._groups[key] = group
            self._members.setdefault(group, {})[key] = values[key]

    def place(self, value: torch.Tensor) -> StoredTensor | None:
        """Where a constant of a shard is stored, and written by now; None: it stays in the shard."""
        dense = _dense(value)
        if dense is None:
            return None
        group = self._groups.get(dense.key)
        if group is None:
            if dense.values.numel() * dense.values.element_size() < _LEAST_BYTES:
                return None
            return self._seen(self._stored_alone(dense), dense, dense.values.shape)
        if group not in self._written:
            members = {self._names[key]: member for key, member in self._members[group].items()}
            self._written[group] = self._write(members)
        stored = StoredTensor(file=self._written[group], name=self._names[dense.key])
        return self._seen(stored, dense, self._members[group][dense.key].shape)

    def _stored_alone(self, dense: _Dense) -> StoredTensor:
        """What freezing has made of the model's own tensors: the same values make the same file, whatever the stage."""
        if dense.key not in self._alone:
            self._kept.append(dense.values)
            self._alone[dense.key] = StoredTensor(file=self._write({_ALONE: dense.values}), name=_ALONE)
        return self._alone[dense.key]

    def _seen(self, stored: StoredTensor, dense: _Dense, shape: Sequence[int]) -> StoredTensor:
        """`shape`: as it is stored."""
        if dense.is_plain and tuple(shape) == dense.shape:
            return stored
        return StoredTensor(file=stored.file, name=stored.name, shape=dense.shape, stride=dense.stride)

    def _write(self, tensors: Mapping[str, torch.Tensor]) -> str:
        _, digest = store(self._folder, SUFFIX, lambda file: _write_safetensors(tensors, file))
        return digest


def _dense(value: torch.Tensor) -> _Dense | None:
    """None for a tensor that the format cannot hold, or whose values are not side by side."""
    if value.layout is not torch.strided or value.dtype not in _DTYPES or value.numel() == 0 or value.dim() == 0:
        return None
    if value.is_conj() or value.is_neg() or type(value) not in (torch.Tensor, torch.nn.Parameter):
        return None
    value = value.detach()
    if value.is_contiguous():
        return _Dense(values=value, shape=tuple(value.shape), stride=tuple(value.stride()), is_plain=True)
    axes = [axis for axis, extent in enumerate(value.shape) if extent > 1 and value.stride(axis) != 0]
    axes.sort(key=value.stride, reverse=True)
    shape = [value.shape[axis] for axis in axes]
    values = value.as_strided(shape, [value.stride(axis) for axis in axes])
    if not values.is_contiguous():
        return None
    return _Dense(values=values, shape=tuple(value.shape), stride=tuple(value.stride()), is_plain=False)


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
