"""Makes what a run of units finds: caches as the other units leave them, and slots that hold tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from edgecompile.contract.generation import StateSpec
from edgecompile.execution.slot_state import SlotState, Step, slot_value
from edgecompile.frontend.chain.units import Chain

__all__ = ["Caches", "KeptContext"]

_SERIAL = 1
_USUAL_BYTES = 32 << 20
_MOST_BYTES = 256 << 20


class Caches:
    """A stage that is larger than the last cache finds none of its weights there; a small model finds all of them."""

    def __init__(self, chain: Chain) -> None:
        weights = {weight.key: weight.num_bytes for unit in chain.units for weight in unit.weights}
        self._model_bytes = sum(weights.values())
        size = min(self._model_bytes, _last_cache_bytes())
        self._other = torch.zeros(max(1, size // 4), dtype=torch.float32)

    def as_after_the_rest(self, span_bytes: int) -> None:
        """Reads as many bytes as the model has beside this span, or as fill the caches."""
        count = min(self._other.numel(), max(0, self._model_bytes - span_bytes) // 4)
        self._other[:count].sum()


def _last_cache_bytes() -> int:
    """Twice the last-level cache, so that reading it leaves nothing else there."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="utf-8").strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 10)
    return min(_MOST_BYTES, 2 * max(sizes, default=_USUAL_BYTES))


class KeptContext:
    """Slots that hold the same number of tokens each, with random keys and values."""

    def __init__(self, specs: Sequence[StateSpec], rows: int, tokens: int, context: int, device: str) -> None:
        """
        Args:
            specs: of the units that are measured.
            rows: of a message at most; a slot for each.
            tokens: of a row at most.
            context: tokens that each slot holds.
        """
        self._context, self._rows = context, rows
        self._state = SlotState(specs, rows, context + tokens, device)
        self._slots = torch.tensor([slot_value(_SERIAL, row, rows) for row in range(rows)])
        for row in range(rows if context else 0):
            self._fill(specs, row, device)

    def _fill(self, specs: Sequence[StateSpec], row: int, device: str) -> None:
        """Room that was never written takes no memory, so that reading it would cost too little."""
        step = self._state.step(self._slots[row : row + 1].clone(), torch.arange(self._context).unsqueeze(0))
        for spec in specs:
            keys, values = (
                torch.randn(1, spec.groups, self._context, size, device=device)
                for size in (spec.key_size, spec.value_size)
            )
            step.attend(keys, keys, values, spec.layer, spec.key_size**-0.5, spec.window, 0.0, None)

    def step(self, rows: int, tokens: int) -> Step:
        """The next tokens of the first so many slots, behind what they hold."""
        positions = torch.arange(self._context, self._context + tokens).expand(rows, tokens)
        return self._state.step(self._slots[:rows].clone(), positions)
