"""Run the shards of a plan as a torch.distributed pipeline.

Importing this package imports no torch: `--help` and a wrong argument need none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgelaunch.api import Pipeline

__all__ = ["Pipeline", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Pipeline":
        from edgelaunch.api import Pipeline

        return Pipeline
    if name == "__version__":
        import edgecompile

        return edgecompile.__version__
    raise AttributeError(f"module 'edgelaunch' has no attribute {name!r}")
