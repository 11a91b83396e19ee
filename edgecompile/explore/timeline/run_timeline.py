"""The timeline of a real run, from the timestamps in its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgecompile.contract.run_record import RunRecord, StageRecord
from edgecompile.explore.timeline.stage_timeline import COMPUTE, DRAIN, FILL, PACK, WAIT_INPUT, WAIT_SEND, Row, Span

__all__ = ["rows_of_run"]

Stamps = tuple[int, int, int, int, int]


def rows_of_run(record: RunRecord, last: int | None = None) -> list[Row]:
    """A row a stage, of its last microbatches (256 at most, or `last`).

    Stamps of one machine stand as they are. A machine with another clock is moved as little later as makes every input
    come after the output of the stage before it.
    """
    traces = _aligned([stage.trace[-last:] if last else stage.trace for stage in record.stages], record.stages)
    known = [stamps for trace in traces for stamps in trace]
    if not known:
        return []
    # of no stage more than what all have: the others' earlier ones would stand alone
    begin = max(trace[0][0] for trace in traces if trace)
    end = max(stamps[4] for stamps in known)
    rows = []
    for stage, trace in zip(record.stages, traces, strict=True):
        whole = stage.microbatches == len(trace)
        spans = tuple(_spans(trace, stage.microbatches - len(trace), begin, end, whole))
        rows.append(Row(name=f"stage {stage.stage} on {stage.host}", host=stage.host, spans=spans))
    return rows


def _aligned(traces: Sequence[Sequence[Stamps]], stages: Sequence[StageRecord]) -> list[list[Stamps]]:
    found: list[list[Stamps]] = []
    shifts: dict[str, int] = {}
    for number, (trace, stage) in enumerate(zip(traces, stages, strict=True)):
        if number == 0:
            shifts[stage.machine] = 0
        elif stage.machine not in shifts:
            pairs = list(zip(reversed(found[-1]), reversed(trace), strict=False))
            shifts[stage.machine] = max((before[4] - after[1] for before, after in pairs), default=0)
        shift = shifts[stage.machine]
        found.append([(a + shift, b + shift, c + shift, d + shift, e + shift) for a, b, c, d, e in trace])
    return found


def _spans(trace: Sequence[Stamps], first: int, begin: int, end: int, whole: bool) -> Iterator[Span]:
    """`whole`: the trace begins with the run's first microbatch, whose wait is the pipeline's filling."""

    def span(what: str, start: int, stop: int, microbatch: int | None) -> Iterator[Span]:
        start = max(start, begin)
        if stop > start:
            yield Span(what=what, begin_s=(start - begin) / 1e9, end_s=(stop - begin) / 1e9, microbatch=microbatch)

    for number, (waited, got, computed, acquired, packed) in enumerate(trace):
        microbatch = first + number
        yield from span(FILL if whole and number == 0 else WAIT_INPUT, waited, got, microbatch)
        yield from span(COMPUTE, got, computed, microbatch)
        yield from span(WAIT_SEND, computed, acquired, microbatch)
        yield from span(PACK, acquired, packed, microbatch)
    if trace:
        yield from span(DRAIN, trace[-1][4], end, None)
