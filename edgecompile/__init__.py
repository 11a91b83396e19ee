"""Compile one neural network into a pipeline over unequal edge devices.

    plan = edgecompile.compile(module, {"x": example}, hosts={"members": {...}})
    with edgelaunch.Pipeline(plan) as pipeline: ...

Importing this package imports neither torch nor Hydra: ranks and `--help` need neither of them at once.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it: typing takes 10 ms
if TYPE_CHECKING:
    from typing import Any

    from edgecompile.api.compiling import CompiledPlan, compile
    from edgecompile.api.simulating import simulate
    from edgecompile.api.solving import Partition, problem, solve
    from edgecompile.contract.errors import UserError
    from edgecompile.contract.plan import Plan
    from edgecompile.contract.plan_file import read_plan
    from edgecompile.planning.problem import Infeasible, Problem

    __version__: str

__all__ = [
    "CompiledPlan", "Infeasible", "Partition", "Plan", "Problem", "UserError", "__version__", "compile", "problem",
    "read_plan", "simulate", "solve",
]  # fmt: skip

_MODULES = {
    "CompiledPlan": "api.compiling",
    "compile": "api.compiling",
    "simulate": "api.simulating",
    "Partition": "api.solving",
    "problem": "api.solving",
    "solve": "api.solving",
    "UserError": "contract.errors",
    "Plan": "contract.plan",
    "read_plan": "contract.plan_file",
    "Infeasible": "planning.problem",
    "Problem": "planning.problem",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"edgecompile.{_MODULES[name]}"), name)
    if name != "__version__":
        raise AttributeError(f"module 'edgecompile' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version  # 50 ms, which few commands need

    try:
        return version("edgecompile")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
