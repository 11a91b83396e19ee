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
    run = slowed_down(lambda tensors, sizes: clocks.compute(*tensors), share)
    for number in range(1, 4):
        assert run((wall_s, cpu_s), {"batch": 2}) == "result"
        assert clocks.wall_s - 100.0 == pytest.approx(number * takes_s)
    assert len(clocks.slept) == (3 if takes_s > wall_s else 0)


class Steps:
    """Takes half of each call's processor time out."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, object]] = []

    def begin(self, kind: object) -> None:
        self.seen.append(("begin", kind))

    def end(self, kind: object, cpu_s: float) -> float:
        self.seen.append(("end", kind))
        return cpu_s / 2


def test_what_other_hosts_take_is_taken_out(clocks: Clocks) -> None:
    steps = Steps()
    slowed_down(lambda tensors, sizes: clocks.compute(*tensors), 0.25, steps)((1.0, 1.0), {"batch": 2, "tokens": 3})
    assert clocks.wall_s == pytest.approx(102.0)
    assert steps.seen == [("begin", (2, 3)), ("end", (2, 3))]


def test_a_call_that_fails_ends_its_turn(clocks: Clocks) -> None:
    steps = Steps()
    with pytest.raises(ZeroDivisionError):
        slowed_down(lambda tensors, sizes: tensors / 0, 0.25, steps)(1, {})
    assert steps.seen == [("begin", ()), ("end", ())]


def test_a_host_with_all_cores_is_not_slowed_down(clocks: Clocks) -> None:
    def run(tensors: object, sizes: object) -> str:
        return "result"

    assert slowed_down(run, None) == run


def test_the_share_is_told_in_the_environment() -> None:
    assert cpu_share({VARIABLE: "0.3"}) == 0.3
    assert cpu_share({VARIABLE: ""}) is None
    assert cpu_share({}) is None
