"""Computing that takes as long as on slower cores."""

from __future__ import annotations

import pytest

from edgelaunch.process import slower_cores
from edgelaunch.process.slower_cores import VARIABLE, cpu_share, slowed_down


class Clocks:
    """Of a process: the wall's and its cores', seconds."""

    def __init__(self) -> None:
        self.wall_s, self.cpu_s = 100.0, 7.0
        self.slept: list[float] = []

    def perf_counter(self) -> float:
        return self.wall_s

    def process_time(self) -> float:
        return self.cpu_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.wall_s += seconds

    def compute(self, wall_s: float, cpu_s: float) -> str:
        self.wall_s += wall_s
        self.cpu_s += cpu_s
        return "result"


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    found = Clocks()
    monkeypatch.setattr(slower_cores, "time", found)
    return found


@pytest.mark.parametrize(
    ("share", "wall_s", "cpu_s", "takes_s"),
    [
        (0.25, 1.0, 1.0, 4.0),  # alone on the core
        (0.25, 3.0, 1.0, 4.0),  # others had the core meanwhile, or its quota was used up
        (0.25, 5.0, 1.0, 5.0),  # for longer than a slower core takes
        (1.5, 0.6, 1.2, 0.8),  # two threads on one and a half cores
        (2.0, 1.0, 1.0, 1.0),  # one thread of two cores
    ],
)
def test_a_call_takes_its_cpu_seconds_over_the_share(
    clocks: Clocks, share: float, wall_s: float, cpu_s: float, takes_s: float
) -> None:
    run = slowed_down(clocks.compute, share)
    for number in range(1, 4):
        assert run(wall_s, cpu_s) == "result"
        assert clocks.wall_s - 100.0 == pytest.approx(number * takes_s)
    assert len(clocks.slept) == (3 if takes_s > wall_s else 0)


def test_a_host_with_all_cores_is_not_slowed_down(clocks: Clocks) -> None:
    run = clocks.compute
    assert slowed_down(run, None) == run


def test_the_share_is_told_in_the_environment() -> None:
    assert cpu_share({VARIABLE: "0.3"}) == 0.3
    assert cpu_share({VARIABLE: ""}) is None
    assert cpu_share({}) is None
