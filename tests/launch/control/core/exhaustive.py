"""Every interleaving of a small cluster (small_world.py), states merged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from small_world import KINDS, World, Wrong, small_rules

from edgelaunch.control.core.leader_state import LeaderState

__all__ = ["KINDS", "Found", "Wrong", "explore", "small_rules"]


@dataclass
class Found:
    """What a search came to."""

    by_faults: list[int] = field(default_factory=list)
    """How many states need one fault more than those before."""
    num_steps: int = 0
    complete: bool = True
    """Whether no state was left out."""
    longest: int = 0
    """Units from the last fault to the next result, at most."""

    @property
    def num_states(self) -> int:
        return sum(self.by_faults)


def explore(
    num_ranks: int,
    most_faults: int,
    *,
    kinds: frozenset[str] = KINDS,
    anywhere: bool = True,
    most_states: int = 1 << 60,
) -> Found:
    """All states that up to so many faults lead to. Raises Wrong with the way to the one where an invariant breaks.

    `kinds`: of faults. `anywhere`: between any two rounds; False: between two units of time.

    A state that was reached with fewer faults is not looked at again: whatever follows from it did so there too. Of a
    state only the hash of its key is kept, 64 bits.
    """
    found = Found()
    world = _streaming(num_ranks)
    ways: dict[int, tuple[int, str] | None] = {hash(world.key()): None}
    after: dict[int, list[tuple[int, int]]] = {}
    """The states that follow without a fault, with the units that go by; -1 where a result comes."""
    seeds = [(hash(world.key()), world)]
    for num_faults in range(most_faults + 1):
        found.by_faults.append(0)
        front, seeds = seeds, []
        while front:
            key, world = front.pop()
            if found.num_states >= most_states:
                found.complete = False
                break
            found.by_faults[-1] += 1
            after[key] = []
            allowed = kinds if num_faults < most_faults and (anywhere or not world.done) else frozenset()
            for name, make, units in _steps(world, allowed):
                found.num_steps += 1
                try:
                    result, other = make()
                except Wrong as error:
                    raise Wrong(f"{error}, after: {', '.join([*_way(ways, key), name])}") from error
                other_key = hash(other.key())
                if units >= 0:
                    after[key].append((other_key, -1 if result else units))
                if other_key not in ways:
                    ways[other_key] = (key, name)
                    (front if units >= 0 else seeds).append((other_key, other))
    if found.complete:
        found.longest = _longest(after, ways)
    return found


def _streaming(num_ranks: int) -> World:
    """A pipeline from which results come."""
    world = World(0, LeaderState.of(small_rules(num_ranks), 0.0), [None] * num_ranks)
    for rank in range(1, num_ranks):
        world.start(rank)
    while not world.results:
        for rank in range(num_ranks):
            world.round(rank)
        world.advance()
    return world


def _steps(world: World, kinds: frozenset[str]) -> Iterator[tuple[str, Any, int]]:
    """What may happen next, by name, and the units that go by; -1 for a fault."""
    for rank in range(len(world.procs)):
        if world.runs(rank) and rank not in world.done:
            yield f"round {rank}", lambda rank=rank: _rounded(world, rank), 0
    if world.may_go_on():
        yield "time", lambda: _advanced(world), 1
    if kinds:
        for name, other in world.faults(kinds):
            yield name, lambda other=other: (False, other), -1


def _rounded(world: World, rank: int) -> tuple[bool, World]:
    other = world.copy()
    other.round(rank)
    return False, other


def _advanced(world: World) -> tuple[bool, World]:
    other = world.copy()
    return other.advance(), other


def _way(ways: dict[int, Any], key: int) -> list[str]:
    names = []
    while (step := ways[key]) is not None:
        key, name = step
        names.append(name)
    return names[::-1]


def _longest(after: dict[int, list[tuple[int, int]]], ways: dict[int, Any]) -> int:
    """Units until a result comes, from any state and by any way; raises Wrong where there is a way round without."""
    longest: dict[int, int] = {}
    for begin, first in after.items():
        if begin in longest:
            continue
        path, stack = {begin}, [(begin, iter(first), 0)]
        while stack:
            key, edges, most = stack.pop()
            for other, units in edges:
                if units < 0:
                    continue
                if other in path:
                    raise Wrong(f"results never come again after: {', '.join(_way(ways, key))}")
                if other not in longest:
                    stack.append((key, _again(other, units, edges), most))
                    path.add(other)
                    stack.append((other, iter(after[other]), 0))
                    break
                most = max(most, units + longest[other])
            else:
                longest[key] = most
                path.discard(key)
    return max(longest.values(), default=0)


def _again(other: int, units: int, edges: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    yield other, units
    yield from edges
