"""The service's OpenAPI document, made from the plan."""

from __future__ import annotations

from typing import Any

from edgecompile.contract.plan import Plan, TensorSpec
from edgelaunch import __version__
from edgelaunch.common.varying import Varying, shape_words
from edgelaunch.serve.routes.embeddings_route import vector_of
from edgelaunch.serve.routes.predict_input import NPY, SAFETENSORS

__all__ = ["openapi_document"]

ERRORS = {
    "400": "The request is wrong: the message says what.", "401": "The API key is missing or wrong.",
    "408": "The body came too slowly.", "413": "The body is too large.",
    "415": "The content type is unknown, or the body is compressed.",
    "429": "The queue is full: try again after Retry-After seconds.", "503": "No results now.",
    "504": "No result in time.",
}  # fmt: skip
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"}, "type": {"type": "string"},
                "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]},
            },
        }
    },
}  # fmt: skip


def openapi_document(plan: Plan, *, keyed: bool) -> dict[str, Any]:
    """`keyed`: whether an API key is asked for."""
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": f"edgelaunch serve: {plan.model.name}", "version": __version__, "description": _about(plan)},
        "paths": {**_work(plan), **_state()},
        "components": {"schemas": {"Error": ERROR}},
    }
    if keyed:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _about(plan: Plan) -> str:
    ranges = Varying(plan).ranges
    hosts = ", ".join(host.name for host in plan.hosts)
    if plan.generation is not None:
        generation = plan.generation
        return (f"{plan.model.name} over {hosts}: {generation.slots} texts at once, a context of {generation.context} "
                "tokens.")  # fmt: skip
    inputs = "; ".join(f"{spec.name} {spec.dtype} {shape_words(spec, ranges)}" for spec in plan.inputs)
    outputs = "; ".join(f"{spec.name} {spec.dtype} {spec.shape[1:]}" for spec in plan.outputs)
    return f"{plan.model.name} over {hosts}. An item's inputs: {inputs}. Its results: {outputs}."


def _work(plan: Plan) -> dict[str, Any]:
    if plan.generation is not None:
        return {"/v1/completions": _post("Continue texts.", _completion()),
                "/v1/chat/completions": _post("Answer a conversation.", _chat())}  # fmt: skip
    found = {"/v1/predict": _predict(plan)}
    if vector_of(plan) is not None:
        about = "One vector a text. Longer texts are cut to the model's length, longer lists of token ids are refused."
        found["/v1/embeddings"] = _post(about, _embeddings())
    return found


def _state() -> dict[str, Any]:
    return {
        "/v1/models": _get("The model that is served."), "/healthz": _get("Whether the process lives."),
        "/readyz": _get("Whether items flow: 503 while the ranks connect."),
        "/metrics": _get("Counters for Prometheus."), "/openapi.json": _get("This document."),
    }  # fmt: skip


def _predict(plan: Plan) -> dict[str, Any]:
    ranges = Varying(plan).ranges
    columns = {spec.name: {**_array(spec), "description": f"{spec.dtype}, items of {shape_words(spec, ranges)}"}
               for spec in plan.inputs}  # fmt: skip
    one_of: dict[str, Any] = {
        "inputs": {"type": "object", "properties": columns, "description": "For each input, a list of items."},
        "items": {"type": "array", "items": {"type": "object"}, "description": "Items, each with an array by input."},
    }
    text = plan.data.text
    if plan.data.kind == "text" and text is not None and text.tokenizer is not None:
        about = "Sentences. Longer ones are cut to the model's length."
        one_of["texts"] = {"type": "array", "items": {"type": "string"}, "description": about}
    content: dict[str, Any] = {
        "application/json": {"schema": {"type": "object", "properties": one_of, "maxProperties": 2}}
    }
    binary = {"schema": {"type": "string", "format": "binary"}}
    kinds = [SAFETENSORS, *([NPY] if len(plan.inputs) == 1 else [])]
    kinds += ["image/*", "multipart/form-data"] if plan.data.kind == "image" else []
    content |= dict.fromkeys(kinds, binary)
    answer = {"application/json": {"schema": {"type": "object", "properties": {
        "outputs": {"type": "object", "properties": {spec.name: _array(spec) for spec in plan.outputs}},
    }}}, SAFETENSORS: binary}  # fmt: skip
    if len(plan.outputs) == 1:
        answer[NPY] = binary
    about = "Results of items, several a request; those of all requests share microbatches. Accept says their kind."
    responses = {"200": {"description": "The results.", "content": answer}, **_errors()}
    return {"post": {"summary": about, "requestBody": {"required": True, "content": content}, "responses": responses}}


def _array(spec: TensorSpec) -> dict[str, Any]:
    kind = {"type": "number" if "float" in spec.dtype else "boolean" if spec.dtype == "bool" else "integer"}
    schema: dict[str, Any] = kind
    for _ in spec.shape:
        schema = {"type": "array", "items": schema}
    return schema


def _embeddings() -> dict[str, Any]:
    return {
        "model": {"type": "string"},
        "input": {"description": "A string, a list of strings, token ids or a list of these."},
        "encoding_format": {"enum": ["float", "base64"]}, "dimensions": {"type": "integer"},
    }  # fmt: skip


def _completion() -> dict[str, Any]:
    return {"prompt": {"description": "A string, a list of strings, token ids or a list of these."}, **_choice()}


def _chat() -> dict[str, Any]:
    message = {"type": "object", "properties": {"role": {"type": "string"}, "content": {"type": "string"}}}
    return {"messages": {"type": "array", "items": message}, "max_completion_tokens": {"type": "integer"}, **_choice()}


def _choice() -> dict[str, Any]:
    return {
        "model": {"type": "string"}, "stream": {"type": "boolean"},
        "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
        "max_tokens": {"type": "integer"}, "temperature": {"type": "number", "default": 1},
        "top_p": {"type": "number", "default": 1}, "top_k": {"type": "integer"},
        "repetition_penalty": {"type": "number", "default": 1}, "seed": {"type": "integer"},
        "stop": {"description": "A string or a list of strings."}, "n": {"const": 1},
    }  # fmt: skip


def _post(about: str, properties: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object", "properties": properties}}}
    return {"post": {"summary": about, "requestBody": {"required": True, "content": content},
                     "responses": {"200": {"description": "As the OpenAI API has it."}, **_errors()}}}  # fmt: skip


def _get(about: str) -> dict[str, Any]:
    return {"get": {"summary": about, "responses": {"200": {"description": about}}}}


def _errors() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": about, "content": content} for status, about in ERRORS.items()}
