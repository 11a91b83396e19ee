"""The options of one rank. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecompile.contract.plan import Plan
from edgelaunch.common.identity import Endpoint
from edgelaunch.common.rank_log import RankLog
from edgelaunch.common.shard_files import StageFile

__all__ = ["RankOptions"]


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    plan: Plan
    folder: Path
    """The plan's folder, which its paths are relative to."""
    plan_sha256: str
    rank: int
    endpoint: Endpoint
    threads: int
    device: str
    """`cpu` or `cuda`."""
    log: RankLog
    lacking: tuple[StageFile, ...] = ()
    """Shards and weights that are not here, or stale: to be fetched from rank 0."""
    secret: bytes | None = None
    """Known to all ranks; None where all are on this machine and need none."""
