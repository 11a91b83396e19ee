"""The only caller of torch.jit; suppresses its deprecation warnings.

Torch warns at every call that torch.jit is deprecated, from 2.14 on so that every user sees it (FutureWarning). Who
runs a plan cannot do anything about that: its shards are TorchScript, the one format that torch 2.6 and torch 2.14 both
read, while pt2 needs a torch as new as the compiler's (`artifact=pt2` is there for who has that everywhere). So these
messages are left out, and no others.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

import torch

__all__ = [
    "freeze",
    "graph_of",
    "load",
    "plain_execution",
    "save",
    "save_graph",
    "script",
    "silence_deprecation",
    "trace",
    "why_unusable",
]

DEPRECATION = r"`torch\.jit\.\w+` is (deprecated|not supported)"


def silence_deprecation() -> None:
    """Before whatever calls torch.jit: the filter is put in front of those that came since, in any thread."""
    warnings.filterwarnings("ignore", message=DEPRECATION)


def why_unusable() -> str:
    """Why torch.jit cannot be used here: a later torch may lack it. Empty: it can."""
    try:
        freeze(trace(torch.nn.Identity().eval(), (torch.zeros(1),)))
    except Exception as error:  # whatever it raises
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return ""


def plain_execution() -> AbstractContextManager[Any]:
    """TorchScript runs graphs as they are stored: a frozen one leaves its optimiser nothing to gain.

    The profiled copy of a graph that it would run instead keeps tensors alive for longer: half a resnet50 at microbatch
    8 took 70 MB more.
    """
    jit: Any = getattr(torch, "jit", None)
    try:
        context: AbstractContextManager[Any] = jit.optimized_execution(False)
    except Exception:  # a torch without it: shards are pt2 there
        return nullcontext()
    return context


def trace(module: torch.nn.Module, examples: Any) -> Any:
    """A module as TorchScript, as these examples run through it; nothing is run twice to compare."""
    silence_deprecation()
    return torch.jit.trace(module, examples, check_trace=False, strict=False)  # type: ignore[no-untyped-call]


def script(function: Any) -> Any:
    """A function as TorchScript."""
    silence_deprecation()
    return torch.jit.script(function)


def freeze(module: Any) -> Any:
    """Its weights become constants."""
    silence_deprecation()
    return torch.jit.freeze(module)


def save(module: Any, file: str | Path | IO[bytes], extra: dict[str, str] | None = None) -> None:
    """`extra`: texts to keep beside it, by name."""
    silence_deprecation()
    torch.jit.save(module, file, _extra_files=extra)


def save_graph(graph: Any, file: Path, extra: dict[str, str]) -> None:
    """A graph without a module's own input, as the method `forward` of an empty module."""
    silence_deprecation()
    torch._C._create_function_from_graph("forward", graph).save(str(file), extra)  # type: ignore[arg-type]  # texts will do


def load(file: str | Path | IO[bytes], device: str = "cpu", extra: dict[str, str] | None = None) -> Any:
    """`extra`: its values become the texts that were saved under its keys."""
    silence_deprecation()
    return torch.jit.load(file, map_location=device, _extra_files=extra)  # type: ignore[no-untyped-call]


@functools.cache
def graph_of(function: Callable[..., torch.Tensor]) -> Any:
    """A function's graph, to be put into others."""
    return script(function).graph
