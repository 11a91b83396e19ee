"""`edgelaunch profile MODEL... --boards`: edgeprofile on all boards at once. Imports no torch."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgelaunch.boards.agent_rank import AgentRank, Sent
from edgelaunch.boards.board_list import Board, find_boards
from edgelaunch.boards.job_orders import JobKind, JobOrder
from edgelaunch.commands.on_boards.run_on_boards import caller_name
from edgelaunch.common.secret import stated_secret
from edgelaunch.process.stderr import say, say_last
from edgelaunch.request.boards_request import ProfileRequest

__all__ = ["profile_boards"]


@dataclass(frozen=True, kw_only=True)
class Profiled:
    board: str
    files: tuple[str, ...]
    """Where they are here."""
    problem: str = ""


def profile_boards(request: ProfileRequest) -> int:
    """Returns 0, or 2 where a board was not measured: a line says why. Kinds that are there twice are measured once.

    Raises:
        UserError: there is no board.
    """
    secret = stated_secret(request.secret_file, os.environ)
    found = find_boards(secret, request.join, request.wait)
    if not found.boards:
        raise UserError("; ".join(found.problems) or "no board answered by mDNS", fix="see edgelaunch boards --help")
    try:
        request.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{request.output}: cannot be made: {error.strerror}") from None
    chosen = _one_a_kind(found.boards, quiet=request.quiet)
    lock = threading.Lock()

    def show(board: Board, stream: str, text: str) -> None:
        if request.quiet:
            return
        with lock:
            for line in text.splitlines():
                say(line, about=board.facts.name, event="profiling", board=board.facts.name)

    with ThreadPoolExecutor(len(chosen)) as pool:
        results = list(pool.map(lambda board: _profile(board, request, partial(show, board)), chosen))
    problems = [*found.problems, *(f"{item.board}: {item.problem}" for item in results if item.problem)]
    files = [name for item in results for name in item.files]
    if request.json:
        print(json.dumps({"profiles": files, "problems": problems}, indent=1))
    else:
        for name in files:
            print(name)
        if files and not request.quiet:
            print(f"edgecompile profile=measured profile.folder={request.output} plans with them")
    for problem in problems:
        say_last(problem, event="problem")
    return 2 if problems else 0


def _one_a_kind(boards: Sequence[Board], *, quiet: bool) -> list[Board]:
    """A profile is of a kind of device: of equal boards the first is measured."""
    chosen: dict[str, Board] = {}
    for board in boards:
        first = chosen.setdefault(board.facts.kind, board)
        if first is not board and not quiet:
            alike = f"{board.facts.name} is of the same kind as {first.facts.name}, {board.facts.kind}"
            say(f"{alike}: measured there alone")
    return list(chosen.values())


def _profile(board: Board, request: ProfileRequest, show: partial[None]) -> Profiled:
    order = JobOrder(job=secrets.token_hex(16), kind=JobKind.PROFILE, caller=caller_name(), models=request.models)
    results = {f"{board.facts.kind}-{model}.yaml": request.output / f"{board.facts.kind}-{model}.yaml"
               for model in request.models}  # fmt: skip
    rank = AgentRank(board, order, Sent(plan_path=Path(), results=results), lambda line: None)
    try:
        failure = rank.run(show)
    except UserError as error:
        return Profiled(board=board.title, files=(), problem=str(error))
    except BaseException:
        rank.end()
        raise
    came = tuple(str(path) for path in results.values() if path.is_file())
    return Profiled(board=board.title, files=came, problem="" if failure is None else failure.message)
