"""The boards that there are: announced, named, or joined to one that is; each asked what it is. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from edgecompile.contract.errors import UserError
from edgelaunch.boards.board_client import BoardClient, NoAgentError
from edgelaunch.boards.board_facts import BoardFacts
from edgelaunch.boards.discovery import announced, check_zeroconf
from edgelaunch.common.addresses import Address, read_address

__all__ = ["Board", "BoardList", "find_boards"]

AT_ONCE = 32
MOST_NAME = 63


@dataclass(frozen=True, kw_only=True)
class Board:
    client: BoardClient
    facts: BoardFacts
    clock_ahead_s: float
    """Its clock, less ours."""

    @property
    def address(self) -> Address:
        return self.client.address

    @property
    def title(self) -> str:
        return f"{self.facts.name} ({self.address.host})"


@dataclass(frozen=True, kw_only=True)
class BoardList:
    boards: tuple[Board, ...]
    """Each with a name of its own, by name."""
    problems: tuple[str, ...]
    """Of agents that did not say what they are, a line each."""


def find_boards(secret: bytes, joins: Sequence[Address], wait_s: float) -> BoardList:
    """Those that are named and those that joined them; without a name, those that are announced.

    Raises:
        UserError: nothing can be announced here.
    """
    if joins:
        asked: list[list[Address]] = [[address] for address in joins]
    else:
        check_zeroconf("name a board with --join ADDRESS")
        asked = announced(wait_s)
    found: dict[Address, Board] = {}
    problems: list[UserError] = []
    seen: set[Address] = set()
    while asked:
        seen.update(address for addresses in asked for address in addresses)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            results = list(pool.map(lambda addresses: _ask(secret, addresses), asked))
        asked = []
        for result in results:
            if isinstance(result, UserError):
                problems.append(result)
                continue
            board, peers = result
            found.setdefault(board.address, board)
            asked += [[peer] for peer in peers if peer not in seen]
    return BoardList(boards=_named(list(found.values())), problems=_together(problems))


def _ask(secret: bytes, addresses: Sequence[Address]) -> tuple[Board, list[Address]] | UserError:
    """At the first of a board's addresses at which an agent answers."""
    last: UserError | None = None
    for address in addresses:
        try:
            return ask_board(BoardClient(address, secret))
        except NoAgentError as error:
            last = error
        except UserError as error:
            return error
    assert last is not None
    return last


def ask_board(client: BoardClient) -> tuple[Board, list[Address]]:
    """What it is, and who joined it. Raises UserError where it does not say so."""
    client.board()  # so that the time that the next one takes is short
    begun = time.time()
    told = client.board()
    middle = (begun + time.time()) / 2
    facts = BoardFacts.read(told)
    if facts is None:
        raise UserError("the agent there is of another version: install the same edgecompile", key=str(client.address))
    peers = [read_address("peers", str(text)) for text in told.get("peers", [])]
    return Board(client=client, facts=facts, clock_ahead_s=facts.clock_s - middle), peers


def _together(problems: Sequence[UserError]) -> tuple[str, ...]:
    """A line for each that there is, with all boards that have it."""
    alike: dict[tuple[str, str | None], list[str]] = {}
    for error in problems:
        alike.setdefault((error.problem, error.fix), []).append(error.key or "a board")
    return tuple(
        str(UserError(problem, key=", ".join(sorted(keys)), fix=fix)) for (problem, fix), keys in alike.items()
    )


def _named(boards: list[Board]) -> tuple[Board, ...]:
    """With names that may stand in a config, no two alike, by name and address."""
    named: dict[str, Board] = {}
    for board in sorted(boards, key=lambda board: (board.facts.name, str(board.address))):
        plain = "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in board.facts.name)
        name = base = plain.strip("-")[:MOST_NAME] or "board"
        number = 1
        while name in named:
            number += 1
            name = f"{base}-{number}"
        named[name] = replace(board, facts=replace(board.facts, name=name))
    return tuple(named.values())
