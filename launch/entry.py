"""Entry point of `edgelaunch`: sets the allocator's environment before anything heavy is imported."""

from __future__ import annotations

import sys

from edgecompile.execution.allocator import restart_with_heap_environment
from edgecompile.terminal.encoding import restart_in_utf8
from edgecompile.terminal.process import abrupt_interrupts, begin, run_to_end
from edgelaunch.process.missing_packages import explain_import
from edgelaunch.process.stderr import say_error

__all__ = ["main"]


def main() -> int:
    begin("edgelaunch")
    restart_in_utf8()
    if not any(word.partition("=")[0] in ("-h", "--help", "--version", "--completion") for word in sys.argv[1:]):
        restart_with_heap_environment()
    try:
        with abrupt_interrupts():
            from edgelaunch.commands.launch_command import main as run

        return run_to_end(run)
    except (ImportError, OSError) as error:
        message = explain_import(error)
        if message is None:
            raise
        say_error(message)
        return 2
