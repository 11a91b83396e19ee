"""The process from which Pipeline(local=True) has its ranks forked: it imports what they need, once.

`python -m edgelaunch.commands.spare_process PLAN DESCRIPTOR`, started by the package itself.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from edgecompile.contract.plan_file import read_run_plan
from edgelaunch.commands.all_ranks import fork_server
from edgelaunch.process.stopping import hear_signals

__all__ = ["main"]


def main() -> None:
    """Until whoever started it is gone. Where a file of the plan is damaged a rank by itself says so."""
    hear_signals()
    path = Path(sys.argv[1])
    with socket.socket(fileno=int(sys.argv[2])) as channel:
        fork_server(read_run_plan(path), path, checks=False).serve(channel)


if __name__ == "__main__":
    main()
