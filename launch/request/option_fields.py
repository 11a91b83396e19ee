"""Options as fields of a frozen dataclass: the parser and a request's words are both made from the fields."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "Option",
    "Reach",
    "add_options",
    "option",
    "options_of",
    "plan_argument",
    "read_options",
    "words_argument",
    "words_of",
]

R = TypeVar("R")

KEY = "option"
"""Of an Option in its field's metadata."""


class Reach(Enum):
    """Which of the ranks that `--local` and `--emulate` start are given an option as the user gave it."""

    EVERY_RANK = "every rank"
    DATA_HOST = "rank 0"
    PARENT = "none"
    """It is the parent's own, or the parent chooses the value for each rank."""


@dataclass(frozen=True, kw_only=True)
class Option:
    flag: str
    """`--name`; empty for the plan, which stands without one."""
    read: Callable[[str], Any] | None
    """What makes the field's value of the word; None: the option has no word, and means True."""
    reach: Reach
    why: str
    """For the parent's own: why no rank is given it."""
    settings: Mapping[str, Any]
    """For argparse's `add_argument`."""
    group: str = ""
    """The title that it stands under in --help."""


def plan_argument(help: str, *, optional: bool = False) -> Mapping[str, Option]:
    """The metadata of the field that holds the plan's path."""
    settings: dict[str, Any] = {"metavar": "PLAN", "help": help}
    settings |= {"nargs": "?", "default": argparse.SUPPRESS} if optional else {}
    return {KEY: Option(flag="", read=Path, reach=Reach.EVERY_RANK, why="", settings=settings)}


def words_argument(metavar: str, help: str) -> Mapping[str, Option]:
    """The metadata of a field that holds one word or more, in the plan's place."""
    settings = {"metavar": metavar, "help": help, "nargs": "+"}
    return {KEY: Option(flag="", read=tuple, reach=Reach.PARENT, why="no rank is started with it", settings=settings)}


def option(
    flag: str,
    read: Callable[[str], Any] | None = None,
    *,
    reach: Reach = Reach.PARENT,
    why: str = "",
    group: str = "",
    metavar: str | None = None,
    help: str | None = None,
    several: bool = False,
    without: str | None = None,
) -> Mapping[str, Option]:
    """The metadata of a field that is an option; `help` None: --help does not show it.

    `several`: it may be given more than once, and `read` takes the list. `without`: what it means without a word.
    """
    assert (reach is Reach.PARENT) == bool(why), f"{flag}: say why no rank is given it, and say so of no other"
    settings: dict[str, Any] = {"help": argparse.SUPPRESS if help is None else help}
    if read is None:
        settings["action"] = "store_true"
    else:
        settings |= {"metavar": metavar, "type": read if read in (int, float) else str}
        settings |= {"action": "append"} if several else {}
        settings |= {"nargs": "?", "const": without} if without is not None else {}
    if isinstance(read, type) and issubclass(read, Enum):
        settings["choices"] = [member.value for member in read]
    return {KEY: Option(flag=flag, read=read, reach=reach, why=why, settings=settings, group=group)}


def options_of(request: type[Any]) -> Iterator[tuple[Field[Any], Option]]:
    """The options of a dataclass, in the fields' order. Every field is one."""
    for item in fields(request):
        yield item, item.metadata[KEY]


def add_options(
    parser: argparse.ArgumentParser, request: type[Any], *, plan: bool = True, grouped: bool = False
) -> None:
    """Adds all options of a dataclass; `plan`: the plan's path too. `grouped`: --help shows them by group."""
    groups: dict[str, Any] = {"": parser}
    for item, known in sorted(options_of(request), key=lambda pair: pair[1].flag.startswith("--log-")):
        if not known.flag:
            if plan:
                parser.add_argument(item.name, **known.settings)
            continue
        title = known.group if grouped else ""
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        # the field alone says what an option is that was not given
        groups[title].add_argument(known.flag, dest=item.name, default=argparse.SUPPRESS, **known.settings)


def read_options(request: type[R], found: argparse.Namespace) -> R:
    """Raises UserError where a value cannot be read, or the values do not go together."""
    values: dict[str, Any] = {}
    for item, known in options_of(request):
        if hasattr(found, item.name):
            value = getattr(found, item.name)
            values[item.name] = value if known.read is None else known.read(value)
    return request(**values)


def words_of(request: Any) -> list[str]:
    """The words that are read as this request: the plan, then each option that is not as it is by itself."""
    words: list[str] = []
    for item, known in options_of(type(request)):
        value = getattr(request, item.name)
        if item.default is not MISSING and value == item.default:
            continue
        if isinstance(value, tuple):
            words += [part for one in value for part in ([known.flag] if known.flag else []) + [str(one)]]
            continue
        word = _word(value) if known.read is not None else None
        if known.flag and word is not None and word.startswith("-") and not isinstance(value, Path):
            words.append(f"{known.flag}={word}")  # alone it would be taken for an option
            continue
        words += [known.flag] if known.flag else []
        words += [word] if word is not None else []
    return words


def _word(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    text = str(value)
    # a name that begins like an option would be taken for one; a lone - is a value
    return f"./{text}" if isinstance(value, Path) and text.startswith("-") and text != "-" else text
