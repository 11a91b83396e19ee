"""A fixed piece of work that tells how fast this machine is just now: others may take of its memory and its clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

__all__ = ["Machine"]


class Machine:
    """Tells whether the machine is as fast as it was while the model was profiled: others may take of its memory."""

    def __init__(self) -> None:
        shapes = [shape for _ in range(6) for shape in ((768, 3072), (3072, 768))]
        self._weights = [[torch.ones(*shape) for shape in shapes] for _ in range(2)]
        self.reference = self.usual()
        """The speed that predictions are made for."""

    def speed(self) -> float:
        """Passes a second through six blocks' MLPs, whose weights come from memory each time, on each of two cores."""
        with ThreadPoolExecutor(2) as pool:
            return statistics.mean(pool.map(self._passes, self._weights))

    def usual(self) -> float:
        return statistics.median(self.speed() for _ in range(7))

    def distance(self, speed: float) -> float:
        return abs(speed / self.reference - 1)

    @staticmethod
    def _passes(weights: Sequence[torch.Tensor]) -> float:
        times = []
        for _ in range(4):
            begin, value = time.perf_counter(), torch.zeros(197, 768)
            for weight in weights:
                value = torch.nn.functional.relu(value @ weight)
            times.append(time.perf_counter() - begin)
        return 1 / statistics.median(times[1:])
