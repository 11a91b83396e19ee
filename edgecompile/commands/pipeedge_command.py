"""The `edgesched` command: PipeEdge's sched-pipeline files and flags, solved by our scheduler."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import replacing
from edgecompile.contract.files.user_files import check_ours, check_overwrite
from edgecompile.contract.quantities import format_items_rate, format_time
from edgecompile.planning.pipeedge_files import (
    CONVERTED,
    Files,
    Request,
    conf_options,
    format_schedule,
    problem_of,
    read_files,
)
from edgecompile.planning.problem import Problem, Schedule
from edgecompile.planning.solver import solve
from edgecompile.terminal.console import run_command
from edgecompile.terminal.encoding import restart_in_utf8
from edgecompile.terminal.options import Parser, add_completion, add_output_options

__all__ = ["main", "make_parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 after an error that the user can fix (one line on stderr)."""
    if argv is None:
        restart_in_utf8()

    def body() -> int:
        _run(make_parser().parse_args(argv))
        return 0

    return run_command("edgesched", body)


def _count(least: int) -> type[int]:
    def parse(text: str) -> int:
        value = int(text)
        if not least <= value < 1 << 31:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} up")
        return value

    parse.__name__ = "whole number"  # what argparse calls it in its message
    return parse  # type: ignore[return-value]


def make_parser() -> argparse.ArgumentParser:
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("edgecompile")
    except PackageNotFoundError:
        number = "not installed"
    parser = Parser(
        prog="edgesched", description="Schedule a model from PipeEdge's three files; print its schedule YAML."
    )
    add = parser.add_argument
    add("--version", action="version", version=f"edgesched {number}")
    add("-m", "--model-name", default="google/vit-base-patch16-224", metavar="NAME", help="default: %(default)s")
    add("-b", "--batch-size", type=_count(1), default=8, metavar="N", help="default: %(default)s")
    add("-d", "--dtype", default="torch.float32", metavar="NAME", help="default: %(default)s")
    add("-i", "--buffers-in", type=_count(0), default=2, metavar="N", help="receive buffers of a stage (default: 2)")
    add("-o", "--buffers-out", type=_count(0), default=2, metavar="N", help="send buffers of a stage (default: 2)")
    add("-M", "--models-file", type=Path, default=Path("models.yml"), metavar="PATH", help="default: %(default)s")
    add(
        "-T",
        "--dev-types-file",
        type=Path,
        default=Path("device_types.yml"),
        metavar="PATH",
        help="default: %(default)s",
    )
    add("-D", "--dev-file", type=Path, default=Path("devices.yml"), metavar="PATH", help="default: %(default)s")
    add("--verbose", action="store_true", help="print what the schedule costs and what is proved about it on stderr")
    add_output_options(parser, json="the schedule with its prediction as JSON instead of YAML")
    add_completion(parser)
    convert = parser.add_argument_group("converting")
    convert.add_argument(
        "--to-conf", type=Path, metavar="DIR", help="write DIR/devices/NAME.yaml and DIR/hosts/NAME.yaml instead"
    )
    convert.add_argument("--conf-name", default="pipeedge", metavar="NAME", help="default: %(default)s")
    convert.add_argument(
        "--flops", type=float, metavar="N", help="operations per item, for models that edgesched does not know"
    )
    return parser


def _run(arguments: argparse.Namespace) -> None:
    request = Request(
        model=arguments.model_name,
        dtype=arguments.dtype,
        batch_size=arguments.batch_size,
        buffers_in=arguments.buffers_in,
        buffers_out=arguments.buffers_out,
    )
    files = read_files(
        request, models=arguments.models_file, types=arguments.dev_types_file, devices=arguments.dev_file
    )
    for warning in () if arguments.quiet else files.warnings:
        print(f"edgesched: warning: {warning}", file=sys.stderr)
    if arguments.to_conf is not None:
        _write_conf(arguments, request, files)
        return
    problem = problem_of(request, files)
    try:
        schedule = solve(problem)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"these files do not describe a valid problem: {error}") from None
    if arguments.verbose:
        proof = schedule.certificate
        print(
            f"edgesched: period {format_time(schedule.period_s, 6)}, "
            f"{format_items_rate(request.batch_size / max(schedule.period_s, 1e-12), 6)}, latency "
            f"{format_time(schedule.latency_s, 6)}; {proof.method}, gap {proof.gap:.4g}",
            file=sys.stderr,
        )
    if arguments.json:
        print(json.dumps(_as_json(request, problem, schedule), indent=1))
        return
    print(format_schedule(problem, schedule), end="", flush=True)


def _as_json(request: Request, problem: Problem, schedule: Schedule) -> dict[str, Any]:
    return {
        "model": request.model,
        "batch_size": request.batch_size,
        "stages": [
            {"host": problem.hosts[stage.host].name, "layers": [stage.first + 1, stage.last + 1],
             "compute_s": stage.compute_s, "send_s": stage.send_s, "memory_bytes": stage.memory_bytes}
            for stage in schedule.stages
        ],
        "predicted": {
            "throughput_items_per_s": request.batch_size / max(schedule.period_s, 1e-12),
            "period_s": schedule.period_s,
            "latency_s": schedule.latency_s,
        },
        "certificate": {"method": schedule.certificate.method, "gap": schedule.certificate.gap},
    }  # fmt: skip


def _write_conf(arguments: argparse.Namespace, request: Request, files: Files) -> None:
    name = arguments.conf_name
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"--conf-name {name}: letters, digits, - and _ only")
    if arguments.flops is not None and not 0 < arguments.flops < 1e30:
        raise UserError(f"invalid value {arguments.flops} for --flops: expected a number greater than 0")
    texts = conf_options(request, files, item_flops=arguments.flops)
    read = [(arguments.models_file, "the models file"), (arguments.dev_types_file, "the device types file"),
            (arguments.dev_file, "the devices file")]  # fmt: skip
    paths = [arguments.to_conf / group / f"{name}.yaml" for group in ("devices", "hosts")]
    for path in paths:
        check_overwrite(path, "--to-conf", read)
        check_ours(path, CONVERTED.strip(), "config that edgesched converted", "choose another --conf-name")
    written = []
    for path, text in zip(paths, texts, strict=True):
        try:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot write it: {error.strerror}") from None
        written.append(str(path))
    if arguments.json:
        print(json.dumps({"files": written}, indent=1))
    elif not arguments.quiet:
        print(*written, sep="\n")
