"""The process of a rank whose work is a stage of a pipeline."""

from __future__ import annotations

from collections.abc import Callable

from edgelaunch.common.failures import Failure
from edgelaunch.common.items import Results, Source
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.common.reports import KillRequest
from edgelaunch.control.supervisor import Supervisor
from edgelaunch.pipeline.feed import StreamEnds
from edgelaunch.pipeline.stage_work import StageWork

__all__ = ["pipeline_rank"]


def pipeline_rank(
    options: RankOptions,
    source: Source | None = None,
    results: Results | None = None,
    request_kill: Callable[[KillRequest], None] = lambda request: None,
    last_resort: Callable[[Failure], None] = lambda failure: None,
) -> Supervisor:
    """`source` and `results` are the data host's, rank 0; the others have none. The rest is as of Supervisor."""
    ends = None
    if source is not None and results is not None:
        ends = StreamEnds(options.plan.model.microbatch, source, results)
    return Supervisor(options, StageWork(options, ends), ends, request_kill, last_resort)
