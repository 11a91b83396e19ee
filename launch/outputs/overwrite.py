"""Checks before a run that no output file overwrites an input. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.user_files import check_overwrite, is_same_file
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import files_of_plan
from edgelaunch.inputs.folders import SUFFIXES, find_images
from edgelaunch.outputs.partial_results import partial_folder
from edgelaunch.request.run_request import RunRequest

__all__ = ["check_written"]


def check_written(request: RunRequest, plan: Plan) -> None:
    """`--output` and `--run` of a run.

    Raises:
        UserError: one would overwrite a file that is read, over the other, or over what is not complete yet.
    """
    read = list(_files_read(request, plan))
    output, record = request.output, request.run
    if output is not None:
        check_overwrite(output, "--output", read)
        for path, what in read:
            _check_outside(path, what, output)
        read.append((output, "--output"))
    if record is not None:
        if record.is_dir():
            raise UserError(f"{record}: is a folder: name a file in it for --run")
        check_overwrite(record, "--run", read)
        if request.input is not None and not request.from_stdin:
            _check_image(record, request.input)
        if output is not None:
            _check_outside(record, "--run", output)


def _files_read(request: RunRequest, plan: Plan) -> Iterator[tuple[Path, str]]:
    yield from files_of_plan(plan, request.plan_path)
    if request.secret_file is not None:
        yield request.secret_file, "the secret"
    if request.from_stdin:
        yield Path("/dev/stdin"), "the file that standard input comes from"
    elif request.input is not None:
        yield request.input, "--input"


def _check_outside(path: Path, what: str, output: Path) -> None:
    """The folder of results that are not complete is emptied as the run begins."""
    folder = partial_folder(output)
    if is_same_file(path, folder) or any(is_same_file(above, folder) for above in path.absolute().parents):
        raise UserError(f"{path}: {what} is inside the folder for partial results of {output.name}: name another file")


def _check_image(record: Path, given: Path) -> None:
    if record.suffix.lower() not in SUFFIXES or not record.exists():
        return
    if given.is_dir() and any(is_same_file(record, image) for image in find_images(given).files):
        raise UserError(f"{record}: --run would overwrite an image of --input: name another file")
