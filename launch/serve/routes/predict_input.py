"""Items of a request's body: JSON, sentences, images, .npy and .safetensors."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import AsyncGenerator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from edgecompile.contract.errors import UserError
from edgecompile.contract.model_facts import ModelFacts
from edgelaunch.inputs.given_items import GivenItems
from edgelaunch.serve.http.api_error import ApiError
from edgelaunch.serve.routes.json_bodies import read_object

__all__ = ["NPY", "SAFETENSORS", "form_images", "items_of"]

NPY, SAFETENSORS = "application/x-npy", "application/x-safetensors"
KINDS = f"application/json, {NPY}, {SAFETENSORS}, image/*, multipart/form-data"
TAKEN = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64")
"""Of .safetensors: those that numpy has."""
MOST_HEADER_CHARACTERS = 10_000
Items = list[dict[str, Any]]
"""For each item an array for each input, as Item has them."""


def items_of(plan: ModelFacts, given: GivenItems, kind: str, body: bytearray, most: int) -> tuple[Items, Any]:
    """Args:
        kind: the body's content type, without parameters.
        body: arrays may be views of it.
        most: items.

    Returns:
        The items, and the model that was asked for, if one was.

    Raises:
        ApiError, UserError: the body is of another kind, or does not hold what the model takes.
    """
    model = None
    if kind == "application/json":
        found, model = _json_items(plan, given, read_object(body), most)
    elif kind == NPY:
        if len(plan.inputs) > 1:
            names = ", ".join(spec.name for spec in plan.inputs)
            raise ApiError(400, f"a .npy holds one array and the model takes {names}: send {SAFETENSORS}")
        found = _rows(plan, given, {plan.inputs[0].name: read_npy(body)}, most)
    elif kind == SAFETENSORS:
        found = _rows(plan, given, _safetensors(body), most)
    elif kind.startswith("image/"):
        found = [given.image_file(bytes(body), "image 0")]
    else:
        raise ApiError(415, f"content type {kind[:100] or 'none'!r}: expected one of {KINDS}", code="content_type")
    for index, item in enumerate(found):
        _check_finite(item, index)
    return found, model


async def form_images(given: GivenItems, headers: Headers, body: bytearray, most: int) -> list[bytes]:
    """The files of a form. Raises ApiError 400 where it is none, or has none."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield bytes(body)
        yield b""

    try:
        parser = MultiPartParser(headers, pieces(), max_files=most, max_fields=16)
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", None) or str(error) or type(error).__name__
        raise ApiError(400, f"the form cannot be read: {reason}") from None
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise ApiError(400, "the form holds no file: send each image as one")
    found = [await file.read() for file in files]
    await form.close()
    return found


def _json_items(plan: ModelFacts, given: GivenItems, body: dict[str, Any], most: int) -> tuple[Items, Any]:
    model = body.pop("model", None)
    if len(body) != 1 or not set(body) <= {"inputs", "items", "texts"}:
        keys = ", ".join(sorted(map(str, body)))[:200] or "none of them"
        raise ApiError(400, f"expected one of inputs, items and texts, not {keys}")
    ((key, value),) = body.items()
    rows = {"inputs": _columns, "items": _items, "texts": _texts}[key](plan, value)
    _check_count(len(rows), most)
    if key == "texts":
        return [given.sentence(row, f"text {index}") for index, row in enumerate(rows)], model
    return [given.lists(row, f"item {index}") for index, row in enumerate(rows)], model


def _columns(plan: ModelFacts, value: Any) -> list[Any]:
    names = [spec.name for spec in plan.inputs]
    columns = {names[0]: value} if isinstance(value, list) and len(names) == 1 else value
    if not isinstance(columns, Mapping) or not all(isinstance(column, list) for column in columns.values()):
        raise ApiError(400, "inputs: expected an object with a list of items for each input", param="inputs")
    if set(columns) != set(names):
        raise ApiError(400, f"inputs: has {', '.join(columns)[:200] or 'nothing'}, the model takes {', '.join(names)}",
                       param="inputs")  # fmt: skip
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise ApiError(400, f"inputs: they differ in their number of items: {counts}", param="inputs")
    return [{name: columns[name][index] for name in names} for index in range(counts[names[0]])]


def _items(plan: ModelFacts, value: Any) -> list[Any]:
    names = [spec.name for spec in plan.inputs]
    if not isinstance(value, list):
        raise ApiError(400, "items: expected a list", param="items")
    rows = [{names[0]: row} if isinstance(row, list) and len(names) == 1 else row for row in value]
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ApiError(400, f"item {index}: expected an object with an array for each input", param="items")
    return rows


def _texts(plan: ModelFacts, value: Any) -> list[Any]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "texts: expected a string or a list of strings", param="texts")
    return texts


def _rows(plan: ModelFacts, given: GivenItems, arrays: Mapping[str, NDArray[Any]], most: int) -> Items:
    names = [spec.name for spec in plan.inputs]
    if set(arrays) != set(names):
        raise ApiError(400, f"the body holds {', '.join(sorted(arrays))[:200] or 'nothing'}, the model takes "
                            f"{', '.join(names)}")  # fmt: skip
    for spec in plan.inputs:
        array = arrays[spec.name]
        if array.ndim == 0:
            raise ApiError(400, f"{spec.name} has no dimension: expected one that counts the items")
        if plan.data.kind == "image" and spec.dtype == "uint8" and array.dtype != np.uint8:
            raise ApiError(400, f"{spec.name} is {array.dtype}, the model takes uint8 pixels: convert it first")
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise ApiError(400, f"the arrays differ in their number of items: {counts}")
    _check_count(counts[names[0]], most)
    return [
        given.arrays({name: arrays[name][index] for name in names}, f"item {index}", own=True)
        for index in range(counts[names[0]])
    ]


def read_npy(body: bytearray) -> NDArray[Any]:
    """A view of the body. Raises ApiError 400: its header announces another size, or objects, or it has none."""
    width = {b"\x01\x00": 2, b"\x02\x00": 4}.get(bytes(body[6:8]), 2)  # of the header's length
    begin = 8 + width + int.from_bytes(body[8 : 8 + width], "little")
    shape, fortran, dtype = _npy_header(bytes(body[: min(begin, MOST_HEADER_CHARACTERS + 12)]))
    wanted = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise ApiError(400, "the body is a .npy of objects or records: expected numbers")
    if any(extent < 0 for extent in shape) or len(body) - begin != wanted:
        raise ApiError(400, f"the body is a damaged .npy: its header announces {wanted} bytes, and {len(body) - begin} "
                            "are there")  # fmt: skip
    array: NDArray[Any] = np.frombuffer(body, dtype, math.prod(shape), begin) if wanted else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=64)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """A client's requests have one and the same, which takes as long to read as all else of them."""
    file, formats = io.BytesIO(header), np.lib.format
    try:
        version = formats.read_magic(file)
        read = {(1, 0): formats.read_array_header_1_0, (2, 0): formats.read_array_header_2_0}.get(version)
        if read is None:
            raise ApiError(400, f"the body is a .npy of version {version[0]}.{version[1]}: expected 1.0 or 2.0")
        return read(file, max_header_size=MOST_HEADER_CHARACTERS)
    except ApiError:
        raise
    except Exception as error:  # numpy raises several kinds for a damaged header
        raise ApiError(400, f"the body is not a .npy: {_first_line(error)}") from None


def _safetensors(body: bytearray) -> dict[str, NDArray[Any]]:
    from safetensors import deserialize
    from safetensors.numpy import load

    data = bytes(body)
    try:
        return load(data)
    except Exception as error:  # the Rust side raises its own, numpy's another for a dtype that it lacks
        reason = f"the body is not a .safetensors: {_first_line(error)}"
    with contextlib.suppress(Exception):
        tensors = deserialize(data)  # type: ignore[no-untyped-call]
        odd = [f"{name[:100]} is {tensor['dtype']}" for name, tensor in tensors if tensor["dtype"] not in TAKEN]
        if odd:
            reason = f"{odd[0]}, which is not taken: convert it to F32 or F16"
    raise ApiError(400, reason)


def _check_count(count: int, most: int) -> None:
    if not count:
        raise ApiError(400, "the request holds no items")
    if count > most:
        raise ApiError(400, f"{count} items in one request: at most {most} (--max-queue)")


def _check_finite(item: Mapping[str, Any], index: int) -> None:
    for name, array in item.items():
        if array.dtype.kind == "f" and not _all_finite(array):
            raise UserError(f"item {index}: {name} holds NaN or infinity")


def _all_finite(array: NDArray[Any]) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        finite = bool(np.isfinite(array.sum()))  # in half the time of a look at each; large ones may overflow
    return finite or bool(np.isfinite(array).all())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
