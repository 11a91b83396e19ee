"""What the installed `edgelaunch` runs: makes sure of the heap's environment first, while little has been imported."""

from __future__ import annotations

import sys

from edgelaunch.allocator import restart_with_heap_environment

__all__ = ["main"]


def main() -> int:
    if not {"-h", "--help", "--version"} & set(sys.argv[1:]):
        restart_with_heap_environment()
    from edgelaunch.cli import main as run

    return run()
