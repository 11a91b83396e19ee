"""Compile one neural network into a pipeline over unequal edge devices.

Importing this package imports neither torch nor Hydra: ranks and `--help` need neither of them at once.
"""

from typing import Any

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    if name != "__version__":
        raise AttributeError(f"module 'edgecompile' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version  # 50 ms, which few commands need

    try:
        return version("edgecompile")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
