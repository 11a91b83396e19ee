"""edgeprofile measures under the allocator settings that ranks run with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import edgelaunch.process.allocator as ranks
from edgecompile.measure import allocator


def test_edgeprofile_and_ranks_have_the_same_settings() -> None:
    for name in ("TUNABLES", "VARIABLE", "NEVER_BYTES", "M_TRIM_THRESHOLD", "M_MMAP_THRESHOLD", "M_ARENA_MAX"):
        assert getattr(allocator, name) == getattr(ranks, name), name


@pytest.mark.parametrize(("given", "kept"), [("", True), ("glibc.malloc.check=3", False)])
def test_edgeprofile_starts_again_with_a_ranks_environment(given: str, kept: bool) -> None:
    if not ranks.heap_environment({}):
        pytest.skip("the allocator is not glibc's")
    code = (
        "import os; from edgecompile.execution.allocator import restart_as_ranks_start as again; again(); "
        "print(os.environ['GLIBC_TUNABLES'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**_without_malloc(), "GLIBC_TUNABLES": given},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == (allocator.TUNABLES if kept else given)


def _without_malloc() -> dict[str, str]:

    return {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
