"""The workload option: the extents that items have, such as lengths of texts, of which times are predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgecompile.config.model_spec import ModelSpec
from edgecompile.config.resources import resource_path
from edgecompile.contract.errors import UserError, choices, invalid_value
from edgecompile.contract.plan import Dim

__all__ = ["WorkloadRequest", "workload_of"]

_LEAST_ITEMS = 512
_SUFFIXES = (".txt",)


@dataclass(frozen=True, kw_only=True)
class WorkloadRequest:
    """Items whose extents are named, or a file of texts from which they are read."""

    source: str
    """In words."""
    dim: str
    """The dimension that is given."""
    extents: tuple[int, ...] = ()
    """Of a stream of items, in the order in which they may come."""
    texts: Path | None = None
    """A sentence a line; the model's tokenizer gives the extents."""


def workload_of(given: object, default: object, spec: ModelSpec) -> WorkloadRequest | None:
    """None where no dimension of the model varies, or nothing is known of what it will get.

    Args:
        given: the workload option; null: `default`, the model option's.

    Raises:
        UserError: the value is not allowed, or the model has no dimension that it is about.
    """
    key = "workload" if given is not None else "model.workload"
    value = given if given is not None else default
    if value is None:
        return None
    if not spec.dims:
        if given is None:
            return None
        raise UserError(f"workload: the model {spec.name!r} takes items of one shape only: see model.dims")
    if len(spec.dims) != 1:
        told = " and ".join(sorted(spec.dims))
        raise UserError(f"{key}: items of {spec.name!r} differ in {told}, and a plan is made for a mix of one alone")
    if isinstance(value, str):
        return _texts(value, key, spec)
    if not isinstance(value, dict):
        raise invalid_value(value, key, "a text file, or a mapping such as {length: [8, 16, 100]}")
    names = sorted(str(name) for name in value)
    if len(names) != 1 or names[0] not in spec.dims:
        raise invalid_value(", ".join(names), key, f"one dimension of the model: {choices(spec.dims)}")
    dim = names[0]
    extents = _spread(value[dim], f"{key}.{dim}", spec.dims[dim])
    source = "" if given is not None else "the model option's "
    return WorkloadRequest(source=f"{source}mix of {dim}s {_shown(value[dim])}", dim=dim, extents=extents)


def _texts(value: str, key: str, spec: ModelSpec) -> WorkloadRequest:
    path = resource_path(value, key)
    if path.suffix.lower() not in _SUFFIXES or not path.is_file():
        raise invalid_value(value, key, "a text file (.txt), a sentence a line")
    return WorkloadRequest(source=path.name, dim=next(iter(spec.dims)), texts=path)


def _spread(value: object, key: str, dim: Dim) -> tuple[int, ...]:
    """A stream with these extents, each as often as it is there or as its weight says, evenly mixed."""
    if isinstance(value, dict):
        shares = {_extent(extent, key, dim): _share(share, key) for extent, share in value.items()}
    elif isinstance(value, list) and value:
        found = [_extent(extent, key, dim) for extent in value]
        shares = {extent: float(found.count(extent)) for extent in sorted(set(found))}
    else:
        shares = {}
    total = sum(shares.values())
    if not total:
        raise invalid_value(value, key, "a list of extents, or a mapping from extents to their shares")
    # each extent at even distances: the golden section's multiples fall evenly into [0, 1) however many there are
    bounds, reached = [], 0.0
    for extent, share in shares.items():
        reached += share / total
        bounds.append((reached, extent))
    places = ((index * 0.6180339887498949) % 1.0 for index in range(_LEAST_ITEMS))
    return tuple(next((extent for bound, extent in bounds if place < bound), bounds[-1][1]) for place in places)


def _extent(value: object, key: str, dim: Dim) -> int:
    number = int(value) if isinstance(value, str) and value.isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise invalid_value(value, key, "extents of 1 or more")
    return min(max(number, dim.min), dim.max)


def _share(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise invalid_value(value, key, "shares of 0 or more")
    return float(value)


def _shown(value: Mapping[object, object] | list[object]) -> str:
    texts = [f"{extent}: {share}" for extent, share in value.items()] if isinstance(value, dict) else map(str, value)
    whole = ", ".join(texts)
    return whole if len(whole) <= 60 else whole[:57] + "..."
