"""Checks before a run that no output file overwrites an input. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_files import files_of_plan
from edgecompile.contract.user_files import check_overwrite, is_same_file
from edgelaunch.common.items import STDIN
from edgelaunch.inputs.folders import SUFFIXES, find_images
from edgelaunch.outputs.partial_results import partial_folder

__all__ = ["check_written"]


def check_written(arguments: argparse.Namespace, plan: Plan) -> None:
    """`--output` and `--run` of a run.

    Raises:
        UserError: one would overwrite a file that is read, over the other, or over what is not complete yet.
    """
    read = list(_files_read(arguments, plan))
    if arguments.output is not None:
        output = Path(arguments.output)
        check_overwrite(output, "--output", read)
        for path, what in read:
            _check_outside(path, what, output)
        read.append((output, "--output"))
    if arguments.run is not None:
        record = Path(arguments.run)
        if record.is_dir():
            raise UserError(f"{record}: is a folder: name a file in it for --run")
        check_overwrite(record, "--run", read)
        _check_image(record, arguments.input)
        if arguments.output is not None:
            _check_outside(record, "--run", Path(arguments.output))


def _files_read(arguments: argparse.Namespace, plan: Plan) -> Iterator[tuple[Path, str]]:
    yield from files_of_plan(plan, Path(arguments.plan))
    if arguments.secret_file is not None:
        yield Path(arguments.secret_file), "the secret"
    if arguments.input == STDIN:
        yield Path("/dev/stdin"), "the file that standard input comes from"
    elif arguments.input is not None:
        yield Path(arguments.input), "--input"


def _check_outside(path: Path, what: str, output: Path) -> None:
    """The folder of results that are not complete is emptied as the run begins."""
    folder = partial_folder(output)
    if is_same_file(path, folder) or any(is_same_file(above, folder) for above in path.absolute().parents):
        raise UserError(
            f"{path}: {what} lies where results are kept until {output.name} is complete: name another file"
        )


def _check_image(record: Path, given: str | None) -> None:
    if given in (None, STDIN) or record.suffix.lower() not in SUFFIXES or not record.exists():
        return
    assert given is not None
    folder = Path(given)
    if folder.is_dir() and any(is_same_file(record, image) for image in find_images(folder).files):
        raise UserError(f"{record}: --run would overwrite an image of --input: name another file")
