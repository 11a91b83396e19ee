"""Reads weights files into named tensors, without executing anything that a file contains."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgecompile.contract.errors import UserError, choices
from edgecompile.models.gguf_files import gguf_tensors, is_gguf

__all__ = ["PICKLES", "Stored", "is_known", "read_stored"]

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""What torch.save writes. Read with weights_only=True: tensors and plain containers, no code."""

_WHOLE = ("model.safetensors", "pytorch_model.bin")
"""The file of a save_pretrained directory; with `.index.json` behind its name, the list of its parts."""
_MOST_LISTED = 8


@dataclass(frozen=True, kw_only=True)
class Stored:
    tensors: dict[str, torch.Tensor]
    files: tuple[Path, ...]
    """Those that the tensors were read from."""
    mapped: tuple[torch.Tensor, ...] = ()
    """Of the tensors those that are parts of mapped files."""


def is_known(path: Path) -> bool:
    """Whether `read_stored` reads a path of this kind."""
    return path.is_dir() or is_gguf(path) or path.suffix == ".safetensors" or path.suffix in PICKLES


def read_stored(path: Path) -> Stored:
    """The tensors of a .safetensors file, of one that torch.save wrote, or of a `save_pretrained` directory.

    Raises:
        UserError: a file is missing, damaged, or holds more than tensors.
    """
    if is_gguf(path):
        return Stored(tensors=gguf_tensors(path), files=(path,))
    files = _files_of(path) if path.is_dir() else [path]
    tensors: dict[str, torch.Tensor] = {}
    mapped: list[torch.Tensor] = []
    for file in files:
        found = _reader(file)(file)
        tensors.update(found)
        mapped += found.values() if file.suffix == ".safetensors" else ()
    for name, value in tensors.items():
        if value.is_quantized or value.layout is not torch.strided:
            kind = "quantised" if value.is_quantized else str(value.layout).removeprefix("torch.")
            raise UserError(f"weights: {path}: the tensor {name} is {kind}: give the weights as plain dense floats")
    return Stored(tensors=tensors, files=tuple(files), mapped=tuple(mapped))


def _reader(file: Path) -> Callable[[Path], dict[str, torch.Tensor]]:
    return _from_safetensors if file.suffix == ".safetensors" else _from_pickle


def _files_of(folder: Path) -> list[Path]:
    for whole in _WHOLE:
        index = folder / f"{whole}.index.json"
        if index.is_file():
            names = _names_in(index)
            break
        if (folder / whole).is_file():
            names = [whole]
            break
    else:
        raise UserError(f"weights: {folder} has no {' or '.join(_WHOLE)}: name a directory that save_pretrained wrote")
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"weights: {folder} has no {name}: name a directory that save_pretrained wrote")
        if Path(name).suffix not in (".safetensors", *PICKLES):
            raise UserError(f"weights: {folder}: {name} is of an unknown kind: its index is damaged, copy it again")
    return [folder / name for name in names]


def _names_in(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        raise UserError(f"weights: {index}: not a readable index of shards: copy it again") from None
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise UserError(f"weights: {index}: names no files, or files outside its own directory")
    return names


def _from_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"weights: {path}: not a readable .safetensors file ({error}): copy it again") from None


# --- what torch.save wrote -----------------------------------------------------------------------------------------


def _from_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript archives torch.load says in its error what they are
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zipfile raise a dozen kinds for a damaged file
        raise _unreadable(path, str(error) or type(error).__name__) from None
    return _state_of(content, path)


def _unreadable(path: Path, said: str) -> UserError:
    if "TorchScript" in said:
        return UserError(f"weights: {path}: a TorchScript module, not weights: save model.state_dict() instead")
    found = re.search(r"(?:GLOBAL|global:?|class) ([A-Za-z_][\w.]*\.\w+)", said)
    if found:
        return UserError(
            f"weights: {path}: holds Python objects ({found[1]}), which could run code while they load: save the "
            "tensors alone, with torch.save(model.state_dict(), ...) or safetensors"
        )
    cause = re.search(r"WeightsUnpickler error: (.+)", said)
    why = cause[1].strip() if cause else "not plain tensors" if "weights_only" in said else said.splitlines()[0]
    return UserError(f"weights: {path}: not a file of weights that torch.save wrote ({why}): copy it again")


def _state_of(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict: the content itself, or the one mapping of tensors in it, as training loops write it."""
    inner = {str(key): _tensors(value) for key, value in content.items()} if isinstance(content, Mapping) else {}
    found = {key: tensors for key, tensors in inner.items() if tensors}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise UserError(f"weights: {path} holds several sets of weights, {choices(found)}: save the one you mean alone")
    state = _tensors(content)
    if state:
        return state
    keys = sorted(inner)[:_MOST_LISTED]
    what = f"a mapping of {', '.join(keys) or 'nothing'}" if isinstance(content, Mapping) else type(content).__name__
    raise UserError(f"weights: {path}: holds no tensors by name, but {what}: save model.state_dict()")


def _tensors(content: Any) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        return {}
    pairs = [(name, value) for name, value in content.items() if isinstance(value, torch.Tensor)]
    return {name: value.detach() for name, value in pairs if isinstance(name, str)}
