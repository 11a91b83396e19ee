"""What the installed `edgelaunch` runs: makes sure of the heap's environment first, while little has been imported."""

from __future__ import annotations

import sys

from edgecompile.process import abrupt_interrupts, begin, final_status
from edgelaunch.allocator import restart_with_heap_environment

__all__ = ["main"]


def main() -> int:
    begin("edgelaunch")
    if not any(word.partition("=")[0] in ("-h", "--help", "--version", "--completion") for word in sys.argv[1:]):
        restart_with_heap_environment()
    with abrupt_interrupts():
        from edgelaunch.cli import main as run

    return final_status(run())
