"""`edgelaunch top`: shows a pipeline that runs, here or elsewhere, and lists those that run here."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan_file import read_run_plan
from edgelaunch.common.addresses import Address, read_address
from edgelaunch.common.failures import PeerLostError
from edgelaunch.common.secret import find_secret, stated_secret
from edgelaunch.control.pipeline_state import PipelineState
from edgelaunch.process.abandoned_threads import await_at_exit
from edgelaunch.process.stderr import say
from edgelaunch.request.boards_request import DEFAULT_WAIT_S
from edgelaunch.request.top_request import TopRequest
from edgelaunch.watching.runs_here import RunHere, runs_here
from edgelaunch.watching.top_view import draw, line_of, status_of

__all__ = ["run_top"]

LOOK_S = 0.1
FIRST_S = 10.0
"""So long rank 0 may take to show the first state: it writes a few a second, unless it is of an older version."""
LIST_S = 2.0
SILENT_S = 5.0
JOIN_S = 1.0
PLAIN_WIDTH, MOST_WIDTH = 120, 10_000
"""Where there is no terminal: of views, and of lists, whose paths stay whole."""

Look = Callable[[], PipelineState | None]
"""A newer state than the last one, or None; raises PeerLostError once the pipeline has ended."""


def run_top(request: TopRequest) -> int:
    """Returns 0. Raises UserError where there is nothing to be shown."""
    if request.plan_path is None:
        return _list(request)
    watching = _Watching(_look_of(request, request.plan_path))
    try:
        _show(watching, request)
    except KeyboardInterrupt:  # how it is ended
        pass
    finally:
        watching.stop()
    return 0


# --- one pipeline ----------------------------------------------------------------------------------------------------


def _look_of(request: TopRequest, path: Path) -> Callable[[], Look]:
    """Makes, in the thread that looks, what looks: at a run on this machine, else at rank 0's store."""
    plan, sha256 = read_run_plan(path), file_sha256(path)
    here = [run for run in runs_here() if run.plan_sha256 == sha256]
    own = [run for run in here if run.rank == 0]
    if own and request.master is None:
        return lambda: _look_here(own[-1])
    host = plan.hosts[0]
    master = request.master or (read_address("master", here[-1].master) if here else Address(host.address, host.port))
    secret = find_secret(plan, master.host, request.secret_file, os.environ)
    from edgelaunch.composition import quiet_peers

    quiet_peers()

    def connect() -> Look:
        from edgelaunch.watching.store_watcher import StoreWatcher

        return StoreWatcher(plan, master, secret).look

    return connect


def _look_here(run: RunHere) -> Look:
    old = run.state()
    seen = old.number if old is not None else 0

    def look() -> PipelineState | None:
        nonlocal seen
        if run.ended:
            raise PeerLostError(0, "its process has ended")
        run.ask()
        state = run.state()
        if state is None or state.number <= seen:
            return None
        seen = state.number
        return state

    return look


class _Watching:
    """Looks in a thread of its own: a store that does not answer holds up nobody who presses Ctrl-C."""

    def __init__(self, connect: Callable[[], Look]) -> None:
        self._connect = connect
        self.state: PipelineState | None = None
        self.seen_s = time.monotonic()
        """When the last state came."""
        self.connected_s: float | None = None
        self.error: Exception | None = None
        self.ended = False
        self._stop, self._news = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="look", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """For a newer state, or the end."""
        self._news.wait(timeout_s)
        self._news.clear()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(JOIN_S)
        if self._thread.is_alive():
            await_at_exit(self._thread)

    def _run(self) -> None:
        try:
            look = self._connect()
            self.connected_s = time.monotonic()
            while not self._stop.wait(LOOK_S):
                state = look()
                if state is not None:
                    self.state, self.seen_s = state, time.monotonic()
                    self._news.set()
        except PeerLostError:
            self.ended = True
        except Exception as error:
            self.error = error
        self._news.set()


def _show(watching: _Watching, request: TopRequest) -> None:
    state = _first(watching)
    out = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH, highlight=False)
    if request.once:
        _print(out, state, request, whole=True)
        return
    if request.json or not out.is_terminal:
        while not watching.ended:
            if watching.state is not None:
                state = watching.state
            _print(out, state, request, whole=False)
            _pause(watching, request.every)
    else:
        from rich.live import Live

        with Live(console=out, get_renderable=lambda: draw(watching.state or state), auto_refresh=False) as live:
            while not watching.ended:
                live.refresh()
                _pause(watching, request.every)
    if not request.json:
        print(f"{state.model}: the pipeline has ended", flush=True)


def _first(watching: _Watching) -> PipelineState:
    while watching.state is None:
        watching.wait(LOOK_S)
        if watching.ended:
            raise UserError("the pipeline has ended: there is nothing to be shown")
        connected_s = watching.connected_s
        if watching.state is None and connected_s is not None and time.monotonic() > connected_s + FIRST_S:
            raise UserError(f"rank 0 showed no state within {FIRST_S:g} s: it has an older edgecompile, or hangs",
                            fix="install the same version there")  # fmt: skip
    return watching.state


def _pause(watching: _Watching, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not watching.ended and (left := deadline - time.monotonic()) > 0:
        watching.wait(left)
    if not watching.ended and time.monotonic() - watching.seen_s > max(SILENT_S, seconds):
        say(f"edgelaunch: rank 0 has said nothing for {time.monotonic() - watching.seen_s:.0f} s")


def _print(out: Console, state: PipelineState, request: TopRequest, *, whole: bool) -> None:
    if request.json:
        print(state.to_json(), flush=True)
    elif whole:
        out.print(draw(state))
    else:
        print(line_of(state), flush=True)


# --- all that run here -----------------------------------------------------------------------------------------------


def _list(request: TopRequest) -> int:
    here = runs_here()
    own = {(run.plan_sha256, run.master) for run in here if run.rank == 0}
    shown = [run for run in here if run.rank == 0 or (run.plan_sha256, run.master) not in own]
    found = _states(shown)
    boards = _on_boards(request) if request.boards or request.join else []
    if request.json:
        print(json.dumps({"runs": [_described(*pair) for pair in found], "boards": boards}), flush=True)
    else:
        _print_list(found, boards)
    return 0


def _states(runs: Sequence[RunHere]) -> list[tuple[RunHere, PipelineState | None]]:
    """Each with what rank 0 says now; None where rank 0 is elsewhere, or has said nothing in time."""
    looks = {run.process.number: _look_here(run) for run in runs if run.rank == 0}
    found: dict[int, PipelineState] = {}
    deadline = time.monotonic() + LIST_S
    while looks and time.monotonic() < deadline:
        for number, look in list(looks.items()):
            try:
                state = look()
            except PeerLostError:
                del looks[number]
                continue
            if state is not None:
                found[number] = state
                del looks[number]
        time.sleep(LOOK_S)
    return [(run, found.get(run.process.number)) for run in runs if not run.ended]


def _described(run: RunHere, state: PipelineState | None) -> dict[str, Any]:
    return {
        "plan": run.plan, "model": run.model, "rank": run.rank, "process": run.process.number, "master": run.master,
        "began": run.began, "state": None if state is None else state.values(),
    }  # fmt: skip


def _on_boards(request: TopRequest) -> list[dict[str, Any]]:
    from edgelaunch.boards.board_list import find_boards

    found = find_boards(stated_secret(request.secret_file, os.environ), request.join, DEFAULT_WAIT_S)
    for problem in found.problems:
        say(f"edgelaunch: {problem}")
    return [{"board": board.facts.name, "address": board.address.host, "busy": board.facts.busy}
            for board in found.boards]  # fmt: skip


def _print_list(runs: Sequence[tuple[RunHere, PipelineState | None]], boards: Sequence[dict[str, Any]]) -> None:
    out = Console() if sys.stdout.isatty() else Console(width=MOST_WIDTH, highlight=False)
    if not runs and not boards:
        print(
            "no pipeline of this user runs on this machine: name a plan, and --master ADDRESS:PORT, for one elsewhere"
        )
    if runs:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("model", "rank", "process", "state", "plan"):
            table.add_column(name, justify="left" if name in ("model", "state", "plan") else "right", overflow="fold")
        for run, state in runs:
            table.add_row(run.model, str(run.rank), str(run.process.number), _said(run, state), run.plan)
        out.print(table)
    for board in boards:
        print(f"{board['board']} ({board['address']}): {board['busy'] or 'nothing runs'}", flush=True)


def _said(run: RunHere, state: PipelineState | None) -> str:
    if run.rank:
        return f"rank 0 is at {run.master}"
    if state is None:
        return "starting"
    rate = f", {state.items_per_s:,.4g} {state.unit}/s" if state.items_per_s is not None else ""
    return f"{status_of(state)}{rate} (predicted {state.predicted_per_s:,.4g})"
