"""Attention of a language model's step: an operator that keeps keys and values where a rank has bound room for them.

A step is a message of rows, each a few consecutive tokens of one sequence. Without bound state a row attends to itself
alone, as the first step of a sequence does: so the compiler sees a function of its inputs. With it the row's keys and
values are written to its slot, and it attends to all that the slot holds. The graph is the same for both.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch

__all__ = ["ATTEND", "KeysAndValues", "Rotation", "attend", "bound", "kept_in_bf16", "masked_attention",
           "register_attention", "rounded_attention"]  # fmt: skip

ATTEND = "edgecompile::attend"
_SCHEMA = (
    "attend(Tensor q, Tensor k, Tensor v, Tensor positions, Tensor slots, int layer, float scale, int window, "
    "float softcap, Tensor? sinks) -> Tensor"
)
_REGISTERED: list[Any] = []
"""What is registered goes with the last reference to its library."""


class Rotation(NamedTuple):
    """What a rotary position embedding does to queries and keys: x * cos + (-its second part, its first part) * sin."""

    cos: torch.Tensor
    """(rows, 1, tokens, size)."""
    sin: torch.Tensor
    half: int
    """Where the second part begins."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, heads, tokens, size) to the same."""
        turned = torch.cat([-x[..., self.half :], x[..., : self.half]], -1)
        return x * self.cos + turned * self.sin


class KeysAndValues(Protocol):
    """Room for the keys and values of a stage, as one step reads and writes it."""

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, scale: float, window: int, softcap: float,
        sinks: torch.Tensor | None, rotation: Rotation | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """As the operator, for the rows of this step; queries and keys are rotated first, where they are to be."""


class _Bound(threading.local):
    state: KeysAndValues | None = None
    in_bf16 = False
    """Whether keys and values are rounded where no state is bound."""


_BOUND = _Bound()


@contextmanager
def bound(state: KeysAndValues) -> Iterator[None]:
    """While its context is open, this thread's attention reads and writes the state."""
    before, _BOUND.state = _BOUND.state, state
    try:
        yield
    finally:
        _BOUND.state = before


@contextmanager
def kept_in_bf16(*, on: bool) -> Iterator[None]:
    """While its context is open, attention without state computes as over keys and values that are kept in bf16."""
    before, _BOUND.in_bf16 = _BOUND.in_bf16, on
    try:
        yield
    finally:
        _BOUND.in_bf16 = before


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    layer: int,
    scale: float,
    window: int,
    softcap: float,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """
    Args:
        q: (rows, heads, tokens, size).
        k: (rows, groups, tokens, size); each group's keys serve as many heads.
        v: (rows, groups, tokens, value size).
        positions: (rows, tokens) int64, each token's in its sequence; -1 behind the last of a row.
        slots: (rows,) int64: see the rank's state.
        layer: the number of the call within the model.
        scale: of the products of queries and keys.
        window: how many tokens back a token sees, itself included; 0: all.
        softcap: scores become softcap * tanh(scores / softcap); 0: they do not.
        sinks: (heads,), for each head a score of nothing that is seen; None: there are none.

    Returns:
        (rows, tokens, heads, value size).
    """
    if _BOUND.state is not None:
        return _BOUND.state.attend(q, k, v, layer, scale, window, softcap, sinks)
    ahead = positions.unsqueeze(-1) - positions.unsqueeze(-2)  # of a token, over another
    seen = (ahead >= 0) & (positions >= 0).unsqueeze(-2)
    if window:
        seen = seen & (ahead < window)
    # a token behind a row's last sees the row's first: its result means nothing, and must be a number
    first = torch.ones_like(positions).cumsum(-1) == 1
    seen = seen | ((positions < 0).unsqueeze(-1) & first.unsqueeze(-2))
    if _BOUND.in_bf16:
        k, v = k.to(torch.bfloat16), v.to(torch.bfloat16)
        return rounded_attention(q, k, v, seen.unsqueeze(1), scale, softcap, sinks)
    return masked_attention(q, k, v, seen.unsqueeze(1), scale, softcap, sinks)


def attend_rotated(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    half: int,
    positions: torch.Tensor,
    slots: torch.Tensor,
    layer: int,
    scale: float,
    window: int,
    softcap: float,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """attend of queries and keys that are rotated before. A rank's graph alone has it: see graph_folding.py."""
    rotation = Rotation(cos, sin, half)
    if _BOUND.state is not None:
        return _BOUND.state.attend(q, k, v, layer, scale, window, softcap, sinks, rotation)
    return attend(rotation(q), rotation(k), v, positions, slots, layer, scale, window, softcap, sinks)


def masked_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seen: torch.Tensor | None,
    scale: float,
    softcap: float,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """
    Args:
        q: (rows, heads, tokens, size).
        k: (rows, groups, context, size); v: likewise.
        seen: (rows, 1, tokens, context) bool; None: all are.
    """
    rows, heads, tokens, _ = q.shape
    scores = _scores(q * scale, k, seen, softcap)
    if sinks is not None:
        column = sinks.to(scores.dtype).reshape(1, heads, 1, 1).expand(rows, heads, tokens, 1)
        shares = torch.softmax(torch.cat([scores, column], -1), -1)[..., :-1]
    else:
        shares = torch.softmax(scores, -1)
    return _mixed(shares, v).transpose(1, 2).contiguous()


def rounded_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seen: torch.Tensor | None,
    scale: float,
    softcap: float,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """As masked_attention, of keys and values kept in bf16, as native code has it (attend_bf16.hpp): scaled queries
    and shares are rounded to bf16, sums are of float32.

    Args:
        k: (rows, groups, context, size) bf16; v: likewise.
    """
    scores = _scores((q * scale).to(torch.bfloat16).to(torch.float32), k.to(torch.float32), seen, softcap)
    most = scores.amax(-1, keepdim=True)
    if sinks is not None:
        sink = sinks.to(torch.float32).reshape(1, -1, 1, 1)
        most = torch.maximum(most, sink)
    shares = torch.exp(scores - most).to(torch.bfloat16).to(torch.float32)
    total = shares.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + torch.exp(sink - most)
    return (_mixed(shares, v.to(torch.float32)) / total).transpose(1, 2).contiguous()


def _scores(q: torch.Tensor, k: torch.Tensor, seen: torch.Tensor | None, softcap: float) -> torch.Tensor:
    """(rows, heads, tokens, context), of scaled queries."""
    rows, heads, tokens, size = q.shape
    groups, context = k.shape[1], k.shape[2]
    # Heads that share keys are further rows of one product: nothing of the keys is copied.
    query = q.reshape(rows * groups, heads // groups * tokens, size)
    scores = torch.bmm(query, k.reshape(rows * groups, context, size).transpose(1, 2))
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.reshape(rows, heads, tokens, context)
    return scores if seen is None else scores.masked_fill(~seen, -math.inf)


def _mixed(shares: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """(rows, heads, tokens, value size)."""
    rows, heads, tokens, context = shares.shape
    groups, size = v.shape[1], v.shape[-1]
    values = v.reshape(rows * groups, context, size)
    result = torch.bmm(shares.reshape(rows * groups, heads // groups * tokens, context), values)
    return result.reshape(rows, heads, tokens, size)


def _shape_alone(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, layer: int,
    scale: float, window: int, softcap: float, sinks: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    rows, heads, tokens, _ = q.shape
    return q.new_empty(rows, tokens, heads, v.shape[-1])


@functools.cache
def register_attention() -> None:
    """Makes torch know the operator. Costs nothing the second time."""
    library: Any = torch.library.Library("edgecompile", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(_SCHEMA)
    library.define(
        _SCHEMA.replace("attend(", "attend_rotated(").replace("v, ", "v, Tensor cos, Tensor sin, int half, ")
    )
    for key in ("CPU", "CUDA"):
        library.impl("attend", attend, key)
        library.impl("attend_rotated", attend_rotated, key)
    library.impl("attend", _shape_alone, "Meta")
    _REGISTERED.append(library)
