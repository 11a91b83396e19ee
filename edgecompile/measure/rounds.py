"""Measures all stretches in rounds, so that a slow moment of the machine affects all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from edgecompile.contract.closed_sets import Precision
from edgecompile.execution.allocator import give_back
from edgecompile.frontend.chain.units import Chain
from edgecompile.measure.bench import Bench, Sample, peak_growth_bytes
from edgecompile.measure.sizes import MeasuredSize
from edgecompile.measure.stretches import Atom, Stretch, check_ranges, classes, range_bytes, stretches_of
from edgecompile.measure.surroundings import Caches

__all__ = ["Effort", "Found", "Measured", "SampleStore", "Span", "Tell", "measure_chain", "spans_of", "told"]

_LEAST_ROUNDS = 3
_MOST_ROUNDS = 1_000_000
_NUM_CHECKS = 3
"""One of them is measured in each round: they are longer than the stretches."""
_VISITS = 3
"""Where not all fits into memory at once: how often each group comes back."""
_ENTIRE_S, _MOST_ENTIRE = 0.06, 4
"""All units together are what sums are held to: so long in each round, where one run is short, and so often at most."""


@dataclass(frozen=True)
class Span:
    """Units to measure together; those with atoms also one by one. `places`: the first units of all that are alike."""

    name: str
    first: int
    last: int
    atoms: tuple[Atom, ...]
    places: tuple[int, ...]
    num_bytes: int
    turn: int = 0
    """A check takes part in the rounds of this number, counted by the number of checks."""
    entire: bool = False
    """All units, in each round: what stretches take beside their units, each by itself, shows against them."""


@dataclass
class Measured:
    """What was measured of one span."""

    rounds: int = 0
    """That it has been through."""
    whole: list[Sample] = field(default_factory=list)
    atoms: list[list[Sample]] = field(default_factory=list)
    """For each run a list of samples, in the order of the span's atoms."""
    growth_bytes: int | None = None
    """What a run adds to the memory of the process."""
    far: list[list[Sample]] = field(default_factory=list)
    """As atoms, with much more context than usual; of spans that attend to kept keys and values."""

    def to_plain(self) -> dict[str, Any]:
        whole = [[item.wall_s, item.cpu_s] for item in self.whole]
        atoms, far = ([[[item.wall_s, item.cpu_s] for item in row] for row in rows] for rows in (self.atoms, self.far))
        plain = {"rounds": self.rounds, "whole": whole, "atoms": atoms, "growth_bytes": self.growth_bytes}
        return {**plain, "far": far} if far else plain

    @classmethod
    def of_plain(cls, value: dict[str, Any]) -> Measured:
        """Raises ValueError, KeyError or TypeError where it is not what `to_plain` gave."""
        whole = [_sample(pair) for pair in value["whole"]]
        atoms, far = (
            [[_sample(pair) for pair in row] for row in rows] for rows in (value["atoms"], value.get("far", []))
        )
        rounds, growth_bytes = value["rounds"], value["growth_bytes"]
        if not isinstance(rounds, int) or not 0 <= rounds <= _MOST_ROUNDS:
            raise ValueError("no number of rounds")
        if growth_bytes is not None and not isinstance(growth_bytes, int):
            raise ValueError("no number of bytes")
        return cls(rounds, whole, atoms, growth_bytes, far)


def _sample(pair: Any) -> Sample:
    wall_s, cpu_s = (float(value) for value in pair)
    if not (math.isfinite(wall_s) and math.isfinite(cpu_s) and wall_s >= 0 and cpu_s >= 0):
        raise ValueError("no time")
    return Sample(wall_s, cpu_s)


Found = Mapping[str, Mapping[str, Measured]]
"""By the key of the size, and the name of the span."""


class SampleStore(Protocol):
    """Keeps samples by the key of their size, so that an interrupted measurement can resume."""

    def measured(self, key: str) -> dict[str, Measured]: ...
    def is_complete(self, key: str) -> bool: ...
    def keep(self, found: Found, *, complete: bool) -> None: ...


Tell = Callable[[str, int, int], None]
"""Says how far the measurement is: what is measured, how many rounds are done, and of how many."""


def spans_of(chain: Chain, max_bytes: int, seed: int, *, entire: bool = False) -> list[Span]:
    """One stretch of each class, the one in the middle, and random ranges that check the sums.

    Args:
        entire: all units together too, if there are several stretches and `max_bytes` are enough.
    """
    stretches = stretches_of(chain, max_bytes)
    spans = [_stretch_span(chain, alike) for alike in classes(stretches).values()]
    last = len(chain.units) - 1
    if entire and len(stretches) > 1 and range_bytes(chain, 0, last) <= max_bytes:
        spans.append(Span("entire", 0, last, (), (0,), range_bytes(chain, 0, last), entire=True))
    for turn, (first, last) in enumerate(check_ranges(chain, stretches, _NUM_CHECKS, max_bytes, seed)):
        num_bytes = range_bytes(chain, first, last)
        spans.append(Span(f"check {first}-{last}", first, last, (), (first,), num_bytes, turn))
    return spans


def _stretch_span(chain: Chain, alike: Sequence[Stretch]) -> Span:
    chosen = alike[len(alike) // 2]
    return Span(
        name=f"stretch {chosen.first}-{chosen.last}",
        first=chosen.first,
        last=chosen.last,
        atoms=chosen.atoms,
        places=tuple(stretch.first for stretch in alike),
        num_bytes=range_bytes(chain, chosen.first, chosen.last),
    )


@dataclass(frozen=True, kw_only=True)
class Effort:
    rounds: int
    time_limit_s: float
    max_bytes: int
    seed: int
    device: str
    prepack: str = "auto"
    precision: Precision = Precision.FP32
    keep: tuple[str, ...] = ()
    vary: bool = False
    """One module for all sizes, as ranks have where messages vary; else one for the size that is measured."""
    entire: bool = True
    """With `vary`, all units together too, if that fits."""


def measure_chain(
    chain: Chain,
    examples: Sequence[torch.Tensor],
    sizes: Sequence[MeasuredSize],
    effort: Effort,
    store: SampleStore,
    tell: Tell,
) -> tuple[list[Span], Found]:
    """Every span `rounds` times at every size, or until the time limit, three times at least.

    Args:
        examples: one microbatch, at the largest extents.
        sizes: that of the examples alone, where the chain's shapes are fixed.

    Raises:
        UserError: one unit alone needs more than `max_bytes`.
        NotSymbolic: as in Bench.
    """
    spans = spans_of(chain, effort.max_bytes, effort.seed, entire=effort.vary and effort.entire)
    found: dict[str, dict[str, Measured]] = {}
    for size in sizes:
        kept = store.measured(size.key)
        found[size.key] = {span.name: kept.get(span.name) or Measured() for span in spans}
    if all(store.is_complete(size.key) for size in sizes):
        return spans, found
    groups = _groups(spans, effort.max_bytes)
    visits = 1 if len(groups) == 1 else _VISITS
    limit_s = effort.time_limit_s * len({size.microbatch for size in sizes})
    bench_of = partial(_bench, chain, examples, sizes, effort)
    caches = Caches(chain)
    for visit in range(1, visits + 1):
        for number, group in enumerate(groups):
            part = f", part {number + 1} of {len(groups)}" if len(groups) > 1 else ""
            turn = _Turn(
                label=f"{told(sizes)}{part}",
                rounds=-(-effort.rounds * visit // visits),
                least=-(-_LEAST_ROUNDS * visit // visits),
                limit_s=limit_s / (visits * len(groups)),
            )
            for done in _measure_group(bench_of, group, turn, found, caches):
                tell(turn.label, done, turn.rounds)
                store.keep(found, complete=False)
            give_back()
    store.keep(found, complete=True)
    return spans, found


def told(sizes: Sequence[MeasuredSize]) -> str:
    """What is measured, in words."""
    if len(sizes) == 1:
        return f"microbatch {sizes[0].microbatch}"
    microbatches = ", ".join(dict.fromkeys(str(size.microbatch) for size in sizes))
    parts = [f"microbatches {microbatches}"]
    for name in sizes[0].extents:
        parts.append(f"{name} " + ", ".join(dict.fromkeys(str(size.extents[name]) for size in sizes)))
    return " at ".join(parts)


def _bench(
    chain: Chain, examples: Sequence[torch.Tensor], sizes: Sequence[MeasuredSize], effort: Effort, span: Span
) -> Bench:
    asked = sizes if effort.vary else ()
    return Bench(chain, span.first, span.last, span.atoms, examples, effort.device, effort.prepack, asked,
                 effort.precision, effort.keep)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """One visit to one group of spans."""

    label: str
    rounds: int
    """That the group shall have been through by its end."""
    least: int
    limit_s: float


def _measure_group(
    bench_of: Callable[[Span], Bench], group: Sequence[Span], turn: _Turn, found: Found, caches: Caches
) -> Iterator[int]:
    """Builds the group's benches and runs them in turns; yields the rounds done, before the first and after each."""
    done = min(spans[span.name].rounds for spans in found.values() for span in group)
    yield done
    if done >= turn.rounds:
        return
    benches = [bench_of(span) for span in group]
    begin_s = time.monotonic()
    while done < turn.rounds and (done < turn.least or time.monotonic() - begin_s <= turn.limit_s):
        for span, bench in zip(group, benches, strict=True):
            for place, spans in enumerate(found.values()):
                _measure(bench, place, spans[span.name], caches, span, done)
        done += 1
        yield done


def _measure(bench: Bench, place: int, measured: Measured, caches: Caches, span: Span, done: int) -> None:
    if measured.rounds > done:  # a stop fell between this span and the next
        return
    measured.rounds += 1
    if not span.atoms and not span.entire and done % _NUM_CHECKS != span.turn:
        return
    if measured.growth_bytes is None and span.atoms:
        measured.growth_bytes = peak_growth_bytes(bench, place)
    if span.atoms:
        caches.as_after_the_rest(span.num_bytes)
        bench.warm_inputs(place)
        measured.atoms.append(bench.run_atoms(place))
        if bench.has_far:
            caches.as_after_the_rest(span.num_bytes)
            bench.warm_inputs(place)
            measured.far.append(bench.run_atoms(place, far=True))
    whole_s = 0.0
    for _ in range(_MOST_ENTIRE if span.entire else 1):
        caches.as_after_the_rest(span.num_bytes)
        bench.warm_inputs(place)
        measured.whole.append(bench.run_whole(place))
        whole_s += measured.whole[-1].wall_s
        if whole_s >= _ENTIRE_S:
            break


def _groups(spans: Sequence[Span], max_bytes: int) -> list[list[Span]]:
    """Spans that fit into memory together, in order."""
    groups: list[list[Span]] = []
    room = 0
    for span in spans:
        if span.num_bytes > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(span)
        room -= span.num_bytes
    return groups
