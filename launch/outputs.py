"""Turns `--output` into a file: .npy, .npz or .jsonl, complete or not there at all."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecompile.plan import Plan, TensorSpec, UserError
from edgelaunch.items import Entry
from edgelaunch.labels import label_name, top_labels

__all__ = ["Writer", "as_numpy", "check_output", "open_writer", "temporary_path"]

SUFFIXES = (".npy", ".npz", ".jsonl")


class Writer(Protocol):
    """Takes results in order; `finish` gives the file its name, `discard` leaves nothing."""

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None: ...
    def finish(self) -> None: ...
    def discard(self) -> None: ...


def check_output(plan: Plan, path: Path) -> None:
    """Before anything runs.

    Raises:
        UserError: the suffix is unknown, a .npy cannot hold the model's outputs, or the file cannot be written there.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: an output of an unknown kind: it must end in {', '.join(SUFFIXES)}")
    if suffix == ".npy" and len(plan.outputs) > 1:
        names = ", ".join(spec.name for spec in plan.outputs)
        raise UserError(f"{path}: a .npy holds one array and the model gives {names}: name a .npz or .jsonl")
    if path.is_dir():
        raise UserError(f"{path}: is a folder: name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise UserError(f"{path}: cannot be written: permission denied")


def temporary_path(path: Path, process: int) -> Path:
    """Where a process writes until the run is complete."""
    return path.with_name(f".{path.name}.{process}.tmp")


def open_writer(plan: Plan, path: Path) -> Writer:
    """Raises UserError where the file cannot be written."""
    check_output(plan, path)
    try:
        if path.suffix.lower() == ".jsonl":
            return _JsonWriter(plan, path)
        return _ArrayWriter(plan, path)
    except OSError as error:
        raise _cannot_write(path, error) from None


def as_numpy(tensor: Any) -> NDArray[Any]:
    """A tensor as an array; numpy has no bfloat16, so that becomes float32."""
    return np.asarray(tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy())


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written: {error.strerror or error}")


class _ArrayFile:
    """A .npy that grows: numpy pads its header so that the number of rows can be filled in at the end."""

    def __init__(self, path: Path, spec: TensorSpec) -> None:
        dtype = "float32" if spec.dtype == "bfloat16" else spec.dtype
        self._header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (0, *spec.shape[1:])}
        self.path = path
        self._rows = 0
        self._file: BinaryIO = path.open("wb")
        np.lib.format.write_array_header_1_0(self._file, self._header)
        self._header_bytes = self._file.tell()

    def add(self, tensor: Any) -> None:
        self._file.write(np.ascontiguousarray(as_numpy(tensor)).tobytes())
        self._rows += 1

    def close(self) -> None:
        self._file.seek(0)
        shape = (self._rows, *self._header["shape"][1:])  # type: ignore[index]
        np.lib.format.write_array_header_1_0(self._file, {**self._header, "shape": shape})
        assert self._file.tell() == self._header_bytes, "numpy's header grew"
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class _ArrayWriter:
    """.npy with one array, (items, ...); .npz with one an output, by its name."""

    def __init__(self, plan: Plan, path: Path) -> None:
        self._path, self._temporary = path, temporary_path(path, os.getpid())
        single = path.suffix.lower() == ".npy"
        self._files = {
            spec.name: _ArrayFile(self._temporary if single else self._part(number), spec)
            for number, spec in enumerate(plan.outputs)
        }

    def _part(self, number: int) -> Path:
        return self._temporary.with_name(f"{self._temporary.name}{number}")

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        try:
            for name, file in self._files.items():
                file.add(outputs[name])
        except OSError as error:
            raise _cannot_write(self._path, error) from None

    def finish(self) -> None:
        try:
            for file in self._files.values():
                file.close()
            if self._path.suffix.lower() == ".npz":
                with zipfile.ZipFile(self._temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                    for name, file in self._files.items():
                        archive.write(file.path, f"{name}.npy")
                        file.path.unlink()
            os.replace(self._temporary, self._path)
        except OSError as error:
            raise _cannot_write(self._path, error) from None

    def discard(self) -> None:
        for file in self._files.values():
            file.discard()
        self._temporary.unlink(missing_ok=True)


class _JsonWriter:
    """One object an item: `index`, `name` or `text` where known, then `outputs`, or `label`, `score` and `top`."""

    def __init__(self, plan: Plan, path: Path) -> None:
        self._plan, self._path, self._temporary = plan, path, temporary_path(path, os.getpid())
        self._file = self._temporary.open("w", encoding="utf-8")

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        record: dict[str, Any] = {"index": entry.index}
        if entry.name is not None:
            record["text" if self._plan.data.kind == "text" else "name"] = entry.name
        if entry.label is not None:
            record["true_label"] = label_name(self._plan.data, entry.label)
        data = self._plan.data
        if data.result == "labels" and data.scores is not None:
            top = top_labels(data, as_numpy(outputs[data.scores]))
            record |= {"label": top[0][0], "score": _json_value(top[0][1])}
            record["top"] = [{"label": label, "score": _json_value(score)} for label, score in top]
        else:
            record["outputs"] = {name: _json_value(as_numpy(tensor).tolist()) for name, tensor in outputs.items()}
        try:
            self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        except OSError as error:
            raise _cannot_write(self._path, error) from None

    def finish(self) -> None:
        try:
            self._file.close()
            os.replace(self._temporary, self._path)
        except OSError as error:
            raise _cannot_write(self._path, error) from None

    def discard(self) -> None:
        try:
            self._file.close()
        finally:
            self._temporary.unlink(missing_ok=True)


def _json_value(value: Any) -> Any:
    """JSON has no NaN and no infinity: both become null."""
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
