"""Runs one rank in this process, from its arguments to its exit status."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.terminal.logs import mark_logs, show_logs
from edgecompile.terminal.process import abrupt_interrupts, final_status, unwritten
from edgelaunch.commands.web_option import open_page, serve_page
from edgelaunch.common.failures import Failure, FailureKind, exit_code, failure_words, rank_name
from edgelaunch.common.reports import KillRequest, Report
from edgelaunch.common.shard_files import StageFile
from edgelaunch.composition import RankStart, import_runtime, run_supervisor, supervised
from edgelaunch.process.cores import keep_to_cores
from edgelaunch.process.stderr import say, say_error, say_last
from edgelaunch.request.rank_request import RankRequest
from edgelaunch.request.run_request import RunRequest

if TYPE_CHECKING:
    from edgelaunch.commands.data_host import Session
    from edgelaunch.commands.text_session import TextSession
    from edgelaunch.inputs.live import Live

__all__ = ["Channel", "describe", "import_torch", "own_process", "rank_failure", "report", "run_rank"]

SWITCH_S = 0.0005

Channel = socket.socket | None
"""To the parent that started this rank, if one did."""
R = TypeVar("R", bound=RankRequest)
RankWork = Callable[[RankStart[R], list[Any], Channel], Failure | None]
"""Does a rank's work; puts results that were begun into the list. Returns why it failed."""


def describe(failure: Failure, plan: Plan, own_rank: int | None) -> None:
    """Prints why the run ended, once: a traceback for a bug, one line for anything else."""
    name = rank_name(plan, failure.rank)
    own = failure.rank == (own_rank or 0)
    message = failure.message if own else failure_words(plan, failure)
    if failure.kind is FailureKind.INTERRUPTED and failure.rank == own_rank:
        say_last("interrupted", event="interrupted")
        return
    if failure.kind is FailureKind.LEFT:
        say_last(f"{name} {failure.message}", event="left", **_lost(plan, failure))
        return
    if failure.kind is FailureKind.BUG and (own_rank is None or failure.rank == own_rank):
        say_error(failure_words(plan, failure), trace=failure.trace, **_lost(plan, failure))
        return
    say_error(message, **_lost(plan, failure))


def _lost(plan: Plan, failure: Failure) -> dict[str, Any]:
    """Of whom it is, and what kind, for logs in JSON."""
    host = plan.hosts[failure.rank].name if 0 <= failure.rank < len(plan.hosts) else None
    return {"kind": failure.kind.value, "failed_rank": failure.rank, "failed_host": host}


def run_rank(request: R, plan: Plan, work: RankWork[R]) -> NoReturn:
    """Ends the process itself: a thread that waits in gloo would keep the interpreter from ending."""
    from edgecompile.execution.allocator import use_one_arena
    from edgelaunch.local.watch_parent import watch_parent
    from edgelaunch.outputs.partial_results import say_left_behind

    show_logs(request.log_form)
    keep_to_cores(request.cores)
    use_one_arena()
    channel = watch_parent(request.supervisor_fd) if request.supervisor_fd is not None else None
    discard: list[Any] = []
    rank = request.rank or 0
    try:
        start = RankStart.of(request, plan, os.environ)
        rank = start.rank
        mark_logs(start.log.place)
        failure = work(start, discard, channel)
    except KeyboardInterrupt as stop:
        failure = Failure.stopped(rank, stop)
    except BrokenPipeError:  # whoever read our output has seen enough
        os._exit(1)
    except Exception as error:
        failure = Failure.of(rank, error)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if failure is not None:
        for results in discard:
            results.discard()
    else:
        sys.stdout.flush()
        failure = _unwritten(rank)
    if failure is not None:
        if channel is not None:
            report(channel, failure)
        else:
            if rank == 0 and isinstance(request, RunRequest):
                say_left_behind(request.output)
            describe(failure, plan, rank)
    code = exit_code(failure) if failure is not None else final_status(0)
    os._exit(2 if code == 130 and failure is not None and failure.rank != rank else code)


def _unwritten(rank: int) -> Failure | None:
    """A run that was complete, and whose results or report could not be printed."""
    problem = unwritten()
    return None if problem is None else Failure.of(rank, UserError(problem))


def report(channel: socket.socket, told: Report) -> None:
    with contextlib.suppress(OSError):  # the parent is gone: there is no one left to tell
        channel.sendall(told.to_json().encode() + b"\n")


# --- the pipeline's part ---------------------------------------------------------------------------------------------


def rank_failure(
    start: RankStart[RunRequest], discard: list[Any], channel: Channel, *, checked: bool = False
) -> Failure | None:
    """Runs one rank of the pipeline. `checked`: its shards' hashes are known to be right."""
    start.check()
    request = start.request
    page = open_page(request) if start.rank == 0 else None
    session, lacking = _prepared(start, discard, checked=checked)
    own_process()
    live = _live(start, session) if session is not None else None

    def request_kill(request: KillRequest) -> None:
        if channel is not None:
            report(channel, request)

    def last_resort(failure: Failure) -> None:
        say_error(failure.message)
        os._exit(exit_code(failure))

    ends = (live or session).ends if session is not None else None
    runner = run_supervisor(start, lacking, ends, request_kill, last_resort)
    if session is not None:
        session.look_at(runner)
    if page is not None:
        serve_page(page, start, runner)
    if request.metrics_port is not None:
        from edgelaunch.report.metrics import serve_metrics

        serve_metrics(request.metrics_port, runner)
    failure = supervised(runner, start.rank)
    if failure is None and session is not None:
        session.report(runner)
        if live is not None and not request.quiet:
            say(live.report()) if request.json else print(live.report())
    elif failure is None:
        start.log("done", event="done")
    elif failure.kind is FailureKind.INTERRUPTED and session is not None:
        session.tell_interrupted(runner)
    return failure


def own_process() -> None:
    """Settings of a process that does nothing else. Once torch is imported."""
    import torch

    torch.set_num_interop_threads(1)
    # the thread that computes must not wait long for Python's lock when another prepares items
    sys.setswitchinterval(SWITCH_S)


def import_torch(*, session: bool, alone: bool = True) -> None:
    """And what a rank needs besides; `session`: rank 0 too. `alone`: no other process of this command hears Ctrl-C.

    What is imported stays: looking for garbage in it would be a tenth of the time that importing takes.
    """
    gc.disable()
    with abrupt_interrupts() if alone else contextlib.nullcontext():
        import_runtime()

        if session:
            import edgelaunch.commands.data_host  # noqa: F401

    gc.freeze()
    gc.enable()


def _prepared(
    start: RankStart[RunRequest], discard: list[Any], *, checked: bool
) -> tuple[Session | TextSession | None, tuple[StageFile, ...]]:
    """Rank 0's session, and the shards and weights that are not here. Imports torch."""
    session = None
    with ThreadPoolExecutor(1) as pool:
        # hashing and importing torch take a second each, and neither needs the other
        lacking = None if checked else pool.submit(start.lacking)
        import_torch(session=start.rank == 0, alone=start.request.supervisor_fd is None)
        if start.rank == 0:
            session = _session(start)
            discard.append(session)
        return session, lacking.result() if lacking is not None else ()


def _session(start: RankStart[RunRequest]) -> Session | TextSession:
    if start.plan.generation is not None:
        from edgelaunch.commands.text_session import TextSession

        return TextSession(start.request, start.plan, start.folder)
    from edgelaunch.commands.data_host import Session

    return Session(start.request, start.plan, start.folder)


def _live(start: RankStart[RunRequest], session: Session | TextSession) -> Live | None:
    """What stands between the session and the pipeline where items come live; None where they are just there."""
    request = start.request
    if not request.live or start.plan.generation is not None:
        return None
    from edgelaunch.commands.data_host import Session
    from edgelaunch.inputs.live import Live

    assert isinstance(session, Session)
    return Live(start.plan, session.source, session.results, rate_per_s=request.rate, drop_oldest=request.drops_oldest)
