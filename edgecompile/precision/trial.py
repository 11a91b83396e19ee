"""Items that a precision is judged on: what the model makes of them, and how far from that another result is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from edgecompile.contract.closed_sets import DataKind
from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.errors import UserError
from edgecompile.contract.model_facts import LabelledItem, ModelFacts
from edgecompile.contract.plan import TensorSpec
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.golden.eager import Batch, Eager, Outputs, groups_of
from edgecompile.frontend.golden.golden_items import Reference

__all__ = [
    "FEW_ITEMS",
    "Run",
    "Score",
    "Trial",
    "chained",
    "golden_trial",
    "items_trial",
    "messages_of",
    "squared_error",
]

Run = Callable[..., Outputs]
"""From a message's inputs to its outputs."""
FEW_ITEMS = 8
"""On which each module is tried alone."""
_FEWEST_NEIGHBOURS = 3
_TIED = 1e-5
"""Of cosines: what is as near as this is the nearest too."""


@dataclass(frozen=True, kw_only=True)
class Score:
    error: Mapping[str, float]
    """By output of floats: the squares of its errors over the squares of what is right."""
    agreement: Mapping[str, float] = field(default_factory=dict)
    """By output: the share of items, or of whole numbers, that stay as they are."""
    right: float | None = None
    """The share of items with the right label; None: there are no labels."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    what: str
    """In words: `the golden items`, or `241 items of texts.txt`."""
    names: tuple[str, ...]
    """Of the outputs."""
    messages: tuple[Batch, ...]
    counts: tuple[int, ...]
    """How many items of each message count; the others fill it up."""
    true: tuple[Outputs, ...]
    """Of the items of each message that count."""
    floor: Mapping[str, float] = field(default_factory=dict)
    """By output: the error that no budget is below, twice the eager model's own."""
    scores: str | None = None
    """The output whose largest value is the label."""
    neighbours: bool = False
    """Whether rows of floats, being embeddings, agree if their nearest neighbours do, not their largest values."""
    labels: tuple[int | None, ...] = ()

    @property
    def num_items(self) -> int:
        return sum(self.counts)

    def first(self, num_items: int) -> Trial:
        """A trial of about so many of its items, in whole messages."""
        messages = 1
        while messages < len(self.messages) and sum(self.counts[:messages]) < num_items:
            messages += 1
        return Trial(what=self.what, names=self.names, messages=self.messages[:messages], floor=self.floor,
                     counts=self.counts[:messages], true=self.true[:messages], scores=self.scores)  # fmt: skip

    def run(self, run: Run) -> list[Outputs]:
        """What `run` makes of the items that count, message by message."""
        with torch.no_grad():
            results = [run(*(value.clone() for value in message)) for message in self.messages]
        return [tuple(value[:count] for value in outputs) for outputs, count in zip(results, self.counts, strict=True)]

    def score(self, given: Sequence[Outputs]) -> Score:
        error, agreement = {}, {}
        for place, name in enumerate(self.names):
            pairs = [(outputs[place], true[place]) for outputs, true in zip(given, self.true, strict=True)]
            if pairs[0][0].is_floating_point():
                error[name] = squared_error(pairs)
            share = self._agreement(name, pairs)
            if share is not None:
                agreement[name] = share
        return Score(error=error, agreement=agreement, right=self._right(given))

    def _agreement(self, name: str, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float | None:
        """None where an item has one float, or several rows of them, so that its largest says nothing."""
        value, true = pairs[0]
        if not value.is_floating_point():
            same = [(one == other).flatten() for one, other in pairs]
            return float(torch.cat(same).double().mean()) if sum(map(len, same)) else None
        if value.dim() != 2 or value.shape[1] < 2:
            return None
        if len({value.shape[1:] for value, _ in pairs}) > 1:  # positions of items that differ in length
            return None
        value, true = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
        if name != self.scores and self.neighbours:
            return _same_neighbours(value, true)
        return float((value.argmax(1) == true.argmax(1)).double().mean())

    def _right(self, given: Sequence[Outputs]) -> float | None:
        if self.scores is None or not self.labels or None in self.labels:
            return None
        scores = [outputs[self.names.index(self.scores)].flatten(1) for outputs in given]
        found = torch.cat([value.argmax(1) for value in scores])
        return float((found == torch.tensor(self.labels, dtype=found.dtype)).double().mean())


def chained(stages: Sequence[Callable[..., Sequence[torch.Tensor]]]) -> Run:
    """One stage after the other."""

    def run(*values: torch.Tensor) -> Outputs:
        for stage in stages:
            values = tuple(part.contiguous() for part in stage(*values))
        return values

    return run


def squared_error(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Of one output's messages, as they are and as they are right, over the squares of what is right."""
    wrong = right = largest = 0.0
    for value, true in pairs:
        finite = true.isfinite()
        if not value.is_floating_point() or not bool(finite.any()):
            continue
        difference = (value.double() - true.double())[finite]
        if not bool(difference.isfinite().all()):
            return float("inf")
        wrong += float(difference.square().sum())
        right += float(true.double()[finite].square().sum())
        largest = max(largest, float(difference.abs().max()))
    return wrong / right if right else float(largest > 0)


def _same_neighbours(value: torch.Tensor, true: torch.Tensor) -> float | None:
    """The share of items whose nearest other item, by cosine, stays the same; None: too few to tell."""
    if len(value) < _FEWEST_NEIGHBOURS:
        return None
    cosines = []
    for rows in (value.double(), true.double()):
        unit = torch.nn.functional.normalize(rows, dim=1)
        cosines.append((unit @ unit.T).fill_diagonal_(-torch.inf))
    found, right = cosines
    chosen = right.gather(1, found.argmax(1, keepdim=True))[:, 0]
    return float((chosen >= right.amax(1) - _TIED).double().mean())


def golden_trial(reference: Reference, names: Sequence[str], size: int, scores: str | None) -> Trial:
    """
    Args:
        size: of a message.
    """
    count = len(reference.inputs[0])
    groups = groups_of(count, size)
    counts = tuple(min(size, count - start) for start in range(0, count, size))
    starts = range(0, count, size)
    owns = zip(names, reference.outputs, reference.exact, strict=True)
    return Trial(
        what="the golden items",
        names=tuple(names),
        messages=tuple(tuple(value[group] for value in reference.inputs) for group in groups),
        counts=counts,
        true=tuple(tuple(value[start : start + size] for value in reference.exact) for start in starts),
        floor={name: 2 * squared_error([(value, true)]) for name, value, true in owns},
        scores=scores,
    )


def items_trial(items: Sequence[LabelledItem], what: str, model: ModelFacts, flat: FlatModel) -> Trial:
    """The user's own items, and what the eager model makes of them in its own precision.

    Items of equal shapes share messages, of as many items as the plan allows; fixed ones are filled up with the last.

    Raises:
        UserError: the eager model fails on them, or gives no finite numbers.
    """
    messages, counts, order = messages_of(items, model)
    eager = Eager(flat, messages[0])
    true = [eager.run_batch(message) for message in messages]
    for name, *outputs in zip(flat.output_names, *true, strict=True):
        floats = [value.flatten(1) for value in outputs if value.is_floating_point() and value.numel()]
        if not all(bool(rows.isfinite().any(1).all()) for rows in floats):
            raise UserError(f"the model gives {name} without one finite number for some of these items: leave them out")
    return Trial(
        what=what,
        names=tuple(spec.name for spec in model.outputs),
        messages=tuple(messages),
        counts=tuple(counts),
        true=tuple(tuple(value[:count] for value in outputs) for outputs, count in zip(true, counts, strict=True)),
        scores=model.data.scores,
        neighbours=model.data.kind == DataKind.TEXT and model.data.scores is None,
        labels=tuple(items[place].label for place in order),
    )


def messages_of(items: Sequence[LabelledItem], model: ModelFacts) -> tuple[list[Batch], list[int], list[int]]:
    """The items in messages, as items_trial says, how many of each count, and which ones they are, in order."""
    dims, size = model.model.dims, model.model.microbatch
    rows = [tuple(_tensor(item, spec, model) for spec in model.inputs) for item in items]
    alike: dict[tuple[torch.Size, ...], list[int]] = {}
    for place, row in enumerate(rows):
        alike.setdefault(tuple(value.shape for value in row), []).append(place)
    messages: list[Batch] = []
    counts, order = list[int](), list[int]()
    for places in alike.values():
        for start in range(0, len(places), size):
            group = places[start : start + size]
            filled = group if BATCH in dims else [*group, *[group[-1]] * (size - len(group))]
            messages.append(
                tuple(torch.stack(values) for values in zip(*(rows[place] for place in filled), strict=True))
            )
            counts.append(len(group))
            order.extend(group)
    return messages, counts, order


def _tensor(item: LabelledItem, spec: TensorSpec, model: ModelFacts) -> torch.Tensor:
    """An input of an item, filled up to the least extents that the model takes."""
    value = torch.as_tensor(item.arrays[spec.name]).to(getattr(torch, spec.dtype))
    for axis, text in enumerate(spec.dims[1:] if spec.dims else ()):
        dim = model.model.dims.get(text or "")
        if dim is not None and value.shape[axis] < dim.min:
            shape = list(value.shape)
            shape[axis] = dim.min - shape[axis]
            fill = model.model.padding.get(spec.name, 0.0)
            value = torch.cat([value, torch.full(shape, fill, dtype=value.dtype)], axis)
    return value
