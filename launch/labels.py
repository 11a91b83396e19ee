"""Class scores as people read them: label names, probabilities, accuracy, Matthews correlation."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.plan import DataSpec

__all__ = ["Accuracy", "label_name", "top_labels"]


def label_name(data: DataSpec, number: int) -> str | int:
    """The plan's name of a class, else its number."""
    return data.labels[number] if 0 <= number < len(data.labels) else number


def top_labels(data: DataSpec, scores: NDArray[Any]) -> list[tuple[str | int, float]]:
    """The best classes with their probabilities (softmax of the scores), best first, `top_k` at most."""
    flat = np.asarray(scores, dtype=np.float64).reshape(-1)
    powers = np.exp(flat - np.max(flat))
    probabilities = powers / powers.sum()
    order = np.argsort(-flat, kind="stable")[: data.top_k]
    return [(label_name(data, int(number)), float(probabilities[number])) for number in order]


class Accuracy:
    """Counts predictions against labels."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, int]] = Counter()

    def add(self, predicted: int, label: int) -> None:
        self._counts[predicted, label] += 1

    @property
    def num_items(self) -> int:
        return sum(self._counts.values())

    @property
    def num_correct(self) -> int:
        return sum(count for (predicted, label), count in self._counts.items() if predicted == label)

    def matthews(self) -> float:
        """Matthews correlation, -1 to 1, for any number of classes (Gorodkin 2004); 0 where one side is constant."""
        total = self.num_items
        predicted: Counter[int] = Counter()
        labelled: Counter[int] = Counter()
        for (prediction, label), count in self._counts.items():
            predicted[prediction] += count
            labelled[label] += count
        covariance = self.num_correct * total - sum(predicted[key] * labelled[key] for key in predicted)
        spread_predicted = total**2 - sum(count**2 for count in predicted.values())
        spread_labelled = total**2 - sum(count**2 for count in labelled.values())
        scale = math.sqrt(spread_predicted * spread_labelled)
        return covariance / scale if scale else 0.0
