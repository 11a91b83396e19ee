"""`--emulate`: runs each rank with its host's network, cores and memory. Linux, root.

Also for benchmarks and tests: `with Emulation(plan) as emulation:`, then `emulation.prefix(rank)` before any command.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_bytes, format_rate
from edgelaunch.common.addresses import Address
from edgelaunch.common.failures import Failure, rank_name
from edgelaunch.common.secret import VARIABLE
from edgelaunch.emulation import cgroups, netns
from edgelaunch.local.local_run import Children
from edgelaunch.process.cores import available_cores, local_threads
from edgelaunch.process.processes import start_time
from edgelaunch.process.slower_cores import VARIABLE as SHARE_VARIABLE
from edgelaunch.process.stderr import say
from edgelaunch.process.steps_alone import VARIABLE as TURNS_VARIABLE
from edgelaunch.process.steps_alone import make_turns, told
from edgelaunch.request.run_request import RunRequest
from edgelaunch.request.serve_request import ServeRequest
from edgelaunch.request.start_request import DEFAULT_RESTARTS
from edgelaunch.request.started_rank import RankSettings

__all__ = ["EmulatedRun", "Emulation", "check_can_emulate", "describe", "interface_rates", "pinned_cores"]

MASTER_PORT = 29500
SLOWEST_UNSEEN_LATENCY_S = 0.001

_numbers = itertools.count()
"""Of this process's emulations."""


def check_can_emulate() -> None:
    """Raises UserError where this machine cannot: no Linux, no root, no iproute2."""
    if sys.platform != "linux":
        raise UserError("--emulate needs Linux, for its network namespaces and control groups: use --local here")
    if os.geteuid() != 0:
        raise UserError("--emulate needs root, for network namespaces and limits: start it with sudo, or use --local")
    for name in ("ip", "tc"):
        netns.tool(name)


class Emulation:
    """The plan's hosts as namespaces and control groups, from `__enter__` to `__exit__`.

    Their names carry this process's id and start time: what a killed process left, the next one removes.
    """

    interface = netns.INTERFACE
    """Of every rank; with a pairwise network each peer has one of its own."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._mark = f"{_family()}{os.getpid()}-{start_time(os.getpid())}-{next(_numbers)}"
        self._groups: list[cgroups.ControlGroup] = []
        self._namespaces = netns.Namespaces(self._mark, len(plan.hosts))
        shares = [host.limits.cpu_share for host in plan.hosts]
        self._turns = Path(tempfile.gettempdir()) / f"{self._mark}-turns"
        """In which hosts take turns, where steps are short and wait for memory."""
        self._spinning: list[subprocess.Popen[bytes]] = []
        self._cores = pinned_cores(shares, sorted(os.sched_getaffinity(0)))

    def __enter__(self) -> Emulation:
        """Raises UserError where this machine cannot emulate, in one line that says what is missing."""
        check_can_emulate()
        controllers = cgroups.find_controllers()
        _remove_leftovers(controllers)
        if self._plan.generation is not None:
            make_turns(self._turns, len(self._plan.hosts))
        try:
            for host in self._plan.hosts:
                group = cgroups.ControlGroup(f"{self._mark}-{host.rank}", controllers)
                self._groups.append(group)
                limits = host.limits
                group.create(
                    cpu_share=limits.cpu_share,
                    memory_bytes=limits.memory_bytes,
                    period_s=self._period_s(host.rank),
                )
            self._connect()
            if any(host.limits.cpu_share is not None for host in self._plan.hosts):
                self._run_beside(controllers)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def address(self, rank: int) -> str:
        """Reached from all namespaces of this emulation, and from nowhere else."""
        return self._namespaces.address(rank)

    def prefix(self, rank: int) -> list[str]:
        """Before a command: runs it as on the rank's host. Processes that end with it count against one limit."""
        share = self._plan.hosts[rank].limits.cpu_share
        words = [] if share is None else ["env", f"{SHARE_VARIABLE}={share}"]
        if words and self._plan.generation is not None:
            words.append(f"{TURNS_VARIABLE}={told(self._turns, rank)}")
        return [*_entering(self._groups[rank], self._cores[rank]), *words, *self._namespaces.prefix(rank)]

    def threads(self, rank: int) -> int:
        """Intra-op threads: as planned, but no more than the host's cores."""
        host = self._plan.hosts[rank]
        if host.limits.cpu_share is None:
            return local_threads(self._plan, rank, len(self._plan.hosts))
        cores = min(available_cores(), math.ceil(host.limits.cpu_share))
        return min(host.threads or cores, cores)

    def outgrown(self, rank: int) -> str | None:
        """In words, if the kernel killed the rank's process because of its memory limit."""
        if not self._groups[rank].outgrown():
            return None
        stage = self._plan.stage_of_rank(rank)
        planned = (
            f", where the plan predicted {format_bytes(stage.predicted.memory_bytes)}" if stage is not None else ""
        )
        limit = format_bytes(self._plan.hosts[rank].limits.memory_bytes)
        return (
            f"{rank_name(self._plan, rank)} exceeded its memory limit of {limit}{planned}: compile with a smaller "
            "microbatch, more hosts, or the memory that the host really has"
        )

    def peak_bytes(self, rank: int) -> int:
        """The most memory that the rank held, page cache included."""
        return self._groups[rank].peak_bytes()

    def _period_s(self, rank: int) -> float:
        """How often a host's share is granted, where the kernel can.

        A core that changes hands loses its caches: as seldom as a few times a microbatch. Steps of text are shorter,
        and take their time by themselves (see slowed_down).
        """
        if self._plan.generation is not None:
            return cgroups.MOST_PERIOD_S
        stage = self._plan.stage_of_rank(rank)
        return stage.predicted.compute_s / 2 if stage is not None else 0.0

    def _connect(self) -> None:
        plan, model = self._plan, self._plan.network.model
        if model == "pairwise":
            rates = {(link.source, link.destination): link.bandwidth_bytes_per_s for link in plan.links}
            self._namespaces.mesh(rates)
        elif model == "shared":
            fastest = max((link.bandwidth_bytes_per_s for link in plan.links), default=None)
            self._namespaces.channel(plan.network.bandwidth_bytes_per_s or fastest)
        else:
            self._namespaces.star(interface_rates(plan))

    def _run_beside(self, controllers: dict[str, cgroups.Controller]) -> None:
        """On each core what keeps it awake; its file says why. It ends with this process."""
        group = cgroups.ControlGroup(f"{self._mark}-spin", controllers)
        self._groups.append(group)
        group.create_idle()
        cores = {core for chosen in self._cores for core in chosen} or os.sched_getaffinity(0)
        for core in sorted(cores):
            command = [*_entering(group, (core,)), *_own_file("busy_core.py")]
            self._spinning.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True))

    def _remove(self) -> None:
        with _undisturbed():
            for process in self._spinning:
                process.kill()
                process.wait()
            for group in self._groups:
                group.remove()
            shutil.rmtree(self._turns, ignore_errors=True)
            self._namespaces.remove()


def _own_file(name: str) -> list[str]:
    """Runs one of this folder's files, until this process is gone."""
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name(name)), str(os.getpid())]


def _entering(group: cgroups.ControlGroup, cores: Sequence[int]) -> list[str]:
    """Before a command: runs it in a group and on these cores; none: on all."""
    script = str(Path(__file__).with_name("enter_cgroups.py"))
    return [sys.executable, "-I", "-S", script, ",".join(map(str, cores)), ":".join(map(str, group.folders))]


class OnEmulatedHosts:
    """Ranks on the hosts of an emulation that has begun."""

    def __init__(self, emulation: Emulation, max_threads: int | None) -> None:
        self._emulation, self._max_threads = emulation, max_threads

    def prefix(self, rank: int) -> Sequence[str]:
        return self._emulation.prefix(rank)

    def settings(self, rank: int) -> RankSettings:
        threads = min(self._emulation.threads(rank), self._max_threads or available_cores())
        return RankSettings(master=Address(self._emulation.address(0), MASTER_PORT), threads=threads)

    def why_killed(self, rank: int) -> str | None:
        return self._emulation.outgrown(rank)


class EmulatedRun:
    """All ranks of a plan as children, each in its own namespace and control groups."""

    def __init__(
        self,
        plan: Plan,
        request: RunRequest | ServeRequest,
        *,
        max_threads: int | None,
        restarts: int = DEFAULT_RESTARTS,
        web: socket.socket | None = None,
    ) -> None:
        """`request`, `restarts` and `web`: as of Children; `max_threads`: of each rank."""
        self._plan, self._quiet = plan, request.quiet
        self._emulation = Emulation(plan)
        secret = {VARIABLE: secrets.token_hex(32)}
        place = OnEmulatedHosts(self._emulation, max_threads)
        self.children = Children(plan, request, place, restarts=restarts, environ=secret, web=web)

    def run(self) -> Failure | None:
        """As LocalRun.run; leaves no namespace and no group behind.

        Raises:
            KeyboardInterrupt: passed on, after all ranks have been ended.
            UserError: this machine cannot emulate.
        """
        with self._emulation:
            if not self._quiet:
                for line in describe(self._plan):
                    say(line, about="edgelaunch", event="emulation")
            try:
                for rank in range(len(self._plan.hosts)):
                    self.children.start(rank, show=rank == 0)
                return self.children.outcome()
            finally:
                self.children.end(0.0)


def describe(plan: Plan) -> list[str]:
    """What is emulated, a line a host, and what is not."""
    several = f"{len(plan.hosts)} hosts" if len(plan.hosts) > 1 else "1 host"
    network = ""
    if plan.network.model == "shared" and plan.network.bandwidth_bytes_per_s is not None:
        network = f", which share a channel of {format_rate(plan.network.bandwidth_bytes_per_s)}"
    elif plan.network.model == "pairwise" and plan.links:
        rates = [link.bandwidth_bytes_per_s for link in plan.links]
        network = f", whose links have {format_rate(min(rates))} to {format_rate(max(rates))}"
    lines = [f"emulating {several} on this machine, all on its CPU{network}"]
    for host, rate in zip(plan.hosts, interface_rates(plan), strict=True):
        share = "all cores" if host.limits.cpu_share is None else f"{host.limits.cpu_share:g} cores"
        interface = f", {format_rate(rate)} each way" if plan.network.model == "host" and rate is not None else ""
        lines.append(f"{rank_name(plan, host.rank)}: {share}, {format_bytes(host.limits.memory_bytes)}{interface}")
    total = sum(host.limits.cpu_share or 0.0 for host in plan.hosts)
    if total > available_cores():
        lines.append(
            f"the hosts have {total:g} cores in total, this machine {available_cores()}: expect less than planned"
        )
    latency_s = max((link.latency_s for link in plan.links), default=0.0)
    if latency_s > SLOWEST_UNSEEN_LATENCY_S:
        lines.append(f"the links' latency of up to {latency_s * 1e3:g} ms is not emulated")
    return lines


def interface_rates(plan: Plan) -> list[float | None]:
    """Each host's interface, bytes a second; None: unknown, so not limited."""
    return [host.limits.bandwidth_bytes_per_s for host in plan.hosts]


def pinned_cores(shares: Sequence[float | None], cores: Sequence[int]) -> list[tuple[int, ...]]:
    """The cores that each rank is kept on; empty for all of them.

    Hosts of up to one core are spread over this machine's cores so that none has more than one core's worth, the
    largest first: left alone, the kernel moves them about and a large share comes out up to 15 % short. Where that does
    not work out, or a host has more than one core or no share, no process is pinned.
    """
    free = dict.fromkeys(cores, 1.0)
    chosen: dict[int, tuple[int, ...]] = {}
    known = [(share, rank) for rank, share in enumerate(shares) if share is not None and share <= 1]
    for share, rank in sorted(known, key=lambda item: (-item[0], item[1])):
        core = max(free, key=lambda name: free[name])
        free[core] -= share
        chosen[rank] = (core,)
    if len(known) < len(shares) or min(free.values()) < -1e-9:
        return [() for _ in shares]
    return [chosen[rank] for rank in range(len(shares))]


# --- what a killed process left ---------------------------------------------------------------------------------------


def _family() -> str:
    """How the names of this machine's emulations begin; process ids mean nothing in another container."""
    inode = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid")) if sys.platform == "linux" else ""
    return f"edgelaunch-{inode}-"


def _is_left(name: str) -> bool:
    """Whether a group or namespace belongs to a process that is gone."""
    process, start = name.removeprefix(_family()).split("-")[:2]
    return not process.isdecimal() or start_time(int(process)) != start


def _remove_leftovers(controllers: dict[str, cgroups.Controller]) -> None:
    groups = [folder for folder in cgroups.groups_named(_family(), controllers) if _is_left(folder.name)]
    cgroups.remove_groups(tuple(groups))
    for folder in Path(tempfile.gettempdir()).glob(f"{_family()}*-turns"):
        if _is_left(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
    netns.remove_namespaces([name for name in netns.namespaces_named(_family()) if _is_left(name)])


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No signal but SIGKILL interrupts what is inside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
