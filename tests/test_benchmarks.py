"""What must hold for scripts that are run by hand."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_no_benchmark_hides_a_module_of_the_standard_library() -> None:
    """A script's own folder comes first in sys.path: a profile.py there broke torch._dynamo's cProfile."""
    names = {path.stem for path in BENCHMARKS.iterdir()}
    assert names
    assert not names & set(sys.stdlib_module_names)
