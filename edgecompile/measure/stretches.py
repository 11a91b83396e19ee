"""Divides the chain into stretches: consecutive units measured together, equal ones only once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgecompile.contract.errors import UserError
from edgecompile.contract.quantities import format_bytes
from edgecompile.frontend.chain.fingerprint import unit_signatures
from edgecompile.frontend.chain.units import Chain

__all__ = ["Atom", "Stretch", "atoms_of", "check_ranges", "classes", "range_bytes", "stretches_of"]

_LONGEST_PERIOD = 160
_LEAST_REPEATED = 6
"""Atoms that a repetition must cover: a block, not two additions in a row."""
_LONGEST_STRETCH = 40
_MOST_WORK = 3.0
"""Of a range that checks the sums: so many times the largest stretch's."""


@dataclass(frozen=True)
class Atom:
    """Units between two boundaries that can be cut, with none inside; nearly always one unit."""

    first: int
    last: int


@dataclass(frozen=True)
class Stretch:
    """Consecutive atoms."""

    atoms: tuple[Atom, ...]
    key: str
    """The same for stretches that cost the same."""

    @property
    def first(self) -> int:
        return self.atoms[0].first

    @property
    def last(self) -> int:
        return self.atoms[-1].last


def atoms_of(chain: Chain) -> list[Atom]:
    starts = [boundary.index for boundary in chain.boundaries if boundary.cuttable]
    return [Atom(begin, end - 1) for begin, end in pairwise(starts)]


def stretches_of(chain: Chain, max_bytes: int) -> list[Stretch]:
    """The whole chain in stretches of at most `max_bytes`; where the model repeats a block, each block is one.

    Raises:
        UserError: one unit alone is larger; says how much it needs.
    """
    atoms = atoms_of(chain)
    signatures = unit_signatures(chain)
    numbers: dict[str, int] = {}
    kinds = []
    for atom in atoms:
        text = "\n".join(signatures[atom.first : atom.last + 1])
        kinds.append(numbers.setdefault(text, len(numbers)))
    stretches = []
    for begin, end in _pieces(kinds, 0, len(atoms)):
        for first, last in _fitting(chain, atoms[begin:end], max_bytes):
            inside = tuple(atoms[begin + first : begin + last])
            key = " ".join(str(kind) for kind in kinds[begin + first : begin + last])
            stretches.append(Stretch(inside, key))
    return stretches


def classes(stretches: Sequence[Stretch]) -> dict[str, list[Stretch]]:
    """The stretches by their key, in the order of the chain."""
    found: dict[str, list[Stretch]] = {}
    for stretch in stretches:
        found.setdefault(stretch.key, []).append(stretch)
    return found


def _pieces(kinds: Sequence[int], begin: int, end: int) -> list[tuple[int, int]]:
    """Spans of atoms: the repetition that covers most, period by period, and the same again on both sides of it."""
    if begin == end:
        return []
    found = _repetition(kinds[begin:end])
    if found is None:
        return [(first, min(first + _LONGEST_STRETCH, end)) for first in range(begin, end, _LONGEST_STRETCH)]
    start, period, count = found
    first, last = begin + start, begin + start + period * count
    blocks = [(place, place + period) for place in range(first, last, period)]
    return _pieces(kinds, begin, first) + blocks + _pieces(kinds, last, end)


def _repetition(kinds: Sequence[int]) -> tuple[int, int, int] | None:
    """Start, period and count of the repetition that covers most atoms; of those the shortest period, the first."""
    best: tuple[int, int, int] | None = None
    covered = _LEAST_REPEATED - 1
    for period in range(1, min(_LONGEST_PERIOD, len(kinds) // 2) + 1):
        run = 0
        for place in range(len(kinds) - period - 1, -1, -1):
            run = run + 1 if kinds[place] == kinds[place + period] else 0
            count = run // period + 1
            if count > 1 and (count * period > covered or (best and period == best[1] and count * period == covered)):
                best, covered = (place, period, count), count * period
    return best


def _fitting(chain: Chain, atoms: Sequence[Atom], max_bytes: int) -> list[tuple[int, int]]:
    """Spans of these atoms, as long as possible, that each need `max_bytes` at most."""
    spans = []
    begin = 0
    while begin < len(atoms):
        end = begin + 1
        while end < len(atoms) and range_bytes(chain, atoms[begin].first, atoms[end].last) <= max_bytes:
            end += 1
        needed = range_bytes(chain, atoms[begin].first, atoms[end - 1].last)
        if needed > max_bytes:
            raise UserError(
                f"profile.max_memory: unit {atoms[begin].first} ({chain.units[atoms[begin].first].op}) alone takes "
                f"{format_bytes(needed)}, {format_bytes(max_bytes)} are allowed: raise it, or "
                "measure a smaller microbatch"
            )
        spans.append((begin, end))
        begin = end
    return spans


def range_bytes(chain: Chain, first: int, last: int) -> int:
    """Weights of these units, each counted once, and their largest live activations."""
    weights = {weight.key: weight.num_bytes for unit in chain.units[first : last + 1] for weight in unit.weights}
    return sum(weights.values()) + max(unit.activation_bytes for unit in chain.units[first : last + 1])


def check_ranges(
    chain: Chain, stretches: Sequence[Stretch], count: int, max_bytes: int, seed: int
) -> list[tuple[int, int]]:
    """Random unit ranges, first and last, beside the stretches: what whole stages of one to three stretches take."""
    atoms = atoms_of(chain)
    if len(atoms) < 2:
        return []
    generator = random.Random(seed)
    work = [sum(unit.flops for unit in chain.units[atom.first : atom.last + 1]) for atom in atoms]
    largest = max(sum(unit.flops for unit in chain.units[item.first : item.last + 1]) for item in stretches)
    known = {(stretch.first, stretch.last) for stretch in stretches}
    found: list[tuple[int, int]] = []
    for _ in range(200 * count):
        begin, end = sorted(generator.sample(range(len(atoms) + 1), 2))
        first, last = atoms[begin].first, atoms[end - 1].last
        share = sum(work[begin:end]) / max(largest, 1)
        fits = range_bytes(chain, first, last) <= max_bytes
        if len(found) < count and fits and 0.5 <= share <= _MOST_WORK and (first, last) not in {*known, *found}:
            found.append((first, last))
    return found
