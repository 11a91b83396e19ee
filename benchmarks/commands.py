"""The project's commands as benchmarks run them: in a process of their own, with this Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["compile_plan", "run"]


def run(module: str, *words: object) -> str:
    """What the command prints. Where it fails, the benchmark ends with what it says."""
    # isolated: in the project's folder its sources would be taken for the installed package
    command = [sys.executable, "-I", "-m", module, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def compile_plan(folder: Path, *overrides: str) -> Path:
    """Compiles into `folder`; returns the plan's path."""
    run("edgecompile.commands.compile_command", *overrides, f"output_dir={folder}")
    return folder / "plan.yaml"
