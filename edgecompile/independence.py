"""Whether an item's result depends on the item alone: not on its neighbours in a microbatch, their number, its place.

Where the model runs on the same number of items, each at its place, the same operators run on the same shapes, so that
an item's result may differ by rounding alone when its neighbours are exchanged: that finds an influence of a millionth.
In float64 one item runs alone and the others together; where an error stands out, that item's results alone and among
all are compared. The shapes of the outputs must follow the number of items along their first dimension alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from edgecompile.eager import Eager, ModelFails, Outputs, groups_of
from edgecompile.errors import UserError
from edgecompile.purity import scale_of

__all__ = ["CURES", "Influence", "exact_outputs", "find_influence"]

CURES = (
    "give nn.LSTM, nn.GRU, nn.MultiheadAttention and nn.TransformerEncoderLayer batch_first=True, choose other outputs "
    "with model.output, or compile with microbatch=1, which computes each item alone"
)
_PROBE = 1
"""The golden item that is run alone: random values, the second half masked."""
_ROUNDING = 64
"""In units of the dtype's last place, of the largest value: what exchanged neighbours may change."""
_MOST_ROUNDING = 0.05
_WIDE_ROUNDING = 1e-6
_STANDS_OUT = 20
"""Times the least error of a row."""
_OTHER_PATH = 1e-3
"""Of the largest value: what is larger is no rounding in float32 either."""


@dataclass(frozen=True, kw_only=True)
class Influence:
    """One item's result that depends on more than the item."""

    output: str
    item: int
    detail: str

    def __str__(self) -> str:
        return (
            f"the items of a microbatch influence each other: output {self.output!r} of item {self.item} {self.detail}"
        )


def find_influence(eager: Eager, outputs: Outputs, size: int) -> Influence | None:
    """Runs golden items among other neighbours and compares.

    Args:
        outputs: of all golden items, run in microbatches of `size`.

    Raises:
        UserError: the model gives other results for the same inputs.
    """
    if size < 2:
        again = eager.run([0])
        _check_repeats(eager, outputs, again, [0])
        return None
    rows, kept = _regrouped(size)
    regrouped = eager.run(rows)
    for place, item in kept.items():
        found = _compare(eager, outputs, regrouped, item, place, None)
        if found is None or not _confirmed(eager, outputs, regrouped, item, place, size):
            continue
        first = list(groups_of(eager.num_items, size)[0])
        _check_repeats(eager, outputs, eager.run(first), first[: eager.num_items])
        with suppress(ModelFails):
            eager.run([_PROBE])  # where the items are no rows of an output, that is to be said
        others = sorted(set(rows) - {item})
        beside = f"among items {others}" if len(others) > 1 else f"beside item {others[0]}"
        return Influence(output=found[0], item=item, detail=f"differs by {found[1]} {beside}")
    return None


def _regrouped(size: int) -> tuple[list[int], dict[int, int]]:
    """A microbatch of other items, and at which places of it are items that had the same place before.

    One keeps what stands before it, one what stands behind it, and which items there are changes too: an influence
    that works in one direction, or through a sum, is seen.
    """
    if size == 2:
        return [0, 3], {0: 0, 1: 3}
    if size == 3:
        return [0, 3, 2], {0: 0, 2: 2}
    return [0, 3, 2, *[3] * (size - 3)], {0: 0, 2: 2, 3: 3}


def _confirmed(eager: Eager, outputs: Outputs, regrouped: Outputs, item: int, place: int, size: int) -> bool:
    """Whether a small difference is no rounding: routing to experts changes the shapes of products, and so rounding."""
    if _compare(eager, outputs, regrouped, item, place, _OTHER_PATH) is not None:
        return True
    with suppress(ModelFails):
        before = eager.run(next(rows for rows in groups_of(eager.num_items, size) if item in rows), wide=True)
        after = eager.run(_regrouped(size)[0], wide=True)
        pairs = zip(before, after, strict=True)
        moved = (torch.stack([one[place], other[place]]) for one, other in pairs if one.shape[1:] == other.shape[1:])
        return any(_difference(*pair) > _WIDE_ROUNDING * scale_of(pair) for pair in moved)
    return True


def exact_outputs(eager: Eager, outputs: Outputs, size: int) -> tuple[Outputs | None, Influence | None]:
    """The model in float64, and what it shows of items that depend on their number or place.

    One item runs alone and all others together, so that each weight is widened twice. Where no item minds its
    company, the eager model's rounding errors are alike in all rows.

    Returns:
        None for a model that insists on float32, or whose items influence each other.
    """
    others = [item for item in range(eager.num_items) if item != _PROBE]
    try:
        together = eager.run(others, wide=True)
    except ModelFails:
        with suppress(ModelFails):
            return eager.run_groups(size, wide=True), _find_in_float32(eager, outputs, size)
        return None, _find_in_float32(eager, outputs, size)
    found = _other_shape(eager, outputs, together, size, len(others))
    try:
        alone = eager.run([_PROBE], wide=True)
    except ModelFails:
        return (None if found else eager.run_groups(len(others), wide=True)), found
    found = found or _other_shape(eager, alone, together, 1, len(others))
    if found is not None:
        return None, found
    order = [_PROBE, *others]
    exact = tuple(
        torch.cat([first, second])[torch.tensor(order).argsort()] for first, second in zip(alone, together, strict=True)
    )
    if all(_errors_are_alike(*pair) for pair in zip(outputs, exact, strict=True)):
        return exact, None
    found = _alone(eager, alone)
    return (None if found else exact), found


def _errors_are_alike(value: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether no row's error, of `value` to `exact`, stands out of the other rows'."""
    if not (value.is_floating_point() or value.is_complex()):
        return torch.equal(value, exact)
    errors = [_difference(*rows) for rows in zip(value.to(exact.dtype), exact, strict=True)]
    rounding, scale = torch.finfo(value.dtype).eps, scale_of(exact)
    usual = min(_STANDS_OUT * min(errors), 1000 * rounding * scale)
    return max(errors) <= max(usual, 16 * rounding * scale)


def _alone(eager: Eager, alone: Outputs) -> Influence | None:
    """Compares the item that ran alone with the same item among all."""
    together = eager.run(range(eager.num_items), wide=True)
    different = _compare(eager, together, alone, _PROBE, 0, _WIDE_ROUNDING)
    if different is None:
        return None
    larger = _compare(eager, together, alone, _PROBE, 0, _OTHER_PATH)
    if larger is None:
        # Rounding within the model (half precision, integers) leaps: only what neighbours do counts.
        rows, kept = _regrouped(eager.num_items)
        exchanged = eager.run(rows, wide=True)
        if all(_compare(eager, together, exchanged, kept[p], p, _WIDE_ROUNDING) is None for p in kept):
            return None
    output, by = larger or different
    return Influence(
        output=output, item=_PROBE, detail=f"differs by {by} alone from among items {list(range(eager.num_items))}"
    )


def _find_in_float32(eager: Eager, outputs: Outputs, size: int) -> Influence | None:
    """The same without float64: item by item in batches of another size, or at other places where none is taken."""
    with suppress(ModelFails):
        number = 1 if size > 1 else eager.num_items
        rows = [_PROBE] if number == 1 else list(range(number))
        other = eager.run(rows)
        found = _other_shape(eager, outputs, other, size, number)
        if found is not None:
            return found
        different = _compare(eager, outputs, other, _PROBE, rows.index(_PROBE), _OTHER_PATH)
        if different is None:
            return None
        where = "alone" if number == 1 else f"among items {rows}"
        return Influence(output=different[0], item=_PROBE, detail=f"differs by {different[1]} {where}")
    if size < 2:
        return None
    rows = [min(place, eager.num_items - 1) for place in range(size)][::-1]
    different = _compare(eager, outputs, eager.run(rows), rows[0], 0, _OTHER_PATH)
    if different is None:
        return None
    return Influence(output=different[0], item=rows[0], detail=f"differs by {different[1]} at another place")


def _other_shape(eager: Eager, one: Outputs, other: Outputs, number: int, other_number: int) -> Influence | None:
    for name, first, second in zip(eager.flat.output_names, one, other, strict=True):
        if first.shape[1:] != second.shape[1:]:
            shapes = f"{[number, *first.shape[1:]]} for {number} items and {[other_number, *second.shape[1:]]}"
            return Influence(output=name, item=0, detail=f"has the shape {shapes} for {other_number}")
    return None


def _compare(
    eager: Eager, before: Outputs, after: Outputs, item: int, place: int, limit: float | None
) -> tuple[str, str] | None:
    """The first output whose row for `item` differs, and by how much in words.

    Args:
        before: rows are items.
        place: the item's row of `after`.
        limit: of the output's largest value; None: what the dtype rounds.
    """
    for name, one, other in zip(eager.flat.output_names, before, after, strict=True):
        first, second = one[item], other[place]
        if first.shape != second.shape:
            return name, f"its shape ({list(first.shape)}, {list(second.shape)})"
        if not first.is_floating_point() and not first.is_complex():
            if not torch.equal(first, second):
                return name, f"{int((first != second).sum())} of {first.numel()} values"
            continue
        scale = scale_of(one)
        rounding = torch.finfo(first.dtype).eps
        bound = min(_ROUNDING * rounding, _MOST_ROUNDING) if limit is None else max(limit, 16 * rounding)
        difference = _difference(first, second)
        if difference > bound * scale:
            return name, f"{difference:.3g} (its largest value is {scale:.3g})"
    return None


def _difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest absolute difference; infinite where one is NaN or infinite and the other is not the same."""
    same = (first == second) | (first.isnan() & second.isnan())
    if bool(same.all()):
        return 0.0
    return float((first - second)[~same].abs().nan_to_num(float("inf")).max())


def _check_repeats(eager: Eager, outputs: Outputs, again: Outputs, rows: Sequence[int]) -> None:
    """Raises UserError where the same items, run again, come out otherwise."""
    for place, item in enumerate(rows):
        different = _compare(eager, outputs, again, item, place, None)
        if different is not None:
            raise UserError(
                f"the model is random: its output {different[0]!r} differs by {different[1]} between two runs on the "
                "same input"
            )
