"""Reads the bodies of requests within limits of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request

from edgelaunch.serve.http.api_error import ApiError, ClientGone

__all__ = ["read_body"]


async def read_body(request: Request, *, most_bytes: int, most_s: float, hold: Callable[[int], None]) -> bytearray:
    """What the caller may change, so that an array can be a view of it.

    Args:
        hold: as of Admission.memory.

    Raises:
        ApiError: 413 where it is too large, 408 where it comes too slowly.
        ClientGone: it does not come.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > most_bytes):
        raise _too_large(most_bytes)
    try:
        return await asyncio.wait_for(_read(request, most_bytes, hold), most_s)
    except asyncio.TimeoutError:
        raise ApiError(408, f"the body did not come within {most_s:g} s", code="body_timeout") from None
    except ClientDisconnect:
        raise ClientGone from None


async def _read(request: Request, most_bytes: int, hold: Callable[[int], None]) -> bytearray:
    pieces, total = [], 0
    async for piece in request.stream():
        total += len(piece)
        if total > most_bytes:
            raise _too_large(most_bytes)
        hold(len(piece))
        pieces.append(piece)
    return bytearray().join(pieces)


def _too_large(most_bytes: int) -> ApiError:
    return ApiError(413, f"the body has more than {most_bytes} bytes (--max-body)", code="body_too_large")
