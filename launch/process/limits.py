"""Checks this process's limits on files, memory and threads, and explains failures caused by them."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_bytes

__all__ = ["check_limits", "files_needed", "local_shortage", "memory_needed"]

FILES, FILES_A_RANK = 32, 8
"""The store's connections of each rank, and gloo's of two epochs at once."""
TORCH_BYTES = 768 << 20
"""Of address space, for a process that imports torch and starts its threads."""
MORE_FILES = "raise the limit (ulimit -n 1024; LimitNOFILE= in a systemd unit)"
MORE_MEMORY = "raise the limit (ulimit -v unlimited)"

NO_MEMORY = (
    "std::bad_alloc",
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "failed to map segment from shared object",
)
NO_GPU_MEMORY = "CUDA out of memory"
NO_THREAD = ("can't start new thread", "Resource temporarily unavailable")
NO_FILE = ("Too many open files",)


def files_needed(plan: Plan) -> int:
    """So many files and sockets a rank may have open."""
    return FILES + FILES_A_RANK * len(plan.hosts)


def memory_needed(plan: Plan, ranks: tuple[int, ...]) -> int:
    """Bytes of address space that one process needs for the largest of these ranks' stages, roughly."""
    stages = [stage for stages in (plan.stages, *(item.stages for item in plan.contingencies)) for stage in stages]
    return TORCH_BYTES + max((stage.predicted.memory_bytes for stage in stages if stage.rank in ranks), default=0)


def check_limits(plan: Plan, ranks: tuple[int, ...]) -> None:
    """Before torch is imported. Raises the soft limit on open files where the hard one allows it.

    Raises:
        UserError: this process, or one that it starts for a rank, could not work within its limits.
    """
    needed, (soft, hard) = files_needed(plan), resource.getrlimit(resource.RLIMIT_NOFILE)
    if _below(soft, needed) and not _below(hard, needed):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
            soft = needed
    if _below(soft, needed):
        raise UserError(
            f"this process may open {soft} files and sockets, and a rank of {len(plan.hosts)} may need {needed}",
            fix=MORE_FILES,
        )
    limit, needed = resource.getrlimit(resource.RLIMIT_AS)[0], memory_needed(plan, ranks)
    if _below(limit, needed):
        raise UserError(
            f"this process may have {format_bytes(limit)} of address space, and a rank of this plan needs about "
            f"{format_bytes(needed)}",
            fix=MORE_MEMORY,
        )


def local_shortage(error: BaseException) -> str | None:
    """In words, where something of this machine ran out and no other rank is to blame; else None."""
    if not isinstance(error, (MemoryError, OSError, ImportError, RuntimeError)):
        return None
    number = error.errno if isinstance(error, OSError) else None
    text, from_c = str(error), isinstance(error, RuntimeError)
    if number in (errno.EMFILE, errno.ENFILE) or _has(text, NO_FILE) or (from_c and not _can_open()):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"no more files and sockets can be opened here (this process may have {limit}): {MORE_FILES}"
    if from_c and NO_GPU_MEMORY in text:
        return "the GPU is out of memory: stop other programs on it, or compile with a smaller microbatch"
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _has(text, NO_MEMORY):
        return _no_memory()
    return _no_thread() if from_c and _has(text, NO_THREAD) else None


def _no_memory() -> str:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return "out of memory: stop other programs here, or compile with more hosts or a smaller microbatch"
    return f"out of memory: this process may have {format_bytes(limit)} of address space{_taken()}: {MORE_MEMORY}"


def _no_thread() -> str:
    limits = {"ulimit -u": resource.RLIMIT_NPROC, "ulimit -v": resource.RLIMIT_AS}
    given = [name for name, which in limits.items() if resource.getrlimit(which)[0] != resource.RLIM_INFINITY]
    fix = f"raise the limits on processes and memory ({', '.join(given)})" if given else "stop other programs here"
    return f"no more threads can be started here: {fix}"


def _below(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed


def _has(text: str, parts: tuple[str, ...]) -> bool:
    return any(part in text for part in parts)


def _can_open() -> bool:
    """C++ says "failed" of a socket that it could not open, and not why."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True


def _taken() -> str:
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        return f" and has {format_bytes(pages * resource.getpagesize())}"
    return ""
