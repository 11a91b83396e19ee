"""Run the shards of a plan as a torch.distributed pipeline.

Importing this package imports no torch: `--help` and a wrong argument need none.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgelaunch.api import Pipeline

try:
    __version__ = version("edgecompile")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["Pipeline", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Pipeline":
        from edgelaunch.api import Pipeline

        return Pipeline
    raise AttributeError(f"module 'edgelaunch' has no attribute {name!r}")
