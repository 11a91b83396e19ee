"""`edgecompile`: the Hydra entry point. Imports no torch, so that help and config errors come at once."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import hydra
from omegaconf import OmegaConf

from edgecompile import __version__, sweep
from edgecompile.console import run_command, steps, table_console
from edgecompile.domain import to_conf
from edgecompile.errors import UserError
from edgecompile.hydra_app import job, run_app
from edgecompile.schema import Conf

__all__ = ["main"]

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
    from edgecompile.explore.show import plan_tables

    print(f"compiling {conf.model.name} at microbatch {conf.microbatch}", file=sys.stderr, flush=True)
    if conf.weights is None:
        print(f"  weights: random, seed {conf.seed} (weights=FILE loads real ones)", file=sys.stderr, flush=True)
    from edgecompile.pipeline import compile_model

    try:
        os.makedirs(conf.output_dir, exist_ok=True)
        plan = compile_model(conf, steps)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        where = error.filename or conf.output_dir
        raise UserError(f"{where}: {error.strerror}: choose another output_dir, or make room there") from error
    console = table_console()
    for part in plan_tables(plan):
        console.print(part)
    console.print(f"plan written to {os.path.join(conf.output_dir, 'plan.yaml')}", soft_wrap=True)
    return plan.predicted.throughput_items_per_s


def main() -> int:
    """The command: 0 done, 2 the user's error in one line, 130 interrupted."""
    if "--version" in sys.argv[1:]:
        print(f"edgecompile {__version__}")
        return 0
    return run_command("edgecompile", _body)


def _body() -> int:
    sweep.forget()
    run_app(_app)
    return sweep.finish()


def compose(overrides: list[str]) -> Conf:
    """The config that these overrides compose, for programs and tests. Raises UserError as the command does."""
    with hydra.initialize_config_module("edgecompile.conf", version_base="1.3"):
        config = hydra.compose("config", overrides=overrides)
    OmegaConf.resolve(config)
    return to_conf(config)


if __name__ == "__main__":
    sys.exit(main())
