"""Reads, checks and writes plan.yaml. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import yaml

import edgecompile
from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import replacing
from edgecompile.contract.files.user_files import check_ours, check_regular, check_utf8, printable
from edgecompile.contract.plan import Plan
from edgecompile.contract.validation import check_plan
from edgecompile.contract.yaml_decode import OMITTED, decode, load_yaml

__all__ = [
    "HEADER",
    "MAX_PLAN_BYTES",
    "VERSIONS",
    "check_place",
    "files_of_plan",
    "plan_text",
    "read_plan",
    "read_run_plan",
    "write_plan",
]

VERSIONS = {False: 1, True: 2}
"""By whether messages vary in size, or weights stand beside the shards: other plans are read by the first edgecompile
too."""
MAX_PLAN_BYTES = 64 << 20
HEADER = "# written by edgecompile; read by edgelaunch and edgeplan. Seconds, bytes, bytes a second.\n"


def read_plan(path: str | Path) -> Plan:
    """Reads and validates a plan.

    Raises:
        UserError: the file is missing, no YAML, of another version, or breaks a rule; says which and where.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the plan itself, such as {path / 'plan.yaml'}")
    document = load_yaml(path, what="plan", max_bytes=MAX_PLAN_BYTES, hint="compile one with edgecompile")
    if not isinstance(document, dict):
        raise UserError(f"{path}: not a plan: the top level must be a mapping, not {type(document).__name__}")
    form = document.get("version")
    if form not in VERSIONS.values() or isinstance(form, bool):
        raise UserError(
            f"{path}: version is {form!r}, this edgecompile reads the versions 1 and 2: "
            "compile the plan again, or install the edgecompile that wrote it"
        )
    try:
        plan = decode(Plan, document, where=str(path))
    except UserError as error:
        own, writer = edgecompile.__version__, _writer(document)
        if _parts(writer) <= _parts(own):
            raise
        raise UserError(f"{error}; edgecompile {writer} wrote it, and this is {own}",
                        fix="install that version here, or compile the plan again with this one") from None  # fmt: skip
    check_plan(plan, str(path))
    return plan


def _writer(document: Mapping[Any, Any]) -> str:
    """The version of the edgecompile that wrote a plan, as the plan says; empty where it does not."""
    provenance = document.get("provenance")
    writer = provenance.get("edgecompile") if isinstance(provenance, dict) else None
    return writer if isinstance(writer, str) and re.fullmatch(r"[0-9.]{1,20}", writer) else ""


def _parts(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in number.split(".") if part.isdecimal())


def check_place(path: Path) -> None:
    """Before the work: raises UserError where a file that is not a plan has the plan's name, or none can be written."""
    check_utf8(path.parent, "the plan's folder")
    check_ours(path, rf"{HEADER[:24]}|^version: .*^objective: ", "plan", "choose another output_dir")


def read_run_plan(path: Path) -> Plan:
    """For a run, which reads the plan more than once, and other files beside it.

    Raises:
        UserError: as read_plan, or the path is a pipe or a device, torch cannot open what is beside it, or the plan
            has no shards.
    """
    check_regular(path, "a plan", "a run reads it more than once: write it to a file")
    check_utf8(path.resolve().parent, "the plan's folder")
    plan = read_plan(path)
    if not plan.has_shards:
        raise UserError(f"{path}: a plan without shards, compiled with artifact=none: compile it again without that")
    return plan


def write_plan(plan: Plan, path: Path) -> None:
    """Writes to a temporary file beside `path`, then renames: a crash leaves the old plan or the new one."""
    check_plan(plan, str(path))
    with replacing(path) as temporary:
        temporary.write_text(plan_text(plan), encoding="utf-8")


def plan_text(plan: Plan) -> str:
    """The plan as YAML: a line for each leaf mapping, in the order of the dataclasses."""
    sections = []
    for item in _kept(plan):
        value = _plain(getattr(plan, item.name))
        flow = None if isinstance(value, (list, dict)) else False
        sections.append(
            yaml.dump({item.name: value}, Dumper=_Dumper, sort_keys=False, default_flow_style=flow, width=200)
        )
    return HEADER + "".join(sections)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _kept(value: Any) -> list[Any]:
    """The fields of a dataclass that the file holds."""
    return [item for item in fields(value) if OMITTED not in item.metadata or not _is_default(value, item)]


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {item.name: _plain(getattr(value, item.name)) for item in _kept(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return printable(value) if isinstance(value, str) else value


def _is_default(value: Any, item: Field[Any]) -> bool:
    default = item.default if item.default_factory is MISSING else item.default_factory()
    return bool(getattr(value, item.name) == default)


def files_of_plan(plan: Plan, path: Path) -> Iterator[tuple[Path, str]]:
    """The plan and all files that it names, each with what it is."""
    yield path, "the plan"
    folder = path.resolve().parent
    for stages in (plan.stages, *(item.stages for item in plan.contingencies)):
        for stage in stages:
            for name, _ in stage.files:
                yield folder / name, "a shard of the plan" if name == stage.shard else "weights of the plan"
    if plan.has_shards:
        yield folder / plan.golden.file, "the plan's golden file"
    if plan.golden.reference is not None:
        yield folder / plan.golden.reference, "the plan's reference"
    if plan.generation is not None and plan.generation.tokenizer is not None:
        yield folder / plan.generation.tokenizer, "the plan's tokenizer"
    if plan.data.text is not None and plan.data.text.tokenizer is not None:
        yield folder / plan.data.text.tokenizer, "the plan's tokenizer"
