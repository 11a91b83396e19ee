"""Puts the processor's caches into the state that the rest of the model would leave between two runs."""

from __future__ import annotations

from pathlib import Path

import torch

from edgecompile.frontend.chain.units import Chain

__all__ = ["Caches"]

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
