"""The timeline of a real run, from the timestamps in its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgecompile.contract.run_record import RunRecord, StageRecord
from edgecompile.explore.timeline.stage_timeline import COMPUTE, DRAIN, FILL, PACK, WAIT_INPUT, WAIT_SEND, Row, Span

__all__ = ["RequestSpan", "requests_of_run", "rows_of_run"]

Stamps = tuple[int, int, int, int, int]


def rows_of_run(record: RunRecord, last: int | None = None) -> list[Row]:
    """A row a stage, of its last microbatches (256 at most, or `last`).

    Stamps of one machine stand as they are. A machine with another clock is moved as little later as makes every input
    come after the output of the stage before it.
    """
    traces, _ = _aligned([stage.trace[-last:] if last else stage.trace for stage in record.stages], record.stages)
    known = [stamps for trace in traces for stamps in trace]
    if not known:
        return []
    begin = _begin_ns(traces)
    end = max(stamps[4] for stamps in known)
    rows = []
    for stage, trace in zip(record.stages, traces, strict=True):
        whole = stage.microbatches == len(trace)
        spans = tuple(_spans(trace, stage.microbatches - len(trace), begin, end, whole))
        rows.append(Row(name=f"stage {stage.stage} on {stage.host}", host=stage.host, spans=spans))
    return rows


@dataclass(frozen=True, kw_only=True)
class RequestSpan:
    """A request for text, in seconds of the rows' time; less than 0 where it began before them."""

    slot: int
    begin_s: float
    """It got its slot."""
    first_s: float
    """Its first token came."""
    end_s: float
    prompt_tokens: int
    tokens: int
    rebuilt: int


def requests_of_run(record: RunRecord) -> list[RequestSpan]:
    """The last requests, by slot, beside `rows_of_run` of the whole record.

    Where the data host's machine has a stage, stamps stand as that stage's do; else the last token of all is taken to
    have come when the last stage had sent it.
    """
    if record.text is None or not record.text.trace:
        return []
    traces, shifts = _aligned([stage.trace for stage in record.stages], record.stages)
    known = [stamps for trace in traces for stamps in trace]
    last_ns = max(request.last_ns for request in record.text.trace)
    begin = _begin_ns(traces) if known else min(request.begun_ns for request in record.text.trace)
    shift = shifts.get(record.text.machine, max(stamps[4] for stamps in known) - last_ns if known else 0)

    def seconds(stamp_ns: int) -> float:
        return (stamp_ns + shift - begin) / 1e9

    return [
        RequestSpan(
            slot=request.slot, begin_s=seconds(request.begun_ns), first_s=seconds(request.first_ns),
            end_s=seconds(request.last_ns), prompt_tokens=request.prompt_tokens, tokens=request.tokens,
            rebuilt=request.rebuilt,
        )
        for request in sorted(record.text.trace, key=lambda request: (request.slot, request.begun_ns))
    ]  # fmt: skip


def _begin_ns(traces: Sequence[Sequence[Stamps]]) -> int:
    """Of no stage more than what all have: the others' earlier messages would stand alone."""
    return max(trace[0][0] for trace in traces if trace)


def _aligned(
    traces: Sequence[Sequence[Stamps]], stages: Sequence[StageRecord]
) -> tuple[list[list[Stamps]], dict[str, int]]:
    """The traces on one clock, and how much later each machine's stamps became, nanoseconds."""
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
    return found, shifts


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
