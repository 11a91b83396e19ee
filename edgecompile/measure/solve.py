"""Solves for the time of each unit from samples of unit ranges, so that sums match whole stages."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecompile.frontend.chain.kept_state import seen_context, state_of, usual_context
from edgecompile.frontend.chain.units import Chain
from edgecompile.measure.bench import Sample, far_context
from edgecompile.measure.rounds import Measured, Span

__all__ = ["Check", "Solved", "solve_units", "start_s"]

_UNDISTURBED = 0.95
"""Of the CPU seconds that a run takes a second of the wall in peace."""
_CLOCK_S = 5e-6
"""How far the two clocks may be apart."""
_MOST_CORRECTION = 1.25
_MOST_START = 0.7
"""Of a stretch's time: what is left is its work."""
_LEAST_WORK = 0.05
"""Of a stretch's time is its units', at least: noise can make a short one shorter than a call."""
_BISECTIONS = 60


@dataclass(frozen=True, kw_only=True)
class Check:
    """A range of units, measured whole, that had no part in the units' times but for the common correction."""

    units: tuple[int, int]
    measured_s: float
    predicted_s: float


@dataclass(frozen=True, kw_only=True)
class Solved:
    """Seconds and bytes of each unit at one microbatch, and how well they add up."""

    wall_s: tuple[float, ...]
    wall_q1_s: tuple[float, ...]
    wall_q3_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    activation_bytes: tuple[int, ...] | None
    context: int
    """Tokens that each slot held, of a model that keeps keys and values."""
    context_s: tuple[float, ...]
    """What each unit takes longer for each token more that a slot holds; none where that was not measured."""
    call_s: float
    """What each stage takes beside its units."""
    correction: float
    checks: tuple[Check, ...]
    rounds: int
    disturbed: float
    """The share of samples in which something else had the cores."""


@dataclass(frozen=True)
class _Figures:
    """Quartiles of the wall's seconds, and the median of the CPU's."""

    q1_s: float
    wall_s: float
    q3_s: float
    cpu_s: float


def solve_units(
    chain: Chain, spans: Sequence[Span], found: Mapping[str, Measured], num_threads: int, begin_s: float = 0.0
) -> Solved:
    """The median of each atom within its stretch, scaled so that the stretch's sum is its median as one frozen shard.

    An atom run by itself costs a call more than within a shard; `call_s` is what makes the sums of atoms closest to
    their stretches, by least squares. What ranges that cross stretches take beside their sums corrects all units alike.

    Args:
        begin_s: what a stretch takes beside its units, if that is more than a call: see start_s.
    """
    stretches = [span for span in spans if span.atoms]
    wholes = {span.name: _figures(found[span.name].whole, num_threads) for span in spans if found[span.name].whole}
    atoms = {
        span.name: [_figures(column, num_threads) for column in zip(*found[span.name].atoms, strict=True)]
        for span in stretches
    }
    atom_s = _call_s([(wholes[span.name].wall_s, [item.wall_s for item in atoms[span.name]]) for span in stretches])
    call_s = max(atom_s, begin_s)
    entire = any(span.entire for span in spans)
    units: list[_Figures | None] = [None] * len(chain.units)
    for span in stretches:
        for place in span.places:
            _fill(units, span, place - span.first, wholes[span.name], atoms[span.name], atom_s, call_s)
    figures = [item for item in units if item is not None]
    assert len(figures) == len(units), "a unit was not measured"
    checked = [(span, wholes[span.name].wall_s) for span in spans if not span.atoms and span.name in wholes]
    sums = [sum(item.wall_s for item in figures[span.first : span.last + 1]) for span, _ in checked]
    ratios = [
        (whole_s - call_s) / total_s
        for (span, whole_s), total_s in zip(checked, sums, strict=True)
        if total_s > 0 and (span.entire or not entire)
    ]
    correction = min(max(statistics.median(ratios), 1 / _MOST_CORRECTION), _MOST_CORRECTION) if ratios else 1.0
    disturbed = [
        not _is_calm(sample, _share(found[span.name].whole, num_threads))
        for span in spans
        for sample in found[span.name].whole
    ]
    return Solved(
        wall_s=tuple(item.wall_s * correction for item in figures),
        wall_q1_s=tuple(item.q1_s * correction for item in figures),
        wall_q3_s=tuple(item.q3_s * correction for item in figures),
        cpu_s=tuple(item.cpu_s * correction for item in figures),
        activation_bytes=_activations(chain, stretches, found),
        context=usual_context(chain),
        context_s=_context_s(chain, stretches, found),
        call_s=call_s,
        correction=correction,
        checks=tuple(
            Check(units=(span.first, span.last), measured_s=whole_s, predicted_s=call_s + correction * total_s)
            for (span, whole_s), total_s in zip(checked, sums, strict=True)
        ),
        rounds=min(found[span.name].rounds for span in spans),
        disturbed=sum(disturbed) / len(disturbed),
    )


def _share(samples: Sequence[Sample], num_threads: int) -> float:
    """CPU seconds a second of the wall where nothing else wants the cores; a single thread always computes."""
    if num_threads == 1:
        return 1.0
    shares = sorted(sample.cpu_s / max(sample.wall_s, 1e-9) for sample in samples)
    return shares[int(0.9 * (len(shares) - 1))]


def _is_calm(sample: Sample, share: float) -> bool:
    return sample.cpu_s + _CLOCK_S >= _UNDISTURBED * share * sample.wall_s


def _figures(samples: Sequence[Sample], num_threads: int) -> _Figures:
    """Of the undisturbed samples; where these are the fewer, the wall's seconds are those that the CPU's would take."""
    share = _share(samples, num_threads)
    kept = [sample for sample in samples if _is_calm(sample, share)]
    walls = sorted(sample.wall_s for sample in kept)
    if 2 * len(kept) < len(samples):
        kept = list(samples)
        walls = sorted(sample.cpu_s / max(share, 1e-9) for sample in samples)
    return _Figures(
        q1_s=walls[(len(walls) - 1) // 4],
        wall_s=statistics.median(walls),
        q3_s=walls[(3 * (len(walls) - 1) + 3) // 4],
        cpu_s=statistics.median(sample.cpu_s for sample in kept),
    )


def _call_s(stretches: Sequence[tuple[float, Sequence[float]]]) -> float:
    """The overhead d of a call that makes sum(atoms - d) + d closest to each whole, relative to it; 0 or more.

    No more than nine tenths of the shortest atom, which must stay a time.
    """
    upper = lower = 0.0
    for whole_s, atoms in stretches:
        calls = len(atoms) - 1
        upper += (sum(atoms) - whole_s) * calls / whole_s**2
        lower += calls**2 / whole_s**2
    least = min(value for _, atoms in stretches for value in atoms)
    return min(max(0.0, upper / lower if lower else 0.0), 0.9 * least)


def start_s(spans: Sequence[Span], found: Mapping[str, Measured], num_threads: int) -> float:
    """The overhead d of each stretch that makes d, and what is left of each without it, add up to the entire chain.

    A stretch that begins after something else has run finds cold caches, which is more than a call where messages are
    small. 0 where the entire chain was not measured.
    """
    measured = [span for span in spans if span.atoms or span.entire]
    wholes = {span.name: _figures(found[span.name].whole, num_threads).wall_s for span in measured}
    entire = [wholes[span.name] for span in spans if span.entire]
    stretches = [(wholes[span.name], len(span.places)) for span in spans if span.atoms]
    low, high = 0.0, max(whole_s for whole_s, _ in stretches) if entire else 0.0
    for _ in range(_BISECTIONS if entire else 0):
        middle = (low + high) / 2
        total_s = middle + sum(count * (whole_s - _start_of(whole_s, middle)) for whole_s, count in stretches)
        low, high = (middle, high) if total_s > entire[0] else (low, middle)
    return low


def _start_of(whole_s: float, call_s: float) -> float:
    """What of a short stretch's time may be overhead."""
    return min(call_s, _MOST_START * whole_s)


def _fill(
    units: list[_Figures | None],
    span: Span,
    shift: int,
    whole: _Figures,
    atoms: Sequence[_Figures],
    atom_s: float,
    call_s: float,
) -> None:
    """Gives a stretch's time to its units; the units of one atom, which no cut can part, get equal parts."""
    net = [item.wall_s - atom_s for item in atoms]
    least_s = _LEAST_WORK * whole.wall_s
    net_s = max(least_s, whole.wall_s - (call_s if call_s == atom_s else _start_of(whole.wall_s, call_s)))
    scale = net_s / sum(net)
    busy = [own * item.cpu_s / item.wall_s for own, item in zip(net, atoms, strict=True)]
    cpu_scale = (
        whole.cpu_s / sum(busy) * min(1.0, net_s / max(least_s, whole.wall_s - atom_s)) if sum(busy) > 0 else 0.0
    )
    for atom, own, cpu, item in zip(span.atoms, net, busy, atoms, strict=True):
        count = atom.last - atom.first + 1
        figures = _Figures(
            q1_s=max(0.0, item.q1_s - atom_s) * scale / count,
            wall_s=own * scale / count,
            q3_s=(item.q3_s - atom_s) * scale / count,
            cpu_s=cpu * cpu_scale / count,
        )
        for index in range(atom.first + shift, atom.last + shift + 1):
            units[index] = figures


def _context_s(chain: Chain, stretches: Sequence[Span], found: Mapping[str, Measured]) -> tuple[float, ...]:
    """Of attention alone: the median difference of runs that saw much more and the usual context, a token."""
    usual = usual_context(chain)
    seen = {  # with a window of a few tokens, more of them changes nothing
        spec.unit: seen_context(far_context(usual), spec.window) - seen_context(usual, spec.window)
        for spec in state_of(chain)
    }
    values = [0.0] * len(chain.units)
    measured = [span for span in stretches if found[span.name].far]
    for span in measured:
        sample = found[span.name]
        for column, atom in enumerate(span.atoms):
            attending = [unit for unit in range(atom.first, atom.last + 1) if seen.get(unit)]
            if not attending:
                continue
            more_s = statistics.median(
                far[column].wall_s - near[column].wall_s for far, near in zip(sample.far, sample.atoms, strict=True)
            )
            for place in span.places:
                for unit in attending:
                    each_s = max(0.0, more_s) / (seen[unit] * len(attending))
                    values[unit + place - span.first] = each_s
    return tuple(values) if measured else ()


def _activations(chain: Chain, stretches: Sequence[Span], found: Mapping[str, Measured]) -> tuple[int, ...] | None:
    """Live bytes of each unit: as counted, plus what its stretch took beyond the count; None if not measurable.

    A stretch's inputs lie in memory before it runs, so they are not part of its growth.
    """
    peaks = [unit.activation_bytes for unit in chain.units]
    for span in stretches:
        growth = found[span.name].growth_bytes
        if growth is None:
            return None
        length = span.last - span.first + 1
        for place in span.places:
            counted = max(unit.activation_bytes for unit in chain.units[place : place + length])
            extra = growth + chain.boundaries[place].num_bytes - counted
            for index in range(place, place + length):
                peaks[index] = max(0, chain.units[index].activation_bytes + extra)
    return tuple(peaks)
