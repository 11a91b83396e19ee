"""What all tests stand on."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def outside(entries: list[str]) -> list[str]:
    return [entry for entry in entries if Path(entry or ".").resolve() != ROOT]


# The installed package is tested. `python -m pytest` puts this folder first, whose edgecompile/ has no native part.
sys.path[:] = outside(sys.path)
if "PYTHONPATH" in os.environ:
    os.environ["PYTHONPATH"] = os.pathsep.join(outside(os.environ["PYTHONPATH"].split(os.pathsep)))
if importlib.util.find_spec("edgecompile") is None:
    pytest.exit("the tests run against the installed package: `make venv`, or `pip install .`, first", 4)

# One thread for a test and for the commands that it starts: `make test` has a half of the tests on each of two cores,
# where a second thread waits for a core more than it computes (the architectures take 1.6 times the CPU time with two).
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A plan is the same each time: data sheets, unless a test measures this machine.
os.environ.setdefault("EDGECOMPILE_QUICK", "0s")

# A command that warns of what torch or another package will change fails, as a test does that runs in this process.
os.environ.setdefault("PYTHONWARNINGS", "error::FutureWarning")

# Tracing makes millions of objects that live on: to look at them again and again for cycles takes a tenth of the time.
gc.set_threshold(20_000, 20, 20)

# a shell's background jobs ignore SIGINT, and so would every command that a test starts and interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-transcripts", action="store_true", help="write tests/launch/control/core/transcripts again"
    )
