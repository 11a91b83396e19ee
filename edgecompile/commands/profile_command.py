"""The `edgeprofile` command, run on the device to measure. Imports no torch at module level."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import hydra
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgecompile.commands.hydra_app import job, run_app
from edgecompile.commands.hydra_options import read_options
from edgecompile.config.composed import to_conf
from edgecompile.config.measure_request import measure_of
from edgecompile.contract.errors import UserError
from edgecompile.execution.allocator import restart_with_heap_environment, use_one_arena
from edgecompile.terminal.console import output_options, run_command, say, steps, table_console

if TYPE_CHECKING:
    from edgecompile.profile.profile_file import DeviceProfile

__all__ = ["main"]

_SAY_EVERY_S = 10.0


@hydra.main(version_base="1.3", config_path="pkg://edgecompile.conf", config_name="edgeprofile")
@job
def _app(config: Any) -> None:
    request = measure_of(to_conf(config))
    from edgecompile.measure.session import Ui, in_precisions, profile_device

    figures = []
    for part in in_precisions(request):
        begin_s, precision = time.monotonic(), part.device.precision.value
        named = "" if precision == "fp32" else f" in {precision}"
        say(f"profiling {request.model.spec.name}{named}; the machine should be idle otherwise")
        try:
            profile, path = profile_device(part, Ui(steps, _rounds, _say))
        except OSError as error:
            raise UserError(f"{error.filename or request.folder}: {error.strerror}") from error
        figures.append(_figures(profile, path))
        if not output_options().json and not output_options().quiet:
            _show(profile, f"profile written to {path} in {time.monotonic() - begin_s:.0f} s")
    if output_options().json:
        print(json.dumps(figures[0] if len(figures) == 1 else {"profiles": figures}, indent=1))


def _show(profile: DeviceProfile, last: str) -> None:
    console = table_console()
    console.print(_table(profile))
    for line in (*_remarks(profile), last):
        console.print(line, soft_wrap=True)


@contextmanager
def _rounds() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, elsewhere a line every ten seconds; nothing under `--quiet`."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or output_options().quiet or output_options().log.dated:
        yield _Lines()
        return
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, Any] = {}

        def tell(text: str, done: int, total: int) -> None:
            if text not in tasks:
                tasks[text] = progress.add_task(text, total=total)
            progress.update(tasks[text], completed=done, total=total)

        yield tell


class _Lines:
    """Progress for logs."""

    def __init__(self) -> None:
        self._said_s = -_SAY_EVERY_S

    def __call__(self, text: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s >= _SAY_EVERY_S or done == total:
            self._said_s = now_s
            say(f"  {text}: {done} of {total} rounds", "rounds", done=done, total=total)


def _say(text: str) -> None:
    say(f"  {text}")


def _figures(profile: DeviceProfile, path: object) -> dict[str, Any]:
    """What `_table` and `_remarks` say, for scripts."""
    return {
        "profile": str(path),
        "model": profile.model,
        "device": profile.device,
        "precision": profile.precision,
        "threads": profile.threads,
        "runtime_bytes": profile.runtime_bytes,
        "machine": asdict(profile.machine),
        "rates": asdict(profile.rates),
        "microbatches": [
            {
                "microbatch": item.microbatch,
                **({"extents": item.extents} if item.extents else {}),
                "all_units_s": sum(item.wall_s),
                "items_per_s": item.microbatch / sum(item.wall_s),
                "rounds": item.rounds,
                "disturbed": item.disturbed,
                "checks": [asdict(check) for check in item.checks],
            }
            for item in profile.microbatches
        ],
    }


def _table(profile: DeviceProfile) -> Table:
    """What each size takes, and how far sums of units are from stages that were measured whole."""
    from edgecompile.contract.quantities import format_number, format_time

    named = "" if profile.precision == "fp32" else f" in {profile.precision}"
    table = Table(title=f"{profile.model} on {profile.device}{named}", title_justify="left")
    dims = [profile.dim] if profile.dim else []
    for name in ("microbatch", *dims, "all units", "an item", "items/s", "quartiles", "sums off by", "rounds"):
        table.add_column(name, justify="right")
    for item in profile.microbatches:
        whole_s = sum(item.wall_s)
        errors = [abs(check.predicted_s / check.measured_s - 1) for check in item.checks]
        table.add_row(
            str(item.microbatch),
            *map(str, item.extents.values()),
            format_time(whole_s),
            format_time(whole_s / item.microbatch),
            format_number(item.microbatch / whole_s),
            f"-{1 - sum(item.wall_q1_s) / whole_s:.1%} +{sum(item.wall_q3_s) / whole_s - 1:.1%}",
            f"{max(errors):.1%} at most" if errors else "-",
            str(item.rounds),
        )
    return table


def _remarks(profile: DeviceProfile) -> Iterator[str]:
    from edgecompile.contract.quantities import format_bytes, format_flops

    machine, rates = profile.machine, profile.rates
    threads = f"{profile.threads} thread" + ("s" if profile.threads > 1 else "")
    yield f"{machine.processor}, {machine.cores} cores, {threads} used; {machine.system}"
    yield (
        f"matrix products {format_flops(rates.matrix_flops_per_s)}, "
        f"memory {format_bytes(rates.memory_bytes_per_s)}/s, "
        f"a rank without its shard {format_bytes(profile.runtime_bytes)}"
    )
    worst = max(item.disturbed for item in profile.microbatches)
    if worst > 0.25:
        yield f"other processes used the cores in {worst:.0%} of the samples: measure again when the machine is idle"


def main() -> int:
    """The command: 0 done, 2 the user's error in one line, 130 interrupted."""
    return run_command("edgeprofile", _body)


def _body() -> int:
    read_options("edgeprofile")
    restart_with_heap_environment()
    use_one_arena()
    run_app(_app)
    return 0


if __name__ == "__main__":
    sys.exit(main())
