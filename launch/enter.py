"""Starts a command in control groups and on given cores: `python enter.py CORES GROUPS COMMAND...`. Run as a file.

CORES: numbers joined by commas, or empty for all. GROUPS: folders of control groups joined by colons. The process joins
before it becomes the command, so that nothing of the command runs outside.
"""

from __future__ import annotations

import os
import sys

__all__: list[str] = []


def main(cores: str, groups: str, *command: str) -> None:
    for group in filter(None, groups.split(":")):
        with open(os.path.join(group, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    os.execvp(command[0], command)  # noqa: S606 - the command is our own


if __name__ == "__main__":
    main(*sys.argv[1:])
