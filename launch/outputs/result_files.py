"""Writes `--output` as .npy, .npz or .jsonl, complete or not at all; PATH.partial until then."""

from __future__ import annotations

import contextlib
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.user_files import check_overwrite, printable
from edgecompile.contract.plan import Plan, TensorSpec
from edgelaunch.common.items import Entry
from edgelaunch.inputs.labels import NO_LABEL, label_name, top_labels
from edgelaunch.outputs.partial_results import ROWS, WHOLE, Origin, Partial, check_partial

__all__ = ["Writer", "as_numpy", "check_output", "open_writer"]

SUFFIXES = (".npy", ".npz", ".jsonl")


class Writer(Protocol):
    """Takes results in order; `finish` gives the file its name."""

    next_index: int
    """The first item whose result is not there; greater than 0 where an earlier run is resumed."""

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None: ...
    def finish(self) -> None: ...
    def discard(self, keep: bool = True) -> None:
        """The run failed: leaves nothing but what --resume needs, and that only with `keep`."""


def check_output(plan: Plan, path: Path) -> None:
    """Before anything runs.

    Raises:
        UserError: the suffix is unknown, a .npy cannot hold the model's outputs, or the file cannot be written there.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of output: expected a name that ends in {', '.join(SUFFIXES)}")
    if suffix == ".npy" and len(plan.outputs) > 1:
        names = ", ".join(spec.name for spec in plan.outputs)
        raise UserError(f"{path}: a .npy holds one array and the model gives {names}: name a .npz or .jsonl")
    if path.is_dir():
        raise UserError(f"{path}: is a folder: name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise UserError(f"{path}: cannot be written: permission denied")
    check_overwrite(path, "--output", ())
    check_partial(path)


def open_writer(plan: Plan, path: Path, origin: Origin | None = None, *, resume: bool = False) -> Writer:
    """A writer for PATH. What it writes is in PATH.partial until it is complete.

    Args:
        origin: what the results come from; None: no run will resume them.
        resume: continue from an earlier run's PATH.partial, if there is one.

    Raises:
        UserError: the file cannot be written, or `resume` and the earlier run had another plan or input.
    """
    check_output(plan, path)
    try:
        partial = Partial(path, origin, resume=resume)
        if path.suffix.lower() == ".jsonl":
            return _JsonWriter(plan, partial)
        return _ArrayWriter(plan, partial)
    except OSError as error:
        raise _cannot_write(path, error) from None


def as_numpy(tensor: Any) -> NDArray[Any]:
    """A tensor as an array; numpy has no bfloat16, so that becomes float32."""
    return np.asarray(tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy())


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written: {error.strerror or error}")


class _ArrayFile:
    """A .npy that grows: numpy pads its header so that the number of rows can be filled in at the end.

    Rows have the output's largest shape; where an item's own is smaller, zeros fill what is beyond it.
    """

    def __init__(self, path: Path, spec: TensorSpec) -> None:
        dtype = np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)
        self._header = {"descr": dtype.str, "fortran_order": False, "shape": (0, *spec.shape[1:])}
        self.path = path
        self.row_bytes = math.prod(spec.shape[1:]) * dtype.itemsize
        self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        self._write_header(0)
        self._header_bytes = self._file.tell()
        self.rows = 0

    @property
    def num_whole_rows(self) -> int:
        size = self._file.seek(0, os.SEEK_END) - self._header_bytes
        return max(0, size) // self.row_bytes if self.row_bytes else 0

    def cut(self, rows: int) -> None:
        """Drops what comes after so many rows: a torn one, or one that another output lacks."""
        self.rows = rows
        self._file.truncate(self._header_bytes + rows * self.row_bytes)
        self._file.seek(0, os.SEEK_END)

    def add(self, tensor: Any) -> None:
        row, shape = as_numpy(tensor), self._header["shape"][1:]  # type: ignore[index]
        if row.shape != shape:
            row = np.pad(row, [(0, largest - extent) for extent, largest in zip(row.shape, shape, strict=True)])
        self._file.write(np.ascontiguousarray(row).tobytes())
        self._file.flush()
        self.rows += 1

    def add_gap(self) -> None:
        """A row for an item without a result: NaN; zeros where there is none."""
        shape = self._header["shape"][1:]  # type: ignore[index]
        dtype = np.dtype(str(self._header["descr"]))
        self._file.write(np.full(shape, np.nan if dtype.kind == "f" else 0, dtype).tobytes())
        self._file.flush()
        self.rows += 1

    def finish(self) -> None:
        self._write_header(self.rows)
        assert self._file.tell() == self._header_bytes, "numpy's header grew"
        self._file.close()

    def close(self) -> None:
        self._file.close()

    def _write_header(self, rows: int) -> None:
        self._file.seek(0)
        shape = (rows, *self._header["shape"][1:])  # type: ignore[index]
        np.lib.format.write_array_header_1_0(self._file, {**self._header, "shape": shape})


class _ArrayWriter:
    """.npy with one array, (items, ...); .npz with one an output, by its name."""

    def __init__(self, plan: Plan, partial: Partial) -> None:
        self._path, self._partial = partial.path, partial
        self._files = {
            spec.name: _ArrayFile(partial.folder / f"{number}.npy", spec) for number, spec in enumerate(plan.outputs)
        }
        rows = min(file.num_whole_rows for file in self._files.values()) if partial.resumes else 0
        for file in self._files.values():
            file.cut(rows)
        self.next_index = rows

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        try:
            for name, file in self._files.items():
                if entry.error is None:
                    file.add(outputs[name])
                else:
                    file.add_gap()
        except OSError as error:
            raise _cannot_write(self._path, error) from None

    def finish(self) -> None:
        try:
            for file in self._files.values():
                file.finish()
            name = "0.npy"
            if self._path.suffix.lower() == ".npz":
                name = WHOLE
                with zipfile.ZipFile(self._partial.folder / name, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                    for output, file in self._files.items():
                        archive.write(file.path, f"{output}.npy")
            self._partial.finish(name)
        except OSError as error:
            raise _cannot_write(self._path, error) from None

    def discard(self, keep: bool = True) -> None:
        rows = min(file.rows for file in self._files.values())
        for file in self._files.values():
            with contextlib.suppress(OSError):  # the disk may be full: what is lost is computed again
                file.close()
        _discard(self._partial, keep and rows > 0)


class _JsonWriter:
    """One object an item: `index`, `name` or `text` where known; `outputs`, or `label`, `score`, `top`, or `error`."""

    def __init__(self, plan: Plan, partial: Partial) -> None:
        self._plan, self._path, self._partial = plan, partial.path, partial
        file = partial.folder / ROWS
        self.next_index = _cut_torn(file) if partial.resumes and file.exists() else 0
        self._file = file.open("a", encoding="utf-8")

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        record: dict[str, Any] = {"index": entry.index}
        if entry.name is not None:
            record["text" if self._plan.data.kind == "text" else "name"] = printable(entry.name)
        if entry.label is not None:
            record["true_label"] = label_name(self._plan.data, entry.label)
        data = self._plan.data
        if entry.error is not None:
            record["error"] = printable(entry.error)
        elif data.result == "labels" and data.scores is not None:
            top = top_labels(data, as_numpy(outputs[data.scores]))
            label, score = top[0] if top else (None, None)
            record |= {"label": label, "score": _json_value(score)}
            if not top:
                record["error"] = NO_LABEL
            record["top"] = [{"label": label, "score": _json_value(score)} for label, score in top]
        else:
            record["outputs"] = {name: _json_value(as_numpy(tensor).tolist()) for name, tensor in outputs.items()}
        try:
            self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise _cannot_write(self._path, error) from None
        self.next_index = entry.index + 1

    def finish(self) -> None:
        try:
            self._file.close()
            self._partial.finish(ROWS)
        except OSError as error:
            raise _cannot_write(self._path, error) from None

    def discard(self, keep: bool = True) -> None:
        with contextlib.suppress(OSError):  # the disk may be full: what is lost is computed again
            self._file.close()
        _discard(self._partial, keep and self.next_index > 0)


def _discard(partial: Partial, keep: bool) -> None:
    if keep and partial.resumable:
        partial.close()
    else:
        partial.remove()


def _cut_torn(path: Path) -> int:
    """Drops a last record that is not whole, and returns the index of the first item that has none."""
    following = end = 0
    with path.open("r+b") as file:
        for line in file:
            try:
                index = int(json.loads(line)["index"]) if line.endswith(b"\n") else None
            except (ValueError, KeyError, TypeError):
                index = None
            if index is None:
                break
            following, end = index + 1, end + len(line)
        file.truncate(end)
    return following


def _json_value(value: Any) -> Any:
    """JSON has no NaN and no infinity: both become null."""
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
