"""Hydra callback: writes a result file per job, then the sweep's table; a failed point becomes a row."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf.errors import OmegaConfBaseException
from rich.text import Text

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import replacing
from edgecompile.contract.files.user_files import check_ours
from edgecompile.contract.plan_file import check_place
from edgecompile.sweep.table import best_row, csv_text, swept_keys, table_parts
from edgecompile.terminal.console import output_options, say_problem, table_console

if TYPE_CHECKING:
    from edgecompile.contract.plan import Plan, Stage

__all__ = ["SweepTable", "finish", "forget", "run_job", "running"]

_ID = "EDGECOMPILE_SWEEP"
_FOLDER = "EDGECOMPILE_SWEEP_DIR"


class SweepTable:
    """A Hydra callback: notes where the sweep writes, so that its table can be built from files afterwards."""

    def __init__(self) -> None:
        self.jobs = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *args, **kwargs: None
        raise AttributeError(name)

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        os.environ[_ID] = uuid.uuid4().hex
        os.environ[_FOLDER] = str(config.hydra.sweep.dir)


def running() -> bool:
    """Whether this process works on a sweep."""
    return _ID in os.environ


def forget() -> None:
    """Before a new command: an earlier sweep's marks are not ours."""
    os.environ.pop(_ID, None)
    os.environ.pop(_FOLDER, None)


def run_job(config: Any, compile_one: Callable[[Any], float]) -> float:
    """One point of the sweep in its own folder; writes result.json beside the plan. A failed point returns 0.0."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    job = HydraConfig.get()
    folder = Path(job.sweep.dir) / job.sweep.subdir
    _check_files(Path(job.sweep.dir), folder)
    with open_dict(config):
        config.output_dir = str(folder)
    result: dict[str, Any] = {
        "sweep": os.environ[_ID],
        "job": int(job.job.num),
        "overrides": list(job.overrides.task),
        "plan": str(folder / "plan.yaml"),
        "error": None,
    }
    throughput = 0.0
    (folder / "plan.yaml").unlink(missing_ok=True)  # so that a point without a plan has none
    try:
        throughput = compile_one(config)
    except (UserError, OmegaConfBaseException) as error:
        say_problem("edgecompile", error)
        result["error"] = " ".join(str(error).split())
    _write_json(folder / "result.json", result)
    return throughput


def _check_files(sweep: Path, point: Path) -> None:
    """Raises UserError where a file that is not a sweep's has a name of what a sweep writes."""
    fix = "choose another hydra.sweep.dir"
    check_place(point / "plan.yaml")
    check_ours(point / "result.json", r'"sweep": .*"overrides": ', "result of a sweep", fix)
    check_ours(sweep / "manifest.json", r'\A\{\s*"(jobs|swept)": ', "manifest of a sweep", fix)
    check_ours(sweep / "sweep.csv", r"\Ajob,", "table of a sweep", fix)
    check_ours(sweep / "sweep.svg", "edgecompile", "plot of a sweep", fix)


def finish() -> int:
    """After a sweep: writes manifest.json, sweep.csv and the plot, and prints the table.

    Returns 0 where a point worked, else 2; 0 without a sweep.
    """
    if not running():
        return 0
    folder, identity = Path(os.environ[_FOLDER]), os.environ[_ID]
    results = []
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["sweep"] == identity:
            results.append(result)
    results.sort(key=lambda item: item["job"])
    if not results:
        return 0
    rows = [_row(result) for result in results]
    best = best_row(rows)
    jobs = [{**row, "plan": _relative(row["plan"], folder)} for row in rows]
    manifest = {"swept": swept_keys(rows), "best": None if best is None else best["job"], "jobs": jobs}
    _write_json(folder / "manifest.json", manifest)
    with replacing(folder / "sweep.csv") as temporary:
        temporary.write_text(csv_text(jobs), encoding="utf-8")
    _print(rows, {**manifest, "jobs": rows})
    output, plot = output_options(), folder / "sweep.svg"
    plot.unlink(missing_ok=True)  # an earlier sweep's
    if best is None:
        return 2
    from edgecompile.sweep.plot import write_plot

    write_plot(rows, plot)
    if not (output.json or output.quiet):
        print(f"values: {folder / 'sweep.csv'}")
        print(f"plot: {plot}")
    return 0


def _print(rows: list[dict[str, Any]], figures: dict[str, Any]) -> None:
    """As JSON; else as a table, of which `--quiet` leaves the errors."""
    output = output_options()
    if output.json:
        print(json.dumps(figures, indent=1))
        return
    console = table_console()
    for part in table_parts(rows):
        if not output.quiet:
            console.print(part, soft_wrap=isinstance(part, Text))


def _relative(path: str, folder: Path) -> str:
    return os.path.relpath(path, folder)


def _row(result: dict[str, Any]) -> dict[str, Any]:
    row = {"job": result["job"], "overrides": result["overrides"], "plan": result["plan"], "error": result["error"]}
    if result["error"] is None:
        from edgecompile.contract.plan_file import read_plan

        plan = read_plan(result["plan"])
        row["throughput_items_per_s"] = plan.predicted.throughput_items_per_s
        row["latency_s"] = plan.predicted.latency_s
        row["period_s"] = plan.predicted.period_s
        row["gap"] = plan.certificate.gap
        row["bottleneck"] = plan.predicted.bottleneck
        row["hosts"] = len(plan.stages)
        row["memory_headroom"] = min(_headroom(plan, stage) for stage in plan.stages)
    return row


def _headroom(plan: Plan, stage: Stage) -> float:
    """The share of its host's memory that a stage leaves free."""
    limit = plan.hosts[stage.rank].limits.memory_bytes
    return (limit - stage.predicted.memory_bytes) / limit


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
