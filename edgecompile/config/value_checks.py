"""Checks of single values of the config; each returns the value as the compiler takes it."""

from __future__ import annotations

import math
from collections.abc import Collection
from enum import Enum
from typing import TypeVar

from edgecompile.contract.closed_sets import words_of
from edgecompile.contract.errors import UserError, choices, invalid_value
from edgecompile.contract.quantities import parse_bytes, parse_time
from edgecompile.contract.validation import MOST_S

__all__ = ["at_least", "between", "member", "named", "over_zero", "positive_bytes", "seconds", "switch"]

E = TypeVar("E", bound=Enum)
Number = TypeVar("Number", int, float)


def member(kind: type[E], value: object, key: str) -> E:
    """The member of a closed set that this word means. Raises UserError that lists the words."""
    try:
        return kind(value)
    except ValueError:
        raise invalid_value(value, key, f"one of {choices(words_of(kind), value)}") from None


def named(value: object, names: Collection[str], key: str) -> str:
    """One of the names that there are. Raises UserError that lists them."""
    if not isinstance(value, str) or value not in names:
        raise invalid_value(value, key, f"one of {choices(names, value)}")
    return value


def at_least(value: int, least: int, key: str) -> int:
    if value < least:
        raise invalid_value(value, key, f"{least} or more")
    return value


def between(value: Number, least: Number, most: Number, key: str, unit: str = "") -> Number:
    if not least <= value <= most:
        raise invalid_value(value, key, f"{least} to {most}{unit}")
    return value


def over_zero(value: float, key: str, most: float = math.inf) -> float:
    if not 0 < value <= most or math.isinf(value):
        raise invalid_value(value, key, "a number greater than 0" + (f", at most {most:g}" if most < math.inf else ""))
    return value


def seconds(value: object, key: str, *, positive: bool = False) -> float:
    """A time that a plan can hold: up to 6 days. `positive`: over 0."""
    found = parse_time(value, key)
    if found > MOST_S or (positive and found == 0):
        raise invalid_value(value, key, f"a time {'over 0 and ' if positive else ''}at most {MOST_S:.0f} s")
    return found


def positive_bytes(value: object, key: str) -> int:
    found = parse_bytes(value, key)
    if found <= 0:
        raise invalid_value(value, key, "a size greater than 0 bytes")
    return found


def switch(name: str, names: Collection[str], key: str) -> str:
    """A key of the mapping `key` whose keys are closed. Raises UserError that lists them."""
    if name not in names:
        raise UserError("no such key", key=f"{key}.{name}".lstrip("."), fix=f"the keys here are {choices(names, name)}")
    return name
