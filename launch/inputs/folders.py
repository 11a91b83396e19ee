"""Reads a folder of images: its files, and the classes that its subfolders stand for."""

from __future__ import annotations

import math
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.model_facts import ModelFacts
from edgelaunch.inputs.labels import num_classes

__all__ = ["SUFFIXES", "Classes", "Found", "class_numbers", "find_images"]

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
MOST_NAMED = 5


@dataclass(frozen=True)
class Found:
    """Of a folder."""

    files: list[Path]
    """In the order of their paths; also what turns out to be no readable file."""
    num_hidden: int
    """Files and folders that were left out, since their names begin with a dot."""
    others: Counter[str]
    """Files that were left out, since their suffixes are none of SUFFIXES: how many of each suffix."""

    @property
    def notes(self) -> list[str]:
        """What a user must know of what was left out."""
        notes = []
        if self.num_hidden:
            notes.append(f"skipped {self.num_hidden} hidden files or folders, whose names begin with a dot")
        if count := self.others.total():
            kinds = ", ".join(suffix or "no suffix" for suffix, _ in self.others.most_common(MOST_NAMED))
            several = "s" if count > 1 else ""
            notes.append(f"skipped {count} file{several} of other kinds ({kinds}): convert those that are images")
        return notes


def find_images(root: Path) -> Found:
    """All images below a folder, through links to files and folders, without hidden ones.

    Raises:
        UserError: a folder cannot be read, a link leads to a folder that it lies in, or to nothing.
    """
    files: list[Path] = []
    num_hidden = 0
    others: Counter[str] = Counter()
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            facts = folder.stat()
            entries = list(os.scandir(folder))
        except OSError as error:
            raise UserError(f"{folder}: this folder cannot be read: {error.strerror}") from None
        itself = (facts.st_dev, facts.st_ino)
        if itself in above:
            raise UserError(f"{folder}: links back to a folder that contains it: remove this link")
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):  # ._a.png, .ipynb_checkpoints
                num_hidden += 1
            elif _is_folder(entry):
                waiting.append((path, above | {itself}))
            elif path.suffix.lower() in SUFFIXES:
                files.append(path)
            elif entry.is_symlink() and not path.exists():
                raise UserError(f"{path}: links to {os.readlink(path)}, which does not exist: fix or remove the link")
            else:
                others[path.suffix.lower()] += 1
    return Found(sorted(files), num_hidden, others)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that lead to each other
        return False


@dataclass(frozen=True)
class Classes:
    """What a folder's subfolders mean."""

    numbers: dict[str, int]
    """By subfolder; empty where they are not classes."""
    note: str | None = None
    """What a user must know of it."""


def class_numbers(plan: ModelFacts, folders: Sequence[str], where: Path) -> Classes:
    """The class of each subfolder: the label of the plan that it is named by, or its own number.

    Where none is named by either, and there are as many as the model has classes, their places in alphabetical order.

    Raises:
        UserError: some are named by a label or a number and others are not, or a name is that of several classes.
    """
    if not folders:
        return Classes({})
    count = num_classes(plan)
    by_label, by_number = _by_label(plan, folders, where), _by_number(folders, count)
    for numbers in (by_label, by_number):
        if len(numbers) == len(folders):
            return Classes(numbers)
    if by_label or by_number:
        numbers, what = (by_label, "labels") if len(by_label) >= len(by_number) else (by_number, "class numbers")
        others = [name for name in folders if name not in numbers]
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        known = f"the model has classes 0 to {count - 1}" if count is not None else "class numbers begin at 0"
        raise UserError(
            f"{where}: {len(numbers)} of {len(folders)} class folders are named by {what} of the plan, and "
            f"{', '.join(others[:MOST_NAMED])}{more} not: name each by its label, or each by its class number ({known})"
        )
    if count is None or len(folders) == count:
        places = {name: number for number, name in enumerate(sorted(folders))}
        return Classes(
            places,
            "class folders are numbered in alphabetical order, since none of them is named by a label of the plan",
        )
    note = (
        f"the {len(folders)} subfolders are not used as classes: they are named by neither labels nor class numbers of "
        f"the plan, which has {count} classes"
    )
    return Classes({}, note)


def _by_label(plan: ModelFacts, folders: Sequence[str], where: Path) -> dict[str, int]:
    """Whole labels first; then one of several names, as in `tench, Tinca tinca`."""
    whole, parts = defaultdict(set), defaultdict(set)
    for number, label in enumerate(plan.data.labels):
        whole[_simple(label)].add(number)
        for part in label.split(","):
            parts[_simple(part)].add(number)
    found = {}
    for name in folders:
        numbers = whole.get(_simple(name)) or parts.get(_simple(name))
        if numbers is None:
            continue
        if len(numbers) > 1:
            several = ", ".join(map(str, sorted(numbers)))
            raise UserError(f"{where}: {name} is a label of the classes {several}: name all folders by class number")
        found[name] = next(iter(numbers))
    return found


def _by_number(folders: Sequence[str], count: int | None) -> dict[str, int]:
    numbers = {name: int(name) for name in folders if name.isascii() and name.isdecimal()}
    return {name: number for name, number in numbers.items() if number < (math.inf if count is None else count)}


def _simple(label: str) -> str:
    text = unicodedata.normalize("NFKC", label).casefold()
    return " ".join(text.replace("_", " ").replace("-", " ").split())
