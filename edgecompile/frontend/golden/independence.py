"""Checks that an item's result does not depend on the other items of its microbatch.

Where the model runs on the same number of items, each at its place, the same operators run on the same shapes, so that
an item's result may differ by rounding alone when its neighbours are exchanged: that finds an influence of a millionth.
In float64 one item runs alone and the others together; where an error stands out, that item's results alone and among
all are compared. The shapes of the outputs must follow the number of items along their first dimension alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from edgecompile.contract.errors import UserError
from edgecompile.execution.closeness import difference, relative_difference, scale_of
from edgecompile.frontend.golden.eager import Batch, Eager, ModelFails, Outputs, groups_of

__all__ = ["Influence", "ItemsMixed", "exact_outputs", "find_influence"]

_CURES = (
    "give nn.LSTM, nn.GRU, nn.MultiheadAttention and nn.TransformerEncoderLayer batch_first=True, choose other outputs "
    "with model.output, or compile with microbatch=1, which computes each item alone"
)
_PROBE = 1
"""The golden item that is run alone: random values, the second half masked."""
_ROUNDING = 64
"""In units of the dtype's last place, of what is usual in a channel: what exchanged neighbours may change."""
_MOST_ROUNDING = 1e-6
"""The last place of half precision is too coarse for that: there float64 decides."""
_WIDE_ROUNDING = 1e-6
_STANDS_OUT, _MOST_ERROR = 20, 200
"""Times the least error of a row; in units of the dtype's last place. Beyond either, items are looked at closely."""
_OUTLIER = 128
_MOST_SHARED = 4
"""Inputs that are tried."""
_OTHER_PATH = 1e-3
"""Of the largest value: what is larger is not rounding in float32 either."""


class ItemsMixed(UserError):
    """An item's result depends on other items of its microbatch, so that the model takes one at a time."""

    def __init__(self, influence: object) -> None:
        super().__init__(str(influence), fix=_CURES)


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
    for variant in _variants(eager, size):
        try:
            after = eager.run_batch(variant.batch)
        except ModelFails:  # as it may on made-up neighbours
            continue
        for place, item in variant.kept.items():
            found = _compare(eager, outputs, after, item, place, None)
            if found is None or not _confirmed(eager, outputs, after, item, place, variant, size):
                continue
            first = groups_of(eager.num_items, size)[0]
            _check_repeats(eager, outputs, eager.run(first), first[: eager.num_items])
            with suppress(ModelFails):
                eager.run([_PROBE])  # where the items are not rows of an output, that is reported
            return Influence(output=found[0], item=item, detail=f"differs by {found[1]} {variant.where(item)}")
    return None


@dataclass(frozen=True)
class _Variant:
    """A microbatch in which some items stand at the place that they had before, among others."""

    batch: Batch
    rows: tuple[int, ...]
    kept: dict[int, int]
    """By place: the item that had the same place in its own microbatch."""
    how: str = ""

    def where(self, item: int) -> str:
        if self.how:
            return self.how
        others = sorted(set(self.rows) - {item})
        return f"among items {others}" if len(others) > 1 else f"beside item {others[0]}"


def _variants(eager: Eager, size: int) -> Iterator[_Variant]:
    """Other items, copies of one item (which fill up the last microbatch of a run), loud neighbours and silent ones.

    One item keeps what stands before it and one what stands behind it, and which items there are changes too: an
    influence that works in one direction, through a sum, or by who is largest, is seen.
    """
    rows, kept = _regrouped(size)
    yield _Variant(eager.batch(rows), tuple(rows), kept)
    copies = [_PROBE] * size
    yield _Variant(eager.batch(copies), tuple(copies), {_PROBE: _PROBE}, f"beside copies of item {_PROBE}")
    first = groups_of(eager.num_items, size)[0]
    for place, factor, outlier, how in (
        (1, 8, 1, "when the items beside it are larger"),
        (1, 8, _OUTLIER, "when the items beside it hold a value that is far larger"),
        (0, 0, 1, "when the items beside it are zeros"),
    ):
        own = eager.batch(first)
        if outlier == 1 or any(value.is_floating_point() for value in own):
            pairs = zip(own, eager.inputs, strict=True)
            batch = tuple(_made_up(value, golden, place, factor, outlier) for value, golden in pairs)
            yield _Variant(batch, tuple(first), {place: first[place]}, how)
    last = size - 1
    batch = tuple(_repeated(value, last) for value in eager.batch(first))
    how = "when the items before it repeat its first position"
    yield _Variant(batch, tuple(first), {last: first[last]}, how)
    yield from _sharing(eager, rows, kept)


def _sharing(eager: Eager, rows: Sequence[int], kept: dict[int, int]) -> Iterator[_Variant]:
    """Items that have one input of whole numbers in common, such as a document's or a speaker's, and else differ."""
    if len(eager.inputs) == 1:
        return
    place, item = next(iter(kept.items()))
    numbers = [index for index, value in enumerate(eager.inputs) if not value.is_floating_point()]
    for index in numbers[:_MOST_SHARED]:
        batch = eager.batch(rows)
        batch[index][:] = eager.inputs[index][item]
        how = f"when the items beside it have the same {eager.flat.names[index]}"
        yield _Variant(batch, tuple(rows), {place: item}, how)


def _repeated(value: torch.Tensor, place: int) -> torch.Tensor:
    """Before the item at `place` the same item, with its first position everywhere: all of them go to one expert."""
    made = value.clone()
    made[:place] = value[place : place + 1, :1] if value.dim() > 1 else value[place]
    return made


def _made_up(value: torch.Tensor, golden: torch.Tensor, place: int, factor: int, outlier: int) -> torch.Tensor:
    """All items but the one at `place` times a factor, one value of each times another one too.

    Numbers: as the last golden item's, or zero. A limit that all items share counts for nothing until one exceeds it.
    """
    if value.is_floating_point():
        made = value * factor
        made.view(len(made), -1)[:, 0] *= outlier
    else:
        made = golden[-1:].expand_as(value).clone() if factor else torch.zeros_like(value)
    made[place] = value[place]
    return made


def _regrouped(size: int) -> tuple[list[int], dict[int, int]]:
    if size == 2:
        return [0, 3], {0: 0, 1: 3}
    if size == 3:
        return [0, 3, 2], {0: 0, 2: 2}
    return [0, 3, 2, *[3] * (size - 3)], {0: 0, 2: 2, 3: 3}


def _confirmed(
    eager: Eager, outputs: Outputs, after: Outputs, item: int, place: int, variant: _Variant, size: int
) -> bool:
    """Whether a small difference is more than rounding: routing to experts changes the shapes of products."""
    if _compare(eager, outputs, after, item, place, _OTHER_PATH) is not None:
        return True
    with suppress(ModelFails):
        group = next(rows for rows in groups_of(eager.num_items, size) if item in rows)
        wide = zip(eager.run(group, wide=True), eager.run_batch(variant.batch, wide=True), strict=True)
        return any(
            one.shape[1:] != other.shape[1:] or _apart(one[group.index(item)], other[place]) > _WIDE_ROUNDING
            for one, other in wide
        )
    return True


def exact_outputs(eager: Eager, outputs: Outputs, size: int) -> tuple[Outputs | None, Influence | None]:
    """The model in float64, and what it shows of items that depend on their number or place.

    One item runs alone and all others together, so that each weight is widened twice; with one item at a time all run
    together, since `outputs` were computed alone. Where no item minds its company, the eager model's rounding errors
    are small, and alike in all rows.

    Returns:
        None for a model that insists on float32, or whose items influence each other.
    """
    others = [item for item in range(eager.num_items) if item != _PROBE or size == 1]
    try:
        together = eager.run(others, wide=True)
    except ModelFails:
        return _of_this_size(eager, size), _find_in_float32(eager, outputs, size)
    found = _other_shape(eager, outputs, together, size, len(others))
    if size == 1 and found is None and all(_errors_are_alike(*pair) for pair in zip(outputs, together, strict=True)):
        return together, None
    try:
        alone = eager.run([_PROBE], wide=True)
    except ModelFails:
        return (None if found else eager.run_groups(len(others), wide=True)), found
    found = found or _other_shape(eager, alone, together, 1, len(others))
    if found is not None:
        return None, found
    exact = together if size == 1 else tuple(_inserted(*pair) for pair in zip(together, alone, strict=True))
    if all(_errors_are_alike(*pair) for pair in zip(outputs, exact, strict=True)):
        return exact, None
    found = _alone(eager, alone)
    return (None if found else exact), found


def _of_this_size(eager: Eager, size: int) -> Outputs | None:
    """In float64, of a model that takes no other number of items; None where it takes no float64."""
    with suppress(ModelFails):
        return eager.run_groups(size, wide=True)
    return None


def _inserted(others: torch.Tensor, probe: torch.Tensor) -> torch.Tensor:
    return torch.cat([others[:_PROBE], probe, others[_PROBE:]])


def _errors_are_alike(value: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether no row's error, of `value` to `exact`, stands out of the other rows'."""
    if not (value.is_floating_point() or value.is_complex()):
        return torch.equal(value, exact)
    errors = [relative_difference(*rows) for rows in zip(exact, value, strict=True)]
    rounding = torch.finfo(value.dtype).eps
    return max(errors) <= max(min(_STANDS_OUT * min(errors), _MOST_ERROR * rounding), 16 * rounding)


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
        limit: of what is usual in a channel; None: what the dtype rounds.
    """
    for name, one, other in zip(eager.flat.output_names, before, after, strict=True):
        first, second = one[item], other[place]
        if first.shape != second.shape:
            return name, f"its shape ({list(first.shape)}, {list(second.shape)})"
        if not first.is_floating_point() and not first.is_complex():
            if not torch.equal(first, second):
                return name, f"{int((first != second).sum())} of {first.numel()} values"
            continue
        rounding = torch.finfo(first.dtype).eps
        bound = _ROUNDING * min(rounding, _MOST_ROUNDING) if limit is None else limit
        if _apart(first, second) > bound:
            return name, f"{difference(second, first):.3g} (its largest value is {scale_of(one):.3g})"
    return None


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    if not (one.is_floating_point() or one.is_complex()):
        return 0.0 if torch.equal(one, other) else float("inf")
    return relative_difference(one, other)


def _check_repeats(eager: Eager, outputs: Outputs, again: Outputs, rows: Sequence[int]) -> None:
    """Raises UserError where the same items, run again, come out otherwise."""
    for place, item in enumerate(rows):
        different = _compare(eager, outputs, again, item, place, None)
        if different is not None:
            raise UserError(
                f"the model is random: its output {different[0]!r} differs by {different[1]} between two runs on the "
                "same input"
            )
