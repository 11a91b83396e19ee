"""Keys and values that slots hold while units are measured, bound as a rank binds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgecompile.contract.generation import StateSpec
from edgecompile.execution.slot_state import SlotState, Step, slot_value

__all__ = ["KeptContext"]

_SERIAL = 1


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
        """Room that was never written is no memory, and would be read as fast as a cache."""
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
