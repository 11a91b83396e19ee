"""Checks, before anything runs, that the files a request names exist and nothing overwrites an input."""

from __future__ import annotations

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.request.run_request import RunRequest

__all__ = ["check_run"]


def check_run(request: RunRequest, plan: Plan) -> None:
    """Raises UserError where there is no such input, or an output would overwrite something. Imports no torch."""
    if request.input is not None and not request.from_stdin and not request.input.exists():
        raise UserError(f"{request.input}: no such input")
    if request.run is not None and not request.run.absolute().parent.is_dir():
        raise UserError(f"{request.run}: its folder does not exist: create it, or name another --run")
    if request.api_key_file is not None and request.web is None:
        raise UserError("--api-key-file is the key of the page that --web serves: add --web PORT")
    if request.metrics_port is not None:
        from edgelaunch.report.metrics import check_installed

        check_installed()
    if not request.has_data_host:
        return
    if request.output is not None and plan.generation is not None and request.output.suffix.lower() != ".jsonl":
        raise UserError(f"{request.output}: answers are written as .jsonl: name such a file")
    if request.output is not None:
        from edgelaunch.outputs.result_files import check_output

        check_output(plan, request.output)
    from edgelaunch.outputs.overwrite import check_written

    check_written(request, plan)
