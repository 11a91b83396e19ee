"""edgeprofile measures under the allocator settings that ranks run with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgecompile.execution import allocator


@pytest.mark.parametrize(("given", "kept"), [("", True), ("glibc.malloc.check=3", False)])
def test_edgeprofile_starts_again_with_a_ranks_environment(given: str, kept: bool) -> None:
    if not allocator.heap_environment({}):
        pytest.skip("the allocator is not glibc's")
    code = (
        "import os; from edgecompile.execution.allocator import restart_with_heap_environment as again; again(); "
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
