"""Finds a chain's repeated blocks, and resolves module names and PipeEdge's numbers to unit numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from edgecompile.contract.errors import UserError, nearest
from edgecompile.frontend.chain.units import Chain, Unit

__all__ = ["block_starts", "cut_positions", "cuts_of_ranges", "pipeedge_cuts", "sublayer_starts", "unit_range"]

_BLOCK = re.compile(r"^(?:(.*)\.)?(\d+)(?:\.|$)")
_ATTENTION = frozenset({"scaled_dot_product_attention", "softmax", "_softmax"})
_PRODUCTS = frozenset({"linear", "matmul", "bmm", "addmm", "conv1d", "mm"})


def cut_positions(cuts: Sequence[object], chain: Chain) -> list[int]:
    """The unit numbers where stages begin after the first, from module names or unit numbers.

    Raises:
        UserError: an unknown name, a number outside the model, or cuts out of order.
    """
    positions = [unit_range(cut, chain, "schedule.cuts")[0] for cut in cuts]
    if positions and positions[0] == 0:
        positions = positions[1:]
    for before, after in pairwise([0, *positions]):
        if after <= before:
            raise UserError(
                f"schedule.cuts: {list(cuts)} begin stages at units {positions}: expected each after the one before"
            )
    return positions


def unit_range(name: object, chain: Chain, key: str) -> tuple[int, int]:
    """First and last unit of a unit number, a range `3-7`, an operator, or a module and all below it.

    Raises:
        UserError: nothing in the model goes by that name.
    """
    last_unit = len(chain.units) - 1
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", str(name))
    if match:
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last <= last_unit:
            raise UserError(f"invalid value {name} for {key}: expected a unit from 0 to {last_unit}")
        return first, last
    text = str(name)
    indexes = [unit.index for unit in chain.units if _belongs(unit, text)]
    if not indexes:
        modules = sorted({unit.module for unit in chain.units if unit.module}, key=lambda item: (item.count("."), item))
        near = nearest(text, [*modules, *(unit.op for unit in chain.units)])
        shown = ", ".join(modules[:8]) + (", ..." if len(modules) > 8 else "")
        shown += f" (did you mean {' or '.join(near)}?)" if near else ""
        raise UserError(f"{key}: the model has no module or operator {text!r}: its modules are {shown}")
    return indexes[0], indexes[-1]


def _belongs(unit: Unit, name: str) -> bool:
    return name in (unit.op, unit.module) or unit.module.startswith(name + ".")


def cuts_of_ranges(numbers: Sequence[int], last_unit: int, key: str, start: int = 0) -> list[int]:
    """Where stages begin after the first, from `[first, last, first, last, ...]`, both ends included.

    Raises:
        UserError: an odd count, a gap, an overlap, or an end that is not the model's.
    """
    if len(numbers) % 2:
        raise UserError(f"{key}: {list(numbers)} has {len(numbers)} numbers: give a first and a last for each stage")
    expected = start
    positions = []
    for first, last in zip(numbers[::2], numbers[1::2], strict=True):
        if first != expected:
            kind = "overlap" if first < expected else "gap"
            raise UserError(f"{key}: {list(numbers)} has a {kind}: a stage begins at {first}, expected {expected}")
        if last < first:
            raise UserError(f"{key}: {list(numbers)}: the stage [{first}, {last}] ends before it begins")
        if last > last_unit:
            raise UserError(f"{key}: {list(numbers)} overshoots: {last} is past the model's end, {last_unit}")
        positions.append(first)
        expected = last + 1
    if expected != last_unit + 1:
        raise UserError(f"{key}: {list(numbers)} stops at {expected - 1}: the last stage must end at {last_unit}")
    return positions[1:]


def pipeedge_cuts(partition: Sequence[int], chain: Chain) -> list[int]:
    """Stage starts from PipeEdge's numbers: four to a transformer block, 1-based.

    In each block 1 is attention, 2 its output projection with the residual, 3 the first product of the MLP with its
    activation, 4 the second one with the residual. What comes before
    the first block goes with 1, the rest with the last.

    Raises:
        UserError: the model has no transformer blocks, or the numbers have a gap, an overlap or overshoot.
    """
    starts = sublayer_starts(chain)
    if not starts:
        raise UserError(
            "schedule.pipeedge_partition: the model has no repeated transformer blocks of attention and MLP: "
            "use schedule.cuts with module names or unit numbers"
        )
    positions = cuts_of_ranges(partition, len(starts), "schedule.pipeedge_partition", start=1)
    return [starts[position - 1] for position in positions]


def sublayer_starts(chain: Chain) -> list[int]:
    """The units where PipeEdge's layers begin, the first one at 0; none, of a model without transformer blocks."""
    starts = [start for block in _blocks(chain) for start in _quarters(block)]
    if not starts or any(after <= before for before, after in pairwise(starts)):
        return []
    return [0, *starts[1:]]


def block_starts(chain: Chain) -> list[int]:
    """The units where transformer blocks begin, the first one at 0; none, of a model without."""
    return [0, *(block[0].index for block in _blocks(chain)[1:])] if _blocks(chain) else []


def _blocks(chain: Chain) -> list[list[Unit]]:
    """The units of each member of the module list that does the most attention."""
    lists: dict[str, dict[int, list[Unit]]] = {}
    for unit in chain.units:
        match = _BLOCK.match(unit.module)
        if match:
            lists.setdefault(match[1] or "", {}).setdefault(int(match[2]), []).append(unit)
    candidates = [
        [members[index] for index in sorted(members)]
        for members in lists.values()
        if all(any(unit.kind in _ATTENTION for unit in block) for block in members.values())
    ]
    return max(candidates, key=len, default=[])


def _quarters(block: list[Unit]) -> list[int]:
    attention = max(place for place, unit in enumerate(block) if unit.kind in _ATTENTION)
    products = [place for place, unit in enumerate(block) if place > attention and unit.kind in _PRODUCTS]
    if block[attention].kind != "scaled_dot_product_attention":
        products = products[1:]  # the product of the softmax with the values is attention too
    if len(products) < 3:
        return []
    projection, expansion, contraction = products[0], products[1], products[-1]
    # With the norm before the MLP, it is the MLP's; with the norm after, it closes the attention part.
    pre_norm = block[0].kind.endswith("norm")
    adds = [place for place, unit in enumerate(block) if projection < place < expansion and unit.kind == "add"]
    third = adds[0] + 1 if pre_norm and adds else expansion
    return [block[0].index, block[projection].index, block[third].index, block[contraction].index]
