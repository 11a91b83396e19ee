"""Finds the line of the user's source for a graph node, for error messages (`my_model.py:12`)."""

from __future__ import annotations

import functools
import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import fx

import edgecompile
from edgecompile.frontend.capture.graphs import op_name

__all__ = ["calling_line", "failing_call", "first_line", "node_place", "operator_at", "users_frames"]

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_INSTALLED = ("site-packages", "dist-packages")
_OWN = Path(edgecompile.__file__).parent
_TORCH = Path(torch.__file__).parent
_STANDARD = Path(sysconfig.get_paths()["stdlib"])


def node_place(node: fx.Node) -> str:
    """The innermost line of the user's that made this node, as `FILE:LINE`; empty where the graph does not say."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    return next((_place(file, int(line)) for file, line in reversed(frames) if _is_users(file)), "")


def operator_at(node: fx.Node) -> str:
    """`nonzero at my_model.py:12`, or the operator's name alone."""
    place = node_place(node)
    return f"{op_name(node) or node.target} at {place}" if place else f"{op_name(node) or node.target}"


def failing_call(error: BaseException, operator: str | None) -> str:
    """`bool at my_model.py:12` of an error that a model's code raised; empty where no line of the user's is in it.

    Args:
        operator: what torch was asked for, where that is known; else what the user's line called tells.
    """
    frames = traceback.extract_tb(error.__traceback__)
    inner = max((index for index, frame in enumerate(frames) if _is_users(frame.filename)), default=None)
    if inner is None:
        return ""
    if operator is None and inner + 1 < len(frames):
        operator = frames[inner + 1].name
    place = _place(frames[inner].filename, frames[inner].lineno or 0)
    name = _readable(operator or "")
    return f"{name} at {place}" if name else place


def calling_line() -> str:
    """The innermost line of the user's that runs now, as `FILE:LINE`; empty where there is none."""
    frames = [frame for frame in traceback.extract_stack() if _is_users(frame.filename)]
    return _place(frames[-1].filename, frames[-1].lineno or 0) if frames else ""


def _readable(operator: str) -> str:
    """`bool` for `__bool__`; nothing for the ways of torch's that every call of a module goes."""
    if operator in ("__torch_function__", "__torch_dispatch__", "_wrapped_call_impl", "_call_impl", "__call__"):
        return ""
    return operator.removesuffix(".default").strip("_")


@contextmanager
def users_frames() -> Iterator[None]:
    """While a tracer runs, nodes keep all frames of the user's; torch.export would keep `forward` functions alone."""
    if not hasattr(fx.proxy.TracerBase, "_filter_traceback_frames"):  # before torch 2.9: all are kept
        yield
        return

    def keep(tracer: object, frames: traceback.StackSummary) -> traceback.StackSummary:
        return traceback.StackSummary.from_list([frame for frame in frames if _is_users(frame.filename)])

    with patch.object(fx.proxy.TracerBase, "_filter_traceback_frames", keep):  # which torch means to be overridden
        yield


@functools.cache
def _is_users(file: str) -> bool:
    if not file.endswith(".py"):
        return False
    path = Path(file)
    if path.is_relative_to(_TORCH) or path.is_relative_to(_OWN):
        return False
    return not path.is_relative_to(_STANDARD) or any(part in _INSTALLED for part in path.parts)


def _place(file: str, line: int) -> str:
    """Below the working directory or an installation as from there, so that the line stays short."""
    path = Path(file)
    if path.is_relative_to(Path.cwd()) and not any(part in _INSTALLED for part in path.parts):
        path = path.relative_to(Path.cwd())
    for part in _INSTALLED:
        if part in path.parts:
            path = Path(*path.parts[path.parts.index(part) + 1 :])
    return f"{path}:{line}"


def first_line(error: BaseException | None) -> str:
    """Of an error's message, which torch's may take pages for."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
