"""Addresses of agents, as words of a command line. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgecompile.contract.errors import UserError
from edgelaunch.common.addresses import Address, read_address

__all__ = ["AGENT_PORT", "read_joins", "read_login"]

AGENT_PORT = 29400
LOGIN = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,63}@)?")


def read_joins(words: Sequence[str]) -> tuple[Address, ...]:
    """ADDRESS or ADDRESS:PORT each."""
    found = []
    for word in words:
        plain = word.count(":") == 0 or (word.count(":") > 1 and not word.startswith("["))
        whole = word.startswith("[") and word.endswith("]")
        text = f"[{word}]:{AGENT_PORT}" if plain and ":" in word else f"{word}:{AGENT_PORT}" if plain or whole else word
        found.append(read_address("--join", text))
    return tuple(found)


def read_login(word: str) -> str:
    """`USER@`, or nothing: as ssh takes it before a host."""
    if not LOGIN.fullmatch(word):
        raise UserError(f"invalid value {word!r} for --ssh: expected USER@ such as pi@, or nothing")
    return word
