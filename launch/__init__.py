"""Runs the shards of a plan as a torch.distributed pipeline.

Importing this package imports no torch: `--help` and a wrong argument need none.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it: typing takes 10 ms, and the command starts twice
if TYPE_CHECKING:
    from typing import Any

    from edgecompile.contract.errors import UserError
    from edgelaunch.api import Pipeline
    from edgelaunch.common.failures import RankFailedError

    __version__: str

__all__ = ["Pipeline", "RankFailedError", "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Pipeline":
        from edgelaunch.api import Pipeline

        return Pipeline
    if name == "RankFailedError":
        from edgelaunch.common.failures import RankFailedError

        return RankFailedError
    if name == "UserError":
        from edgecompile.contract.errors import UserError

        return UserError
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version  # 50 ms, which few commands need

        try:
            return version("edgecompile")
        except PackageNotFoundError:  # a source tree that was never installed
            return "0+unknown"
    raise AttributeError(f"module 'edgelaunch' has no attribute {name!r}")
