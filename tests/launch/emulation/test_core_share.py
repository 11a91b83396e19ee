"""What an emulated host computes takes its processor time over its share, however seldom it has work."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgelaunch.emulation import cgroups
from edgelaunch.process.core_share import CoreShare, emulated_share


class Clock:
    """Of a process whose sleep is all that it waits for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.used = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "process_time", lambda: self.used)
        monkeypatch.setattr(time, "sleep", self.wait)

    def wait(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def compute(self, seconds: float) -> None:
        self.now += seconds
        self.used += seconds


def test_work_that_had_the_core_to_itself_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, core = Clock(monkeypatch), CoreShare(0.25)
    clock.compute(3.0)
    with core:
        clock.compute(1.0)
    assert clock.now == pytest.approx(7.0)


def test_work_that_was_held_up_already_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, core = Clock(monkeypatch), CoreShare(0.25)
    with core:
        clock.compute(1.0)
        clock.wait(5.0)
    assert clock.now == pytest.approx(6.0)


def test_without_a_share_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, core = Clock(monkeypatch), CoreShare(None)
    with core:
        clock.compute(1.0)
    assert clock.now == pytest.approx(1.0)


def test_a_process_knows_the_share_that_it_was_started_with() -> None:
    script = Path(cgroups.__file__).with_name("enter_cgroups.py")
    say = [sys.executable, "-c", "import os; print(os.environ.get('EDGELAUNCH_CPU_SHARE'))"]
    for given, said in (("0.45", "0.45\n"), ("", "None\n")):
        command = [sys.executable, "-I", "-S", str(script), "", "", given, *say]
        assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == said
    assert emulated_share({"EDGELAUNCH_CPU_SHARE": "0.45"}) == 0.45
    assert emulated_share({}) is None
