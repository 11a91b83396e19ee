"""Finds the keys and values that the units of a chain keep."""

from __future__ import annotations

from edgecompile.contract.generation import StateSpec
from edgecompile.frontend.capture.graphs import facts_of, op_name
from edgecompile.frontend.chain.units import Chain

__all__ = ["state_of"]


def state_of(chain: Chain) -> tuple[StateSpec, ...]:
    """In the order of the calls of attention; empty for a model that keeps nothing."""
    found = []
    for unit in chain.units:
        for node in unit.nodes:
            if op_name(node) != "attend":
                continue
            _, keys, values, _, _, layer, _, window, *_ = node.args
            (_, groups, _, key_size), (*_, value_size) = (facts_of(item)[0].shape for item in (keys, values))  # type: ignore[arg-type]
            found.append(
                StateSpec(unit=unit.index, layer=int(str(layer)), groups=groups, key_size=key_size,
                          value_size=value_size, window=int(str(window)))
            )  # fmt: skip
    return tuple(found)
