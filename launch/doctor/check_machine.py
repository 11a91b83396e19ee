"""Doctor checks: clock, cores, memory, disk and the plan's files."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.quantities import format_bytes
from edgelaunch.common.shard_files import check_file, check_stage_file
from edgelaunch.doctor.findings import FAILS, NOTE, CheckContext, Finding
from edgelaunch.process.cores import available_cores

__all__ = ["check_clock", "check_cores", "check_disk", "check_files", "check_memory", "check_shards"]

AHEAD_S = 60.0
ROOM_BYTES = 200 << 20
TIGHT = 1.1
MEMORY_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Of control groups, version 2 and 1: the limit and what is used of it."""


def check_clock(context: CheckContext) -> Iterator[Finding]:
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    newest = max((path.stat().st_mtime for path in context.folder.glob("*.yaml")), default=now)
    if newest > now + AHEAD_S:
        fix = "set it (timedatectl set-ntp true): runs do not depend on it, dates in logs do"
        found = f"{shown}, and the plan is {_span(newest - now)} newer"
        yield Finding(check="clock", found=found, verdict=NOTE, fix=fix)
        return
    yield Finding(check="clock", found=shown)


def check_cores(context: CheckContext) -> Iterator[Finding]:
    cores = available_cores()
    wanted = sum(context.plan.hosts[stage.rank].threads for stage in context.plan.stages if stage.rank in context.ranks)
    if context.endpoint is not None and wanted > cores:
        fix = "the stage will be slower than planned: compile with the device's threads= as here"
        yield Finding(check="cores", found=f"{cores}, the plan counts on {wanted}", verdict=NOTE, fix=fix)
    else:
        yield Finding(check="cores", found=str(cores))


def check_memory(context: CheckContext) -> Iterator[Finding]:
    most: dict[int, int] = {}
    for stage in context.stages():
        most[stage.rank] = max(most.get(stage.rank, 0), stage.predicted.memory_bytes)
    wanted, free = sum(most.values()), _free_bytes()
    if not wanted or free is None:
        return
    found = f"{format_bytes(free)} free, the plan takes {format_bytes(wanted)}"
    if free < wanted:
        fix = "stop other programs here, or compile with less: hosts.members.NAME.memory=, a smaller microbatch"
        yield Finding(check="memory", found=found, verdict=FAILS, fix=fix)
    elif free < TIGHT * wanted:
        fix = "tight: the kernel may kill a rank when something else starts here"
        yield Finding(check="memory", found=found, verdict=NOTE, fix=fix)
    else:
        yield Finding(check="memory", found=found)


def check_disk(context: CheckContext) -> Iterator[Finding]:
    free = shutil.disk_usage(context.folder).free
    if free < ROOM_BYTES:
        fix = "free space: results and temporary files need some"
        verdict = FAILS if 0 in context.ranks else NOTE
        yield Finding(check="disk", found=f"{format_bytes(free)} free", verdict=verdict, fix=fix)
    else:
        yield Finding(check="disk", found=f"{format_bytes(free)} free")


def check_shards(context: CheckContext) -> Iterator[Finding]:
    """The shards, and the weights that stand beside them."""
    files = context.stage_files()
    size = 0
    for file in files:
        try:
            check_stage_file(context.plan, file, context.folder)
            size += (context.folder / file.name).stat().st_size
        except UserError as error:
            if context.endpoint is None or 0 in context.ranks:
                yield Finding.of_error("shard", error)
            else:
                yield Finding(check="shard", found=error.what, verdict=NOTE,
                              fix="not needed: it is fetched from rank 0 when the run begins")  # fmt: skip
            return
    count = len({stage.sha256 for stage in context.stages()})
    if count:
        weights = len(files) - count
        more = f" with {weights} file{'s' if weights > 1 else ''} of weights" if weights else ""
        plural = "s" if count > 1 else ""
        yield Finding(check=f"shard{plural}", found=f"{count}{more}, {format_bytes(size)}, as the plan has them")
    else:
        yield Finding(check="shard", found="not needed: this rank runs no stage")


def check_files(context: CheckContext) -> Iterator[Finding]:
    """What the data host alone reads."""
    if 0 not in context.ranks:
        return
    golden, text = context.plan.golden, context.plan.data.text
    fix = "copy it again from where the plan was compiled"
    wanted = [(golden.file, golden.sha256, "the golden items' file")]
    if golden.reference is not None and golden.reference_sha256 is not None:
        wanted.append((golden.reference, golden.reference_sha256, "the unsplit model"))
    if text is not None and text.tokenizer is not None and text.sha256 is not None:
        wanted.append((text.tokenizer, text.sha256, "the tokenizer"))
    for name, sha256, what in wanted:
        try:
            check_file(context.folder / name, sha256, what, fix)
        except UserError as error:
            yield Finding.of_error("files", error)
            return
    yield Finding(check="files", found=", ".join(name for name, _, _ in wanted))


def _free_bytes() -> int | None:
    """What the kernel could give to a new process, within this process's own limit."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    for most, used in MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            found.append(
                max(0, int(Path(most).read_text(encoding="utf-8")) - int(Path(used).read_text(encoding="utf-8")))
            )
    return min(found) if found else None


def _span(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds > 2 * 86400 else f"{seconds / 60:.0f} minutes"
