"""Which items share a message: every item once, the oldest first of all, within the limits, and with little padding."""

from __future__ import annotations

import math
from dataclasses import replace

import launch_varying
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launch_plans import Written

from edgecompile.contract.plan import Plan
from edgecompile.execution.batching import Limits, choose
from edgelaunch.common.items import Entry, Item
from edgelaunch.common.varying import Extents
from edgelaunch.pipeline.window import SPAN, Waiting, Window

NONE = st.lists(st.just(()), min_size=1, max_size=60)
ONE = st.lists(st.tuples(st.integers(1, 40)), min_size=1, max_size=60)
TWO = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=40)
MICROBATCH = st.integers(1, 9)


def computed(items: list[Extents]) -> int:
    return len(items) * math.prod(map(max, zip(*items, strict=True)))


@given(NONE | ONE | TWO, MICROBATCH, st.none() | st.integers(1, 200), st.booleans())
def test_a_message_holds_the_oldest_and_keeps_the_limits(
    items: list[Extents], microbatch: int, positions: int | None, padded: bool
) -> None:
    may_differ = (padded,) * len(items[0])
    chosen = choose(items, Limits(microbatch, positions, may_differ))
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= microbatch
    together = [items[place] for place in chosen]
    if not padded:
        assert set(together) == {items[0]}
    if positions is not None and len(chosen) > 1:
        assert computed(together) <= positions


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), MICROBATCH)
def test_no_padding_where_that_many_are_equal(lengths: list[int], microbatch: int) -> None:
    items = [(lengths[0],)] * microbatch + [(length,) for length in lengths]
    together = [items[place] for place in choose(items, Limits(microbatch, None, (True,)))]
    assert together == [(lengths[0],)] * microbatch


def test_a_long_item_does_not_take_short_ones_along() -> None:
    items: list[Extents] = [(100,)] + [(4,)] * 7
    assert choose(items, Limits(8, None, (True,))) == [0]
    assert choose([*items[1:], items[0]], Limits(8, None, (True,))) == list(range(7))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    written: Written = launch_varying.texts(tmp_path_factory.mktemp("window"))
    return written.plan


def waiting(window: Window, length: int, now_ns: int = 0) -> Waiting:
    item = Item(Entry(index=window.next_place), {})
    return Waiting(item, window.next_place, (length,), now_ns, now_ns, 0)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 24), max_size=150),
    marks=st.sets(st.integers(0, 150)),
    window=st.integers(1, 4),
    positions=st.none() | st.integers(1, 100),
    padded=st.booleans(),
)
def test_every_item_goes_once_and_none_past_a_mark(
    plan: Plan, lengths: list[int], marks: set[int], window: int, positions: int | None, padded: bool
) -> None:
    model = plan.model if padded else replace(plan.model, padding={})
    there = Window(replace(plan, model=model, runtime=replace(plan.runtime, window=window, batch_tokens=positions)))
    sent: list[int] = []
    results, most_early = 0, 0

    def take() -> None:
        nonlocal results, most_early
        chosen = [item.place for item in there.take()]
        assert chosen == sorted(chosen)
        assert not any(min(chosen) < mark <= max(chosen) for mark in marks)
        sent.extend(chosen)
        results = next(place for place in range(len(lengths) + 1) if place not in sent)
        most_early = max(most_early, sum(place > results for place in sent))

    for place, length in enumerate(lengths):
        if place in marks:
            there.mark()
        while not there.has_room:
            assert there.ready_ns(ended=False) == 0
            take()
        there.add(waiting(there, length))
    while there.ready_ns(ended=True) is not None:
        take()
    assert sorted(sent) == list(range(len(lengths)))
    assert most_early < SPAN * window * plan.model.microbatch


def test_when_a_message_goes(plan: Plan) -> None:
    window = Window(plan)
    assert window.ready_ns(ended=True) is None
    window.mark()
    window.add(waiting(window, 3, now_ns=7))
    assert window.ready_ns(ended=False) == 7 + 5_000_000
    assert window.ready_ns(ended=True) == 0
    window.mark()
    window.add(waiting(window, 3, now_ns=8))
    assert window.ready_ns(ended=False) == 0
    assert [item.place for item in window.take()] == [0]
    assert window.ready_ns(ended=False) == 8 + 5_000_000
    while window.has_room:
        window.add(waiting(window, 3))
    assert window.ready_ns(ended=False) == 0
    assert len(window) == plan.runtime.window * plan.model.microbatch
