"""A signal that Python would forget, since it came during a weak reference's call, ends the process all the same."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import signal, sys, time, weakref
from edgelaunch.process.stopping import hear_signals
number = int(sys.argv[1])
class Thing:
    pass
def called_back(reference):
    signal.raise_signal(number)
    sum(range(10))
hear_signals()
thing = Thing()
reference = weakref.ref(thing, called_back)
try:
    del thing
    time.sleep(60)
except KeyboardInterrupt as error:
    print(type(error).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, "ToldToStop"), (signal.SIGINT, "KeyboardInterrupt")])
def test_a_signal_during_a_call_back_is_heard(number: signal.Signals, raised: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, str(int(number))], capture_output=True, text=True, timeout=50,
                          cwd=tmp_path)  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{raised}\n", "")
