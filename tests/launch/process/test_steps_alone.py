"""What emulated hosts take from each other is found by steps that are alone, and taken out of the others."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from edgelaunch.process import steps_alone as module
from edgelaunch.process.steps_alone import ALONE_WAIT_S, MOST_MISSED, WAIT_S, StepsAlone, make_turns, steps_alone, told

OWN_S, BESIDE_S = 0.010, 0.0125
"""Of a step alone, and while another host computes all the time."""
KIND = (2, 1)


class Clock:
    """In place of the module's time."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    def sleep(self, seconds: float) -> None:
        self.now_s += max(seconds, 1e-6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


class Pair:
    """Two hosts of an emulation; the second one's steps are as a test wants them."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.clock, turns = clock, folder / "turns"
        make_turns(turns, 2)
        self.first, self.second = (
            found for number in range(2) if (found := steps_alone({module.VARIABLE: told(turns, number)}))
        )

    def step(self, beside: float) -> tuple[float, bool]:
        """Of the first host, during so much of which the other computes: what it is said to take, and whether it waited
        for its turn alone. The other's step ends as soon as anyone waits for it."""
        begin_s = self.clock.now_s
        if beside:
            self.second.begin(KIND)
            self.clock.sleep = self.end_other  # type: ignore[method-assign]
        self.first.begin(KIND)
        vars(self.clock).pop("sleep", None)
        alone = self.clock.now_s > begin_s
        took_s = OWN_S if alone else OWN_S + beside * (BESIDE_S - OWN_S)
        self.clock.now_s += took_s * (beside if not alone else 1)
        if beside and not alone:
            self.second.end(KIND, took_s)
        self.clock.now_s += took_s * (1 - beside if not alone else 0)
        return self.first.end(KIND, took_s), alone

    def end_other(self, seconds: float) -> None:
        del self.clock.sleep  # type: ignore[method-assign]
        self.clock.sleep(seconds)
        self.second.end(KIND, OWN_S)


@pytest.fixture
def pair(tmp_path: Path, clock: Clock) -> Pair:
    return Pair(tmp_path, clock)


def test_what_another_host_takes_is_taken_out(pair: Pair) -> None:
    said = [pair.step(1.0) for _ in range(20)]
    assert said[0] == (pytest.approx(BESIDE_S), False), "nothing is known yet"
    assert 3 <= sum(alone for _, alone in said) <= 5
    assert pair.step(1.0)[0] == pytest.approx(OWN_S, rel=0.01)
    for beside in (0.5, 0.25, 0.0):
        # the line from none to all is near, and not exactly, what this machine makes of a part
        assert pair.step(beside)[0] == pytest.approx(OWN_S, rel=0.03)


def test_turns_are_seldom_once_enough_is_known(pair: Pair) -> None:
    said = [pair.step(1.0)[1] for _ in range(500)]
    assert sum(said[:20]) >= 3
    assert sum(said[20:]) == pytest.approx(480 / module.SELDOM, abs=1)


def test_a_host_that_computes_alone_is_left_alone(pair: Pair) -> None:
    for _ in range(100):
        assert pair.step(0.0) == (pytest.approx(OWN_S), False)


def test_chunks_of_prompts_take_no_turns(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_S", OWN_S / 2)
    for _ in range(100):
        assert pair.step(1.0) == (pytest.approx(BESIDE_S), False)


def test_a_host_that_stops_during_its_step_keeps_the_others_from_their_turns_for_a_moment(pair: Pair) -> None:
    for _ in range(module.LEAST_BEFORE):
        pair.step(1.0)
    pair.second.begin(KIND)
    begin_s = pair.clock.now_s
    for _ in range(200):
        pair.first.begin(KIND)
        pair.clock.now_s += BESIDE_S
        pair.first.end(KIND, BESIDE_S)
    waited_s = pair.clock.now_s - begin_s - 200 * BESIDE_S
    assert MOST_MISSED * ALONE_WAIT_S <= waited_s < MOST_MISSED * ALONE_WAIT_S + 0.1


def test_a_host_that_stops_in_its_turn_alone_holds_the_others_up_once(pair: Pair) -> None:
    def other() -> None:
        pair.first.begin(KIND)
        pair.first.end(KIND, BESIDE_S)

    for _ in range(module.LEAST_BEFORE):
        pair.step(1.0)
    while not pair.first._alone:
        pair.first.begin(KIND)
    pair.first, pair.second = pair.second, pair.first
    begin_s = pair.clock.now_s
    for _ in range(200):
        other()
    assert WAIT_S <= pair.clock.now_s - begin_s < WAIT_S + 0.1
    assert pair.second._others(pair.clock.monotonic_ns()) == pair.first._done_ns, "it is not said to compute for ever"


def test_nobody_computes_beside_a_step_that_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hosts for real, each in a thread, with locks of its own."""
    for name, value in (("LEAST_OVERLAP", 0.0), ("ALONE_WAIT_S", 20.0), ("WAIT_S", 60.0)):  # on a busy machine, too
        monkeypatch.setattr(module, name, value)
    make_turns(tmp_path / "turns", 3)
    hosts = [StepsAlone(tmp_path / "turns", number) for number in range(3)]
    computing, disturbed, alone, lock = set[int](), list[int](), list[int](), threading.Lock()

    def run(number: int) -> None:
        host = hosts[number]
        for _ in range(60):
            host.begin(KIND)
            with lock:
                computing.add(number)
                alone.extend([number] * host._alone)
                disturbed.extend(other for other in computing if hosts[other]._alone and len(computing) > 1)
            time.sleep(0.0005)
            with lock:
                computing.remove(number)
            host.end(KIND, 0.001)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(host._given_up for host in hosts)
    assert len(alone) >= 9
    assert disturbed == []


def test_without_an_emulation_of_text_there_are_no_turns() -> None:
    assert steps_alone({}) is None
    assert steps_alone({module.VARIABLE: ""}) is None
