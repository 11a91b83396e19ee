"""What a rank tells beside its heartbeats reads back, and is left out where another version says something else."""

from __future__ import annotations

import json
import mmap
import os

import pytest

from edgelaunch.common.rank_figures import LinkCount, RankFigures
from edgelaunch.control.core.membership import Beat, Load
from edgelaunch.process.own_memory import own_memory

FIGURES = RankFigures(at_ns=5, epoch=2, memory_bytes=7, resident_bytes=9, parts_ns=(1, 2, 3, 4),
                      received={0: LinkCount(num_bytes=10, busy_ns=11, timed_bytes=12)})  # fmt: skip


def test_figures_read_back() -> None:
    assert RankFigures.from_json(FIGURES.to_json()) == FIGURES
    assert RankFigures.from_json(RankFigures().to_json()) == RankFigures()


def test_what_a_later_version_says_besides_is_left_out() -> None:
    values = {**json.loads(FIGURES.to_json()), "temperature": 60}
    assert RankFigures.from_json(json.dumps(values)) == FIGURES


@pytest.mark.parametrize(
    "text", ["", "7", "[]", "{}", '{"at_ns": 1}', FIGURES.to_json().replace("[1, 2, 3, 4]", "[1, 2]"),
             FIGURES.to_json().replace("[10, 11, 12]", "[10]")],
)  # fmt: skip
def test_what_is_something_else_is_nothing(text: str) -> None:
    assert RankFigures.from_json(text) is None


def test_a_beat_is_as_an_older_rank_reads_it() -> None:
    """The figures are beside it: one that has three numbers more would end a rank 0 that knows of three."""
    beat = Beat(incarnation="ab", count=3, left=1, ready=True, load=Load(at_ns=5, compute_ns=6, received_bytes=7))
    assert beat.to_text() == "ab 3 1 1 - - 5 6 7"


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the kernel tells it on Linux")
def test_memory_grows_with_what_is_held() -> None:
    before, resident = own_memory()
    with mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:  # not what the heap has kept
        held.write(os.urandom(1 << 20) * 32)
        after, now_resident = own_memory()
    assert 0 < before < resident
    assert after - before > 16 << 20
    assert now_resident > resident
