"""Fingerprints: which units have the same cost, and whether two captures are of the same model."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import fx

from edgecompile.frontend.capture.graphs import constant_nodes, facts_of, is_view, op_name
from edgecompile.frontend.chain.units import Chain, Unit

__all__ = ["chain_fingerprint", "unit_signatures"]

_LAYER = 5
"""The place of the layer's number among the arguments of attention over kept keys and values."""


def unit_signatures(chain: Chain) -> list[str]:
    """A text for each unit; units with the same text run the same operators on the same shapes and strides."""
    constant = constant_nodes(chain.captured.graph_module.graph)
    return [_signature(unit, constant) for unit in chain.units]


def _signature(unit: Unit, constant: set[fx.Node]) -> str:
    place = {node: index for index, node in enumerate(unit.nodes)}

    def described(node: fx.Node) -> Any:
        if node in place:
            return f"%{place[node]}"
        facts = [(item.shape, item.dtype, item.strides) for item in facts_of(node)]
        return f"{'constant' if node in constant else 'input'} {facts}"

    lines = []
    for node in unit.nodes:
        results = [(item.shape, item.dtype, item.strides) for item in facts_of(node)]
        lines.append(f"{op_name(node)} {fx.map_arg((_alike(node), node.kwargs), described)} -> {results}")
    return "\n".join(lines)


def _alike(node: fx.Node) -> tuple[Any, ...]:
    """What tells its work: whose keys and values attention reads does not."""
    if op_name(node) != "attend":
        return node.args
    return (*node.args[:_LAYER], None, *node.args[_LAYER + 1 :])


def chain_fingerprint(chain: Chain, microbatch: int) -> str:
    """Of the operators and the sizes an item, a SHA-256 in hex: the same at every microbatch, with any weights."""
    lines = []
    for unit in chain.units:
        work = [
            (op_name(node), [(item.dtype, f"{item.num_bytes / microbatch:.9g}") for item in facts_of(node)])
            for node in unit.nodes
            if not is_view(node)
        ]
        lines.append(f"{unit.kind} {unit.flops / microbatch:.9g} {work}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
