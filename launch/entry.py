"""What the installed `edgelaunch` runs: makes sure of the heap's environment first, while little has been imported."""

from __future__ import annotations

import sys

from edgelaunch.allocator import restart_with_heap_environment

__all__ = ["main"]


def main() -> int:
    if not any(word.partition("=")[0] in ("-h", "--help", "--version", "--completion") for word in sys.argv[1:]):
        restart_with_heap_environment()
    from edgelaunch.cli import main as run

    return run()
