"""`edgelaunch profile MODEL... --boards`: edgeprofile on all boards at once. Imports no torch."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from edgecompile.contract.errors import UserError
from edgelaunch.boards.agent_rank import AgentRank, Sent
from edgelaunch.boards.board_list import Board, find_boards
from edgelaunch.boards.job_orders import JobKind, JobOrder
from edgelaunch.commands.on_boards.run_on_boards import caller_name
from edgelaunch.common.secret import stated_secret
from edgelaunch.process.stderr import say, say_last
from edgelaunch.request.boards_request import ProfileRequest

__all__ = ["profile_boards"]


DIFFERENT = 0.1
"""A board that is so much slower or faster than the first of its kind is told of."""


@dataclass(frozen=True, kw_only=True)
class Profiled:
    board: Board
    files: Mapping[str, Path]
    """By model: where they are here."""
    problem: str = ""


def profile_boards(request: ProfileRequest) -> int:
    """Returns 0, or 2 where a board was not measured: a line says why. Kinds that are there twice are measured once,
    unless each is asked for.

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
    firsts = _first_of_kind(found.boards)
    chosen = [board for board in found.boards if request.each or firsts[board.facts.kind] is board]
    if not request.quiet:
        for board in found.boards:
            if board not in chosen:
                alike = f"of the same kind as {firsts[board.facts.kind].facts.name}, {board.facts.kind}"
                say(f"{board.facts.name} is {alike}: measured there alone (--each: on both)")
    lock = threading.Lock()

    def show(board: Board, stream: str, text: str) -> None:
        if request.quiet:
            return
        with lock:
            for line in text.splitlines():
                say(line, about=board.facts.name, event="profiling", board=board.facts.name)

    def measured(board: Board) -> Profiled:
        first = firsts[board.facts.kind] is board
        return _profile(board, request, board.facts.kind if first else board.facts.name, partial(show, board))

    with ThreadPoolExecutor(len(chosen)) as pool:
        results = list(pool.map(measured, chosen))
    return _tell(request, results, found.problems)


def _tell(request: ProfileRequest, results: Sequence[Profiled], problems: Sequence[str]) -> int:
    problems = [*problems, *(f"{item.board.title}: {item.problem}" for item in results if item.problem)]
    files = [str(path) for item in results for path in item.files.values()]
    differing = [line for item in results for line in _differences(item, results)]
    if request.json:
        print(json.dumps({"profiles": files, "differing": differing, "problems": problems}, indent=1))
    else:
        for name in files:
            print(name)
        if files and not request.quiet:
            print(f"edgecompile profile=measured profile.folder={request.output} plans with them")
        for line in differing:
            print(line)
    for problem in problems:
        say_last(problem, event="problem")
    return 2 if problems else 0


def _first_of_kind(boards: Sequence[Board]) -> dict[str, Board]:
    """A profile is of a kind of device: that of equal boards is the first's."""
    found: dict[str, Board] = {}
    for board in boards:
        found.setdefault(board.facts.kind, board)
    return found


def _differences(one: Profiled, results: Sequence[Profiled]) -> list[str]:
    """Where a board is not as fast as the one whose profile stands for its kind: what to do about it."""
    first = next(item for item in results if item.board.facts.kind == one.board.facts.kind)
    lines = []
    for model, path in one.files.items():
        if first is one or model not in first.files:
            continue
        ratio = _seconds(path) / _seconds(first.files[model])
        if abs(ratio - 1) > DIFFERENT:
            name, other = one.board.facts.name, first.board.facts.name
            lines.append(f"{name} takes {ratio:.2f} times as long for {model} as {other}, of the same kind: in the "
                         f"devices option give it a device of its own, with profile.files.NAME={path}")  # fmt: skip
    return lines


def _seconds(profile: Path) -> float:
    """Of all units, at the least microbatch."""
    values = yaml.safe_load(profile.read_text(encoding="utf-8"))
    return float(sum(values["microbatches"][0]["wall_s"]))


def _profile(board: Board, request: ProfileRequest, name: str, show: partial[None]) -> Profiled:
    """`name`: what its files begin with here."""
    order = JobOrder(job=secrets.token_hex(16), kind=JobKind.PROFILE, caller=caller_name(), models=request.models)
    paths = {model: request.output / f"{name}-{model}.yaml" for model in request.models}
    results = {f"{board.facts.kind}-{model}.yaml": path for model, path in paths.items()}
    rank = AgentRank(board, order, Sent(plan_path=Path(), results=results), lambda line: None)
    try:
        failure = rank.run(show)
    except UserError as error:
        return Profiled(board=board, files={}, problem=str(error))
    except BaseException:
        rank.end()
        raise
    came = {model: path for model, path in paths.items() if path.is_file()}
    return Profiled(board=board, files=came, problem="" if failure is None else failure.message)
