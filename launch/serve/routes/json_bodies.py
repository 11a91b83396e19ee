"""JSON of requests, read strictly."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.requests import Request

from edgelaunch.serve.http.api_error import ApiError

__all__ = ["check_json", "read_object"]


def check_json(request: Request) -> None:
    """Raises ApiError 415 where the body is said to be something else: a page of elsewhere may send such unasked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"content type {kind[:100] or 'none'!r}: expected application/json", code="content_type")


def read_object(body: bytes | bytearray) -> dict[str, Any]:
    """Raises ApiError 400 where it is not a JSON object; NaN and infinity are none of JSON."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8 text: byte {error.start}", code="invalid_json") from None
    except RecursionError:
        raise ApiError(400, "the body is not JSON that can be read: it is nested too deeply",
                       code="invalid_json") from None  # fmt: skip
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body is {_kind(value)}: expected a JSON object", code="invalid_json")
    return value


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
