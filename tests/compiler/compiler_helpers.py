"""What the compiler's tests share: running installed commands, and the type of the compile_here fixture."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edgecompile.plan import Plan

DEADLINE_S = 240

Compile = Callable[..., Plan]


def command(
    module: str, *arguments: str, folder: Path, deadline_s: float = DEADLINE_S, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs an installed command in a folder of its own; `path` is put on the other process's PYTHONPATH."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), environment.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=deadline_s,
        stdin=subprocess.DEVNULL,
    )
