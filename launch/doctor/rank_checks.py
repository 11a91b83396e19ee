"""All doctor checks for one rank, in the order in which a run depends on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgecompile.contract.plan import Plan
from edgelaunch.common.identity import Endpoint
from edgelaunch.doctor.check_joining import check_limits_here, check_reach, check_versions
from edgelaunch.doctor.check_machine import (
    check_clock,
    check_cores,
    check_disk,
    check_files,
    check_memory,
    check_shards,
)
from edgelaunch.doctor.check_network import check_address, check_interface, check_port, check_secret
from edgelaunch.doctor.check_software import (
    check_gloo,
    check_gpu,
    check_libraries,
    check_python,
    check_store,
    check_torch,
    check_torchscript,
)
from edgelaunch.doctor.findings import CheckContext, Finding

__all__ = ["examine"]

CHECKS = (check_python, check_versions, check_torch, check_torchscript, check_libraries, check_gpu, check_gloo,
          check_address, check_reach, check_interface, check_port, check_store, check_secret, check_limits_here,
          check_clock, check_cores, check_memory, check_disk, check_shards, check_files)  # fmt: skip


def examine(
    plan: Plan, folder: Path, ranks: tuple[int, ...], endpoint: Endpoint | None, secret_file: Path | None = None
) -> Iterator[Finding]:
    """Looks at everything that can be looked at without the other ranks, in the order in which a run needs it."""
    context = CheckContext(plan=plan, folder=folder, ranks=ranks, endpoint=endpoint, secret_file=secret_file)
    for check in CHECKS:
        yield from check(context)
