"""Finds the keys and values that the units of a chain keep."""

from __future__ import annotations

from edgecompile.contract.closed_sets import Cache
from edgecompile.contract.generation import StateSpec
from edgecompile.frontend.capture.graphs import facts_of, op_name
from edgecompile.frontend.chain.units import Chain

__all__ = ["keeps_bf16", "kept_in", "seen_context", "state_of", "usual_context"]


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
                          value_size=value_size, window=int(str(window)),
                          dtype=node.meta.get("cache", Cache.FP32.value))
            )  # fmt: skip
    return tuple(found)


def kept_in(chain: Chain) -> Cache:
    """What its keys and values are kept in, if it has any."""
    return next((Cache(spec.dtype) for spec in state_of(chain)), Cache.FP32)


def keeps_bf16(chain: Chain) -> bool:
    """Whether its keys and values are rounded where they are kept."""
    return kept_in(chain) is Cache.BF16


def seen_context(context: int, window: int) -> int:
    """Of the tokens that a slot holds before a step, those that the step's first token sees."""
    return min(context, window - 1) if window else context


def usual_context(chain: Chain) -> int:
    """Tokens that attention over kept keys and values sees before those of its own step, where its work is counted."""
    nodes = (node for unit in chain.units for node in unit.nodes if op_name(node) == "attend")
    return max((int(node.meta.get("context", 0)) for node in nodes), default=0)
