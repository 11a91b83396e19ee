"""Entry points of the installed scripts; they report a missing optional dependency. Imports are late."""

from __future__ import annotations

import sys

from edgecompile.terminal.encoding import restart_in_utf8
from edgecompile.terminal.process import abrupt_interrupts, begin, run_to_end

__all__ = ["compile_main", "plan_main", "profile_main", "sched_main"]

COMPILE_NEEDS = {"hydra", "omegaconf", "antlr4", "transformers", "matplotlib"}
ALL_NEED = {"torch", "numpy", "yaml", "rich", "safetensors", "tokenizers", "PIL"}


def compile_main() -> int:
    """`edgecompile`."""
    begin("edgecompile")
    restart_in_utf8()
    try:
        with abrupt_interrupts():
            from edgecompile.commands.compile_command import main

        return run_to_end(main)
    except ModuleNotFoundError as error:
        return _explain("edgecompile", error)


def profile_main() -> int:
    """`edgeprofile`."""
    begin("edgeprofile")
    restart_in_utf8()
    try:
        with abrupt_interrupts():
            from edgecompile.commands.profile_command import main

        return run_to_end(main)
    except ModuleNotFoundError as error:
        return _explain("edgeprofile", error)


def plan_main() -> int:
    """`edgeplan`."""
    begin("edgeplan")
    with abrupt_interrupts():
        from edgecompile.commands.plan_command import main
    return run_to_end(main)


def sched_main() -> int:
    """`edgesched`."""
    begin("edgesched")
    with abrupt_interrupts():
        from edgecompile.commands.pipeedge_command import main
    return run_to_end(main)


def _explain(command: str, error: ModuleNotFoundError) -> int:
    if (error.name or "").partition(".")[0] not in COMPILE_NEEDS | ALL_NEED:
        raise error
    print(f"{command}: {error.name} is not installed, and compiling needs it: pip install 'edgecompile[compile]' "
          "(a rank that only runs plans needs no more than edgelaunch)", file=sys.stderr)  # fmt: skip
    return 2
