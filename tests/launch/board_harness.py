"""Agents of boards as processes: on this machine, or each in a network namespace of its own on one bridge."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from launch_harness import PROGRAM, Ended, Running

from edgecompile.contract.errors import UserError
from edgelaunch.emulation.netns import Namespaces, tool

SECRET = "the secret of these tests"
READY = "is ready at"
LAPTOP = 3
"""The namespace of who asks and is no board."""


class Network:
    """Three boards and a laptop, each with a network of its own; agents by number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spaces = Namespaces(f"boards-{os.getpid()}-{secrets.token_hex(2)}", 4)
        self.agents: dict[int, Running] = {}

    def open(self) -> None:
        """Raises UserError where this machine cannot have namespaces."""
        if os.geteuid() != 0 or sys.platform != "linux":
            raise UserError("needs root, for network namespaces")
        try:
            self._spaces.star([None] * 4)
            for number in range(4):
                run_ip("-n", self._spaces.name(number), "route", "add", "224.0.0.0/4", "dev", "eth0")
        except BaseException:
            self._spaces.remove()
            raise

    def close(self) -> None:
        for agent in self.agents.values():
            end(agent)
        self._spaces.remove()

    def address(self, number: int) -> str:
        return self._spaces.address(number)

    @property
    def addresses(self) -> list[str]:
        return [self.address(number) for number in range(3)]

    def start_agents(self, *words: object) -> None:
        for number in range(3):
            self.start_agent(number, *words)
        for agent in self.agents.values():
            agent.wait_for(READY)

    def start_agent(self, number: int, *words: object) -> Running:
        arguments = ["agent", "--name", f"pi-{number}", "--folder", self._folder / f"agent-{number}", *words]
        self.agents[number] = self.start(number, *arguments)
        return self.agents[number]

    def start(self, number: int, *words: object, program: Sequence[str] = PROGRAM, **environ: str) -> Running:
        environ.setdefault("EDGELAUNCH_SECRET", SECRET)
        return Running(words, [*self._spaces.prefix(number), *program], **environ)

    def run(
        self, number: int, *words: object, deadline_s: float = 120.0, program: Sequence[str] = PROGRAM, **environ: str
    ) -> Ended:
        return self.start(number, *words, program=program, **environ).wait(deadline_s)


def run_ip(*words: str) -> None:
    ended = Running(words, [tool("ip")]).wait(10.0)
    ended.expect(0)


def end(agent: Running) -> None:
    with contextlib.suppress(ProcessLookupError):
        agent.process.terminate()
    agent.wait(20.0)


@contextlib.contextmanager
def agents_here(folder: Path, address: str, ports: Sequence[int]) -> Iterator[list[Running]]:
    """Agents `pi-0`, `pi-1` and so on at one address of this machine, without mDNS."""
    agents = [
        Running(["agent", "--name", f"pi-{number}", "--address", address, "--port", port, "--no-mdns",
                 "--folder", folder / f"agent-{number}"], EDGELAUNCH_SECRET=SECRET)
        for number, port in enumerate(ports)
    ]  # fmt: skip
    try:
        for agent in agents:
            agent.wait_for(READY)
        yield agents
    finally:
        for agent in agents:
            end(agent)
