"""Leaves the program that compiles as it was: random numbers, torch's settings, warnings, where modules are found."""

from __future__ import annotations

import random
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from edgecompile.contract.errors import UserError

__all__ = ["undisturbed"]

_LOCK = threading.RLock()
"""What is kept here is the process's, not a thread's; who reports progress may compile, too."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, torch is as a command has it; afterwards, as it was. One thread at a time: others wait.

    Raises:
        UserError: a package that compiling needs is missing.
    """
    with _LOCK, ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.callback(sys.path.__setitem__, slice(None), list(sys.path))
        stack.callback(random.setstate, random.getstate())
        _check_packages()
        _keep_numpy(stack)
        _keep_torch(stack)
        if "transformers" in sys.modules:
            _keep_transformers(stack)
        yield


def _check_packages() -> None:
    try:
        import hydra  # noqa: F401
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed, and compiling needs it", fix="pip install 'edgecompile[compile]'"
        ) from error


def _keep_numpy(stack: ExitStack) -> None:
    import numpy as np

    stack.callback(np.random.set_state, np.random.get_state())


def _keep_torch(stack: ExitStack) -> None:
    import torch

    mha: Any = torch.backends.mha
    cuda: Any = torch.cuda
    stack.callback(torch.set_rng_state, torch.get_rng_state())
    if cuda.is_initialized():
        stack.callback(cuda.set_rng_state_all, cuda.get_rng_state_all())
    stack.callback(mha.set_fastpath_enabled, mha.get_fastpath_enabled())
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float32)
    stack.callback(_set_threads, torch.get_num_threads())
    # functions that torch.compile decorates run as they are: the compiler says so only where it meets torch.compile
    stack.enter_context(torch.compiler.set_stance("force_eager"))
    for context in (torch.device("cpu"), torch.inference_mode(False), torch.enable_grad(),
                    torch.autocast("cpu", enabled=False)):  # fmt: skip
        stack.enter_context(context)


def _set_threads(count: int) -> None:
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _keep_transformers(stack: ExitStack) -> None:
    from transformers.utils import logging

    stack.callback(logging.set_verbosity, logging.get_verbosity())
    if logging.is_progress_bar_enabled():
        stack.callback(logging.enable_progress_bar)
