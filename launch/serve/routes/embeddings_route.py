"""POST /v1/embeddings: one vector a text, as the OpenAI API has it."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from edgecompile.contract.plan import Plan, TensorSpec
from edgelaunch.inputs.given_items import GivenItems
from edgelaunch.serve.http.api_error import ApiError, json_answer
from edgelaunch.serve.http.service import Service
from edgelaunch.serve.routes.json_bodies import check_json, read_object
from edgelaunch.serve.routes.predict_input import Items
from edgelaunch.serve.routes.predict_route import body_of, in_a_thread, results_for

__all__ = ["embeddings", "vector_of"]

IGNORED = ("user", "metadata")
FORMATS = ("float", "base64")


def vector_of(plan: Plan) -> TensorSpec | None:
    """The output that is one vector a text; None: the model has none."""
    text = plan.data.text
    if plan.data.kind != "text" or text is None or text.tokenizer is None or plan.data.result == "labels":
        return None
    vectors = [spec for spec in plan.outputs if len(spec.shape) == 2 and "float" in spec.dtype]
    return vectors[0] if len(vectors) == 1 and not any(vectors[0].dims[1:]) else None


async def embeddings(request: Request) -> Response:
    service = Service.of(request)
    service.check()
    running = service.running
    spec = vector_of(running.plan)
    if spec is None or running.texts is not None:
        raise ApiError(400, f"{service.name} gives no vector for a text: {_why_none(running.plan)}")
    check_json(request)
    with service.admission.memory() as hold:
        asked = await in_a_thread(service, _reader(await body_of(request, service, hold)))
        service.check_model(asked.pop("model", None))
        form = _format(asked, spec)
        items = await in_a_thread(service, lambda: _items(running.items, asked, service.admission.most))
        results = await results_for(request, service, items)
    vectors = [result[spec.name] if isinstance(result, dict) else result for result in results]
    count = sum(map(running.items.num_tokens, items))
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, form)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": count, "total_tokens": count}
    return json_answer({"object": "list", "data": data, "model": service.name, "usage": usage})


def _why_none(plan: Plan) -> str:
    """And what to do instead."""
    data, elsewhere = plan.data, "POST /v1/predict"
    if plan.generation is not None:
        return "it generates text: POST /v1/completions or /v1/chat/completions"
    if data.kind != "text" or data.text is None:
        return f"it takes {data.kind} input: {elsewhere}"
    if data.text.tokenizer is None:
        return f"the plan has no tokenizer: compile with data.text.tokenizer, or {elsewhere} with token ids"
    if data.result == "labels":
        return f"its results are labels: {elsewhere}"
    return f"none of its outputs alone is one: {elsewhere}"


def _reader(body: bytes | bytearray) -> Any:
    return lambda: read_object(body)


def _format(asked: dict[str, Any], spec: TensorSpec) -> str:
    for key in asked:
        if key not in ("input", "encoding_format", "dimensions", *IGNORED):
            raise ApiError(400, f"unknown parameter {key[:100]!r}", param=key[:100])
    form = asked.get("encoding_format")
    form = "float" if form is None else form
    if form not in FORMATS:
        raise ApiError(400, f"invalid value {str(form)[:100]!r} for encoding_format: expected float or base64",
                       param="encoding_format")  # fmt: skip
    wanted = asked.get("dimensions")
    if wanted is not None and (type(wanted) is not int or wanted != spec.shape[1]):
        raise ApiError(400, f"invalid value for dimensions: the model's vectors have {spec.shape[1]}",
                       param="dimensions")  # fmt: skip
    return str(form)


def _items(given: GivenItems, asked: dict[str, Any], most: int) -> Items:
    value = asked.get("input")
    if isinstance(value, str) or (isinstance(value, list) and value and type(value[0]) is int):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ApiError(400, "input: expected a string, a list of strings, token ids or a list of these", param="input")
    if len(value) > most:
        raise ApiError(400, f"{len(value)} texts in one request: at most {most} (--max-queue)", param="input")
    return [_item(given, text, index) for index, text in enumerate(value)]


def _item(given: GivenItems, text: Any, index: int) -> dict[str, Any]:
    where = f"input {index}"
    if isinstance(text, str):
        if not text:
            raise ApiError(400, f"{where}: the text is empty", param="input")
        return given.sentence(text, where)
    if isinstance(text, list) and text and all(type(number) is int for number in text):
        return given.tokens(text, where)
    raise ApiError(400, f"{where}: expected a string or token ids", param="input")


def _written(vector: Any, form: str) -> Any:
    if form == "base64":
        return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")
    if not np.isfinite(vector).all():
        raise ApiError(500, "the model's vector holds NaN or infinity")
    return vector.tolist()
