"""The `edgecompile` command. Imports no torch, so that --help and config errors are fast."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from edgecompile.commands.hydra_app import job, run_app
from edgecompile.commands.hydra_options import read_options
from edgecompile.config.composed import to_conf
from edgecompile.config.overrides import overrides_of
from edgecompile.config.request import request_of
from edgecompile.config.schema import Conf
from edgecompile.contract.errors import UserError
from edgecompile.sweep import callback as sweep
from edgecompile.terminal.console import output_options, run_command, say, steps, table_console
from edgecompile.terminal.process import abrupt_interrupts, at_interrupt

if TYPE_CHECKING:
    from edgecompile.contract.plan import Plan

__all__ = ["compiled_below", "compose", "main", "recorded_overrides"]

_NOT_WRITABLE = (
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOSPC,
    errno.ENOTDIR, errno.EPERM, errno.EROFS,
)  # fmt: skip


@hydra.main(version_base="1.3", config_path="pkg://edgecompile.conf", config_name="config")
@job
def _app(config: Any) -> float:
    """One job: compiles and returns the predicted throughput in items a second, which sweepers maximise."""
    if sweep.running():
        return sweep.run_job(config, _compile)
    return _compile(config)


def _compile(config: Any) -> float:
    conf = to_conf(config)
    request = request_of(conf)
    overrides = overrides_of(config, HydraConfig.get().runtime.choices)
    say(f"compiling {request.model.spec.name} at microbatch {conf.microbatch}")
    if request.weights.file is None:
        say(f"  weights: random, seed {request.model.seed} (weights=FILE loads real ones)")
    with abrupt_interrupts():
        from edgecompile.pipeline import compile_model

    with compiled_below(request.folder):
        plan = compile_model(request, steps, overrides)
    _show(plan, str(request.folder / "plan.yaml"))
    return plan.predicted.throughput_items_per_s


@contextmanager
def compiled_below(folder: Path) -> Iterator[None]:
    """Makes the folder; raises UserError where nothing can be written below it."""
    try:
        os.makedirs(folder, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        where = error.filename or folder
        raise UserError(f"{where}: {error.strerror}: choose another output_dir, or free space there") from error


def _show(plan: Plan, path: str) -> None:
    """As JSON, as tables, or not at all; a sweep's JSON is one object at its end."""
    from edgecompile.explore.show import plan_figures, plan_tables

    output = output_options()
    if output.json and not sweep.running():
        print(json.dumps({"plan": path, **plan_figures(plan)}, indent=1))
    if output.json or output.quiet:
        return
    console = table_console()
    for part in plan_tables(plan, console.width):
        console.print(part)
    console.print(f"plan written to {path}", soft_wrap=True)


def main() -> int:
    """The command: 0 done, 2 the user's error in one line, 130 interrupted."""
    return run_command("edgecompile", _body)


def _body() -> int:
    read_options("edgecompile")
    sweep.forget()
    at_interrupt(sweep.finish)
    try:
        run_app(_app)
    except KeyboardInterrupt:
        sweep.finish()
        raise
    return sweep.finish()


def compose(overrides: list[str]) -> Conf:
    """The config that these overrides compose, for programs and tests. Raises UserError as the command does."""
    with hydra.initialize_config_module("edgecompile.conf", version_base="1.3"):
        config = hydra.compose("config", overrides=overrides)
    OmegaConf.resolve(config)
    return to_conf(config)


def recorded_overrides(overrides: list[str]) -> tuple[str, ...]:
    """What a plan that is compiled with these overrides records of them."""
    with hydra.initialize_config_module("edgecompile.conf", version_base="1.3"):
        config = hydra.compose("config", overrides=overrides, return_hydra_config=True)
        return overrides_of(config, config.hydra.runtime.choices)


if __name__ == "__main__":
    sys.exit(main())
