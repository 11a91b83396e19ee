"""Compiles many architectures in tiny configurations, and compares their shards with the eager model item by item.

Each is compiled at microbatch 2 for 3 hosts. Its shards, chained in this process, run items that the compiler never
saw; the eager model runs each of them alone. A few plans run through `edgelaunch --local --verify` too. Prints a line
for each model: units, stages, the largest difference relative to the output's largest value, and `verified`, `refused`
with the compiler's line, or TRACEBACK. Exit status 1 where fewer than --least are verified, or one ends in a traceback.

Usage: architectures.py [--kind transformers|timm] [--only NAME,NAME] [--precision int8] [--launched 8] [--least N]
timm needs benchmarks/requirements.txt, and a torchvision that fits the installed torch.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from edgecompile.commands.compile_command import compose
from edgecompile.config.model_spec import model_of
from edgecompile.contract.dim_rules import item_dims
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.execution.closeness import SLACK
from edgecompile.execution.opened_shard import open_stage
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.golden.golden_items import golden_inputs
from edgecompile.models import build_model
from edgecompile.pipeline import compile_model

TABLE = Path(__file__).with_suffix(".yaml")
MICROBATCH, HOSTS = 2, 3


@dataclass(frozen=True, kw_only=True)
class Entry:
    name: str
    overrides: tuple[str, ...]
    tests: bool
    """Whether make test compiles it too."""
    varies: bool
    """Whether its items may have a length of their own."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    plan: Plan
    difference: float
    """The largest, of an output's largest value."""
    share: float
    """The same, of what is allowed: over 1 is not verified."""


def entries(kind: str) -> list[Entry]:
    """The models of a kind, `transformers` or `timm`, as overrides of edgecompile."""
    table = yaml.safe_load(TABLE.read_text())
    return [_entry(kind, name, item, table["inputs"], table["dims"]) for name, item in table[kind].items()]


def _entry(kind: str, name: str, item: dict[str, Any], inputs: dict[str, Any], dims: dict[str, Any]) -> Entry:
    wanted = item["inputs"] if isinstance(item["inputs"], dict) else inputs[item["inputs"]]
    config = item.get("config", {})
    if kind == "timm":
        settings = {"model_name": name, "pretrained": False, **config}
        build = ["model=custom", f"model.name={name}", "model.build._target_=timm.create_model",
                 *(f"+model.build.{key}={_hydra(value)}" for key, value in settings.items())]  # fmt: skip
    else:
        build = ["model=transformers", f"model.build.architecture={name}", f"+model.build.config={_hydra(config)}"]
    output = [f"model.output={_hydra(item['output'])}"] if "output" in item else []
    used = {name: dim for name, dim in dims.items() if any(name in each["shape"] for each in wanted.values())}
    output += [f"model.dims={_hydra(used)}"] if used else []
    library = [f"runtime.import=[{item['library']}]"] if "library" in item else []
    return Entry(
        name=name,
        overrides=(*build, f"model.inputs={_hydra(wanted)}", *output, *library, f"microbatch={MICROBATCH}",
                   f"hosts.count={HOSTS}", "schedule=even"),
        tests=bool(item.get("tests", False)),
        varies=bool(used) and not item.get("fixed", False),
    )  # fmt: skip


def _hydra(value: Any) -> str:
    return json.dumps(value).replace('"', "")


def check(entry: Entry, folder: Path, *more: str) -> Outcome:
    """Compiles the model, with `more` overrides, into `folder` and runs its shards on items of another seed.

    Raises:
        UserError: the compiler refuses the model.
    """
    conf = compose([*entry.overrides, *more, f"output_dir={folder}"])
    plan = compile_model(conf, lambda name: nullcontext())
    assert bool(item_dims(plan)) is entry.varies, plan.notes
    spec = model_of(conf.model)
    module = build_model(spec, conf.seed)
    flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs)
    items = golden_inputs(spec, module, conf.seed + 1)
    stages = [open_stage(stage, folder).run for stage in plan.stages]
    rows = [2, 0, 1, 3, 3, 1]  # neighbours that golden items do not have
    if plan.model.dims:
        rows.append(2)  # alone in its message
    difference = share = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), MICROBATCH):
            batch = rows[start : start + MICROBATCH]
            sizes = {name: max(dim.min, dim.max - start) for name, dim in plan.model.dims.items()}
            own = [_cut(item, spec.dims, sizes) for item, spec in zip(items, plan.inputs, strict=True)]
            values = tuple(item[batch] for item in own)
            for stage in stages:
                values = tuple(value.contiguous() for value in stage(*values))
            for place, row in enumerate(batch):
                alone = flat(*(item[row : row + 1].clone() for item in own))
                for name, got, wanted in zip(flat.output_names, values, alone, strict=True):
                    gap, scale = _gap(got[place], wanted[0]), _scale(wanted)
                    allowed = SLACK * max(plan.golden.tolerance[name], 1e-6 * scale)
                    difference = max(difference, gap / (scale or 1.0))
                    share = max(share, gap / allowed if gap else 0.0)
    return Outcome(plan=plan, difference=difference, share=share)


def _cut(item: torch.Tensor, dims: Sequence[str | None], sizes: Mapping[str, int]) -> torch.Tensor:
    """Items with other extents than the largest; the batch stays."""
    for axis, name in enumerate(dims):
        if axis and name is not None:
            item = item.narrow(axis, 0, sizes[name])
    return item


def _gap(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest absolute difference; infinities and NaN must be the same, and integers equal."""
    if not wanted.is_floating_point():
        return 0.0 if torch.equal(got, wanted) else float("inf")
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    return 0.0 if bool(same.all()) else float((got - wanted)[~same].abs().max().nan_to_num(float("inf")))


def _scale(value: torch.Tensor) -> float:
    finite = value[value.isfinite()] if value.is_floating_point() else value[:0]
    return float(finite.abs().max()) if finite.numel() else 0.0


def launched(folder: Path) -> str:
    """What `edgelaunch --local --verify` says of the plan: empty where all is well."""
    command = [sys.executable, "-I", "-m", "edgelaunch", str(folder / "plan.yaml"), "--local", "--verify", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else " ".join(done.stderr.split()) or f"exit status {done.returncode}"


@dataclass
class Counts:
    verified: int = 0
    refused: int = 0
    broken: int = 0


def lines(chosen: list[Entry], num_launched: int, counts: Counts, more: Sequence[str] = ()) -> Iterator[str]:
    step = max(1, len(chosen) // num_launched) if num_launched else len(chosen) + 1
    for index, entry in enumerate(chosen):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            figures, verdict = f"{'':>17} {'':>9}", ""
            try:
                found = check(entry, Path(folder), *more)
                figures = f"{len(found.plan.units):>8} {len(found.plan.stages):>8} {found.difference:>9.1e}"
                problem = launched(Path(folder)) if index % step == step - 1 else None
                good = found.share <= 1 and not problem
                verdict = "verified" if good else f"NOT VERIFIED {problem or f'{found.share:.1f} of what is allowed'}"
                verdict += ", launched too" if problem == "" else ""
                counts.verified += good
                counts.broken += not good
            except UserError as error:
                verdict = f"refused: {' '.join(str(error).split())}"
                counts.refused += 1
            except Exception as error:  # this is what the table is for
                frame = traceback.extract_tb(error.__traceback__)[-1]
                text = " ".join(str(error).split())[:160]
                where = f"{Path(frame.filename).name}:{frame.lineno}"
                verdict = f"TRACEBACK {type(error).__name__}: {text} ({where})"
                counts.broken += 1
        yield f"{entry.name:44} {figures}  {time.perf_counter() - began:5.1f} s  {verdict}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=("transformers", "timm"), default="transformers")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--launched", type=int, default=8, help="how many run through edgelaunch too")
    parser.add_argument("--precision", default="fp32", help="of the products with weights")
    parser.add_argument("--least", type=int, default=0, help="how many must be verified")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    only = set(filter(None, arguments.only.split(",")))
    chosen = [entry for entry in entries(arguments.kind) if not only or entry.name in only]
    counts = Counts()
    print(f"{'model':44} {'units':>8} {'stages':>8} {'largest':>9}  {'took':>7}")
    for line in lines(chosen, arguments.launched, counts, [f"precision={arguments.precision}"]):
        print(line, flush=True)
    print(
        f"{len(chosen)} models: {counts.verified} verified, {counts.refused} refused in one line, {counts.broken} not "
        f"verified or with a traceback (torch {torch.__version__})"
    )
    return int(counts.broken > 0 or counts.verified < arguments.least)


if __name__ == "__main__":
    sys.exit(main())
