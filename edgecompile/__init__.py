"""Compile one neural network into a pipeline over unequal edge devices.

Importing this package imports neither torch nor Hydra: ranks and `--help` need neither of them at once.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("edgecompile")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
