"""What must hold for scripts that are run by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_no_benchmark_hides_a_module_of_the_standard_library() -> None:
    """A script's own folder comes first in sys.path: a profile.py there broke torch._dynamo's cProfile."""
    names = {path.stem for path in BENCHMARKS.iterdir()}
    assert names
    assert not names & set(sys.stdlib_module_names)


@pytest.mark.slow
def test_commands_run_in_the_projects_folder() -> None:
    """As `make bench` does: there the sources, which lack the configs, come before the installed package."""
    words = "'edgecompile.commands.compile_command', 'model=deit_tiny', '--cfg', 'job'"
    code = f"import commands; print(commands.run({words}))"
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); {code}"],
                          cwd=BENCHMARKS.parent, capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "deit_tiny" in done.stdout
