"""Rules for the part of a plan that is of text generation; an error names the key, its value and what is expected."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from edgecompile.contract.closed_sets import Cache, words_of
from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.errors import choices, require

if TYPE_CHECKING:
    from edgecompile.contract.generation import Generation, Perplexity
    from edgecompile.contract.plan import Plan

__all__ = ["MOST_CONTEXT", "MOST_SLOTS", "TOKENS", "check_text"]

MOST_SLOTS, MOST_CONTEXT = 256, 1 << 20
TOKENS = "tokens"
"""The dimension of a row's tokens."""
_INPUTS, _OUTPUTS = ("input_ids", "positions", "slots"), ("logits", "slots")


def check_text(plan: Plan, where: str) -> None:
    """Raises UserError at the first rule that the plan breaks; nothing, of one that generates no text."""
    found = plan.generation
    if found is None:
        return
    names = [spec.name for spec in plan.inputs], [spec.name for spec in plan.outputs]
    require(names == (list(_INPUTS), list(_OUTPUTS)), where, "inputs", names[0],
             f"{', '.join(_INPUTS)}, and the outputs {', '.join(_OUTPUTS)}")  # fmt: skip
    dims = plan.model.dims
    require(set(dims) == {BATCH, TOKENS}, where, "model.dims", sorted(dims), f"{BATCH} and {TOKENS}")
    require(1 <= found.slots <= MOST_SLOTS, where, "generation.slots", found.slots, f"1 to {MOST_SLOTS}")
    require(2 <= found.context <= MOST_CONTEXT, where, "generation.context", found.context, f"2 to {MOST_CONTEXT}")
    most = dims[TOKENS].max
    require(1 <= found.chunk <= most, where, "generation.chunk", found.chunk, f"1 to {most}, the most of {TOKENS}")
    classes = plan.outputs[0].shape[-1]
    require(found.vocabulary == classes, where, "generation.vocabulary", found.vocabulary,
             f"{classes}, as many as logits has")  # fmt: skip
    require(1 <= found.candidates <= classes, where, "generation.candidates", found.candidates, f"1 to {classes}")
    require(found.prompt >= 1, where, "generation.prompt", found.prompt, "1 or more")
    require(found.tokens >= 1, where, "generation.tokens", found.tokens, "1 or more")
    _check_state(found, len(plan.units), where)
    for index, number in enumerate(found.stop_ids):
        require(0 <= number < classes, where, f"generation.stop_ids.{index}", number, f"0 to {classes - 1}")
    _check_golden(found, where)
    if found.perplexity is not None:
        _check_perplexity(found.perplexity, where)


def _check_state(found: Generation, num_units: int, where: str) -> None:
    require(bool(found.state), where, "generation.state", [], "what units keep of a token")
    layers = [spec.layer for spec in found.state]
    require(sorted(layers) == list(range(len(layers))), where, "generation.state", layers, "each layer from 0 on, once")
    units = [spec.unit for spec in found.state]
    require(units == sorted(units), where, "generation.state", units, "units in their order")
    for index, spec in enumerate(found.state):
        key = f"generation.state.{index}"
        require(0 <= spec.unit < num_units, where, f"{key}.unit", spec.unit, f"0 to {num_units - 1}")
        for name in ("groups", "key_size", "value_size"):
            value = getattr(spec, name)
            require(1 <= value <= MOST_CONTEXT, where, f"{key}.{name}", value, "1 or more")
        require(spec.window >= 0, where, f"{key}.window", spec.window, "0 or more")
        words = words_of(Cache)
        require(spec.dtype in words, where, f"{key}.dtype", spec.dtype, f"one of {choices(words)}")


def _check_golden(found: Generation, where: str) -> None:
    for index, text in enumerate(found.golden):
        key = f"generation.golden.{index}"
        length = len(text.prompt) + len(text.tokens)
        good = bool(text.prompt) and bool(text.tokens) and length <= found.context
        require(good, where, key, length, f"a prompt and tokens, {found.context} at most together")
        known = all(0 <= token < found.vocabulary for token in (*text.prompt, *text.tokens))
        require(known, where, key, "a token", f"tokens from 0 to {found.vocabulary - 1}")


def _check_perplexity(found: Perplexity, where: str) -> None:
    key = "generation.perplexity"
    require(found.tokens >= 1, where, f"{key}.tokens", found.tokens, "1 or more")
    for name, value in (("model", found.model), ("plan", found.plan)):
        require(value is None or 1 <= value < inf, where, f"{key}.{name}", value, "a number of 1 or more")
    for name in ("mean_divergence", "worst_divergence"):
        value = getattr(found, name)
        require(0 <= value < inf, where, f"{key}.{name}", value, "a number of 0 or more")
    require(0 <= found.same <= 1, where, f"{key}.same", found.same, "0 to 1")
