"""Results as an answer: JSON, .npy or .safetensors."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from edgecompile.contract.plan import Plan
from edgelaunch.inputs.labels import top_labels
from edgelaunch.serve.http.api_error import ApiError, json_answer
from edgelaunch.serve.routes.predict_input import NPY, SAFETENSORS

__all__ = ["answer_of", "kind_of"]

JSON = "application/json"
QUALITY = re.compile(r"[01](\.[0-9]{0,3})?")
Result = NDArray[Any] | dict[str, NDArray[Any]]


def kind_of(plan: Plan, accept: str) -> str:
    """The kind that the header likes best of those there are, the first of equals; JSON where it names none.

    Raises:
        ApiError: 406, a .npy cannot hold the model's outputs.
    """
    liked, rest = dict[str, float](), 0.0
    for word in accept.lower().split(","):
        named, *parameters = (part.strip() for part in word.split(";"))
        if named in (JSON, NPY, SAFETENSORS):
            liked[named] = max(liked.get(named, 0.0), _quality(parameters))
        elif named in ("*/*", "application/*"):
            rest = max(rest, _quality(parameters))
    liked.setdefault(JSON, rest)
    best = max(liked, key=lambda kind: liked[kind])
    kind = best if liked[best] else JSON
    if kind == NPY and len(plan.outputs) > 1:
        names = ", ".join(spec.name for spec in plan.outputs)
        raise ApiError(406, f"a .npy holds one array and the model has {names}: accept {SAFETENSORS}")
    return kind


def _quality(parameters: Sequence[str]) -> float:
    """1 where none is given, or none that can be read."""
    given = next((part.partition("=")[2] for part in parameters if part.startswith("q=")), "1")
    return float(given) if QUALITY.fullmatch(given) else 1.0


def answer_of(plan: Plan, results: Sequence[Result], kind: str) -> Response:
    """Raises ApiError 406 where the items' results differ in shape, which only JSON can hold."""
    names = [spec.name for spec in plan.outputs]
    columns = {name: [result[name] if isinstance(result, dict) else result for result in results] for name in names}
    if kind == JSON:
        content: dict[str, Any] = {
            "model": plan.model.name, "outputs": {name: list(map(_plain, column)) for name, column in columns.items()},
        }  # fmt: skip
        if plan.data.result == "labels" and plan.data.scores in columns:
            content["labels"] = [
                [{"label": label, "probability": value} for label, value in top_labels(plan.data, scores)]
                for scores in columns[plan.data.scores]
            ]
        return json_answer(content)
    arrays = {name: _stacked(column, name) for name, column in columns.items()}
    if kind == NPY:
        file = io.BytesIO()
        np.save(file, arrays[names[0]], allow_pickle=False)
        return Response(file.getvalue(), media_type=NPY)
    from safetensors.numpy import save

    return Response(save(arrays), media_type=SAFETENSORS)


def _stacked(column: Sequence[NDArray[Any]], name: str) -> NDArray[Any]:
    if len({array.shape for array in column}) > 1:
        raise ApiError(406, f"{name} differs in shape from item to item: accept application/json")
    return np.ascontiguousarray(np.stack(column))


def _plain(array: NDArray[Any]) -> Any:
    """As lists; null stands for what JSON has no number for."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        plain: NDArray[Any] = array.astype(object)
        plain[~np.isfinite(array)] = None
        return plain.tolist()
    return array.tolist()
