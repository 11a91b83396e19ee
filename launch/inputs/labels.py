"""Labels and scores: class names, probabilities, accuracy, Matthews correlation."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.contract.errors import UserError
from edgecompile.contract.model_facts import ModelFacts
from edgecompile.contract.plan import DataSpec

__all__ = ["NO_CLASS", "NO_LABEL", "Accuracy", "class_label", "label_name", "num_classes", "predicted_class",
           "top_labels"]  # fmt: skip

UNLABELLED = -1
"""What data sets such as GLUE's test files have in place of a label that is kept secret."""

NO_CLASS = -1
"""What scores predict that tell no class; no item's label."""

NO_LABEL = "no label: its scores are not finite numbers"


def num_classes(plan: ModelFacts) -> int | None:
    """How many scores the model gives an item; None where its results are not labels."""
    if plan.data.result != "labels" or plan.data.scores is None:
        return None
    spec = next(spec for spec in plan.outputs if spec.name == plan.data.scores)
    return math.prod(spec.shape[1:])


def class_label(plan: ModelFacts, value: Any, where: str) -> int | None:
    """An input's label as a class number; None where it says that it has none: -1, or null.

    Raises:
        UserError: it is not a whole number, or the model has no such class.
    """
    if value is None:
        return None
    count = num_classes(plan)
    allowed = "a class number" if count is None else f"a class number, 0 to {count - 1}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise UserError(f"{where}: label is {value!r:.60}, expected {allowed}")
    if value == UNLABELLED:
        return None
    if value < 0 or value >= (math.inf if count is None else count):
        raise UserError(f"{where}: label is {value!s:.60}, expected {allowed}")
    return int(value)


def label_name(data: DataSpec, number: int) -> str | int:
    """The plan's name of a class, else its number."""
    return data.labels[number] if 0 <= number < len(data.labels) else number


def top_labels(data: DataSpec, scores: NDArray[Any]) -> list[tuple[str | int, float]]:
    """The best classes with their probabilities (softmax of the scores), best first, `top_k` at most.

    Empty where the scores tell no class.
    """
    flat = np.asarray(scores, dtype=np.float64).reshape(-1)
    if predicted_class(flat) == NO_CLASS:
        return []
    powers = np.exp(flat - np.max(flat))
    probabilities = powers / powers.sum()
    order = np.argsort(-flat, kind="stable")[: data.top_k]
    return [(label_name(data, int(number)), float(probabilities[number])) for number in order]


def predicted_class(scores: NDArray[Any]) -> int:
    """The number of the best class; NO_CLASS where the scores tell none: one is NaN, or the greatest is infinite."""
    flat = np.asarray(scores, dtype=np.float64).reshape(-1)
    return int(flat.argmax()) if np.isfinite(np.max(flat)) else NO_CLASS


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
