"""That torch.jit is deprecated is left out, whatever the filters say, and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgecompile.execution import torchscript


def deprecated(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """As torch 2.14 has it."""

    def warned(*arguments: Any, **options: Any) -> Any:
        text = f"`torch.jit.{name}` is deprecated. Please switch to `torch.compile` or `torch.export`."
        warnings.warn(text, FutureWarning, stacklevel=2)
        return function(*arguments, **options)

    return warned


def test_deprecation_alone_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("trace", "freeze", "save", "load"):
        monkeypatch.setattr(torch.jit, name, deprecated(name, getattr(torch.jit, name)))
    path, extra = tmp_path / "shard.pt", {"rows": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        traced = torchscript.trace(torch.nn.Linear(2, 2).eval(), torch.zeros(1, 2))
        warnings.simplefilter("error")  # as pytest, or a user, does in between
        torchscript.save(torchscript.freeze(traced), path, {"rows": "[1]"})
        warnings.simplefilter("error")
        loaded = torchscript.load(path, extra=extra)
        assert extra == {"rows": b"[1]"}
        assert torch.equal(loaded(torch.ones(1, 2)), traced(torch.ones(1, 2)))
        with pytest.raises(FutureWarning, match="something else"):
            warnings.warn("`torch.something else` is deprecated", FutureWarning, stacklevel=1)
