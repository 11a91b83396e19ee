"""Limits a process's CPU share and memory with control groups v1 or v2. Linux, root."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecompile.contract.errors import UserError

__all__ = ["Controller", "ControlGroup", "find_controllers", "groups_named", "remove_groups"]

CONTROLLERS = ("cpu", "memory")
LEAST_PERIOD_S, MOST_PERIOD_S = 0.02, 0.1
"""How often a group's processor time is granted. Measured with shares of 0.9, 0.45 and 0.225: a busy loop gets what was
asked for within 1 % at 20 ms, within 2 % at 100 ms, and up to 3 % too little at 10 ms."""
MIN_QUOTA_S = 0.001
"""The kernel grants no less at a time."""
REMOVE_S = 5.0
SLACK_BYTES = 1 << 20
"""A group that met its limit may have stayed so far below it: the kernel hands memory out in batches."""


@dataclass(frozen=True, kw_only=True)
class Controller:
    """Where groups for `cpu` or `memory` can be made."""

    name: str
    version: int
    mount: Path
    parent: Path
    """The folder that our groups are made in."""


def find_controllers(proc: Path = Path("/proc/self")) -> dict[str, Controller]:
    """`cpu` and `memory`.

    Version 1: below this process's own group, so that the limits that it is under hold for the new groups too. Version
    2: below the root of the mount, since a group that has processes cannot have groups with limits.

    Raises:
        UserError: the kernel has no such controller, or it is not mounted.
    """
    own = _own_groups((proc / "cgroup").read_text(encoding="utf-8", errors="surrogateescape"))
    found: dict[str, Controller] = {}
    for root, mount, kind, options in _mounts(
        (proc / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    ):
        if kind == "cgroup2":
            names = _words(mount / "cgroup.controllers")
        else:
            names = set(options.split(",")) if kind == "cgroup" else set()
        for name in CONTROLLERS:
            if name not in names:
                continue
            version = 2 if kind == "cgroup2" else 1
            parent = mount
            if version == 1 and own.get(name, "/").startswith(root):
                below = mount / own.get(name, "/")[len(root) :].lstrip("/")
                parent = below if below.is_dir() else mount
            found.setdefault(name, Controller(name=name, version=version, mount=mount, parent=parent))
    for name in CONTROLLERS:
        if name not in found:
            hint = ": on a Raspberry Pi add cgroup_enable=memory to cmdline.txt" if name == "memory" else ""
            raise UserError(f"--emulate needs the kernel's {name} control groups, and none are mounted here{hint}")
    return {name: found[name] for name in CONTROLLERS}


def _own_groups(text: str) -> dict[str, str]:
    """Controller of version 1 -> this process's group."""
    rows = [line.split(":", 2) for line in text.splitlines()]
    return {name: path for _, names, path in rows for name in names.split(",") if name}


def _mounts(text: str) -> Iterator[tuple[str, Path, str, str]]:
    """Root, mount point, file system and its options, of /proc/self/mountinfo."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split(" ", 2)
        yield fields[3], Path(fields[4].replace(r"\040", " ")), kind, options


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text(encoding="utf-8", errors="surrogateescape").split())
    except OSError:
        return set()


class ControlGroup:
    """The control groups of one process, of the same name under each controller."""

    def __init__(self, name: str, controllers: dict[str, Controller]) -> None:
        self._controllers = controllers
        self._folder = {key: controller.parent / name for key, controller in controllers.items()}
        self.folders = tuple(dict.fromkeys(self._folder.values()))

    def create(self, *, cpu_share: float | None, memory_bytes: int, period_s: float = LEAST_PERIOD_S) -> None:
        """Limits from the start: `cpu_share` cores (None: all), `memory_bytes` with page cache and without swap.

        The share is granted every `period_s`, or as near to that as does.

        Raises:
            UserError: the kernel refuses; names the file.
        """
        self._make()
        if cpu_share is not None:
            self._limit_cpu(cpu_share, period_s)
        self._limit_memory(memory_bytes)

    def create_idle(self) -> None:
        """For what runs only where nothing else wants the core.

        Raises:
            UserError: the kernel refuses; names the file.
        """
        self._make()
        folder = self._folder["cpu"]
        if not _write_if_there(folder / "cpu.idle", 1):
            least = ("cpu.weight", 1) if self._controllers["cpu"].version == 2 else ("cpu.shares", 2)
            _write(folder / least[0], least[1])

    def _make(self) -> None:
        for controller in self._controllers.values():
            if controller.version == 2:
                _delegate(controller)
        for folder in self.folders:
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise UserError(f"--emulate cannot make the control group {folder}: {error.strerror}") from None

    def outgrown(self) -> bool:
        """Whether the kernel killed the process because of its group's limit."""
        folder = self._folder["memory"]
        if self._controllers["memory"].version == 2:
            events = _counters(folder / "memory.events")
            return events.get("oom_kill", 0) > 0 and events.get("max", 0) > 0
        killed = _counters(folder / "memory.oom_control").get("oom_kill", 0) > 0
        # failcnt stays 0 on newer kernels
        return killed and self.peak_bytes() + SLACK_BYTES >= _number(folder / "memory.limit_in_bytes")

    def peak_bytes(self) -> int:
        """The most that the group ever held, page cache included; 0 where the kernel does not say."""
        version = self._controllers["memory"].version
        return _number(self._folder["memory"] / ("memory.peak" if version == 2 else "memory.max_usage_in_bytes"))

    def remove(self) -> None:
        remove_groups(self.folders)

    def _limit_cpu(self, share: float, period_s: float) -> None:
        period_s = min(MOST_PERIOD_S, max(LEAST_PERIOD_S, period_s))
        period_s = period_s if share * period_s >= MIN_QUOTA_S else MOST_PERIOD_S
        period_us, quota_us = round(period_s * 1e6), round(max(share * period_s, MIN_QUOTA_S) * 1e6)
        folder = self._folder["cpu"]
        # the quota alone starves large shares: groups that want to run at once get equal parts by default
        if self._controllers["cpu"].version == 2:
            _write(folder / "cpu.weight", min(10_000, max(1, round(100 * share))))
            _write(folder / "cpu.max", f"{quota_us} {period_us}")
            return
        _write(folder / "cpu.shares", max(2, round(1024 * share)))
        _write(folder / "cpu.cfs_period_us", period_us)
        _write(folder / "cpu.cfs_quota_us", quota_us)

    def _limit_memory(self, limit_bytes: int) -> None:
        folder = self._folder["memory"]
        if self._controllers["memory"].version == 2:
            _write(folder / "memory.max", limit_bytes)
            _write_if_there(folder / "memory.swap.max", 0)
            return
        _write(folder / "memory.limit_in_bytes", limit_bytes)
        if not _write_if_there(folder / "memory.memsw.limit_in_bytes", limit_bytes):
            _write_if_there(folder / "memory.swappiness", 0)


def groups_named(prefix: str, controllers: dict[str, Controller]) -> list[Path]:
    """Every group anywhere whose name begins so: another start may have made its groups elsewhere."""
    found = []
    for mount in dict.fromkeys(controllers[name].mount for name in CONTROLLERS):
        for folder, below, _ in os.walk(mount):
            ours = [name for name in below if name.startswith(prefix)]
            found += [Path(folder, name) for name in ours]
            below[:] = [name for name in below if name not in ours]
    return found


def remove_groups(folders: tuple[Path, ...]) -> None:
    """Kills what still runs in them, then removes them; one that cannot be removed in 5 s is left."""
    deadline = time.monotonic() + REMOVE_S
    left = [folder for folder in folders if folder.is_dir()]
    while left and time.monotonic() < deadline:
        for folder in left:
            for process in _words(folder / "cgroup.procs"):
                with contextlib.suppress(OSError):
                    os.kill(int(process), signal.SIGKILL)
                with contextlib.suppress(OSError):  # one of idle priority would not get a busy core to end on
                    os.sched_setscheduler(int(process), os.SCHED_OTHER, os.sched_param(0))
            with contextlib.suppress(OSError):  # busy until the last process is gone
                folder.rmdir()
        left = [folder for folder in left if folder.is_dir()]
        if left:
            time.sleep(0.01)


def _delegate(controller: Controller) -> None:
    """Version 2: lets groups below the parent have this controller's limits."""
    file = controller.parent / "cgroup.subtree_control"
    if controller.name in _words(file):
        return
    try:
        file.write_text(f"+{controller.name}", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--emulate cannot turn on {controller.name} limits in {file} ({error.strerror}): "
            "in a container, start that with --privileged --cgroupns=host"
        ) from None


def _write(file: Path, value: object) -> None:
    try:
        file.write_text(str(value), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--emulate cannot write {value} to {file}: {error.strerror}") from None


def _write_if_there(file: Path, value: object) -> bool:
    if not file.exists():
        return False
    _write(file, value)
    return True


def _counters(file: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    try:
        rows = [line.split() for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) == 2}


def _number(file: Path) -> int:
    try:
        return int(file.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError):
        return 0
