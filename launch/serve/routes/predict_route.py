"""POST /v1/predict: items of any kind that the plan takes; those of all requests share microbatches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from edgecompile.contract.errors import UserError
from edgelaunch.common.failures import RankFailedError
from edgelaunch.serve.http.api_error import ApiError
from edgelaunch.serve.http.awaiting import all_results
from edgelaunch.serve.http.bodies import read_body
from edgelaunch.serve.http.service import Service, refused, unavailable
from edgelaunch.serve.routes.predict_input import NPY, SAFETENSORS, Items, form_images, items_of
from edgelaunch.serve.routes.predict_output import answer_of, kind_of

__all__ = ["body_of", "in_a_thread", "predict", "results_for"]

MOST_BODY_S = 30.0
SMALL_BYTES = 16 << 10
"""Of results that are written as JSON in some tenths of a millisecond."""
PLAIN_BYTES = 1 << 20
"""Of arrays that are copied in as little."""
T = TypeVar("T")


async def predict(request: Request) -> Response:
    service = Service.of(request)
    service.check()
    plan = service.running.plan
    if service.running.texts is not None:
        raise ApiError(400, f"{service.name} generates text: POST /v1/completions or /v1/chat/completions")
    kind = kind_of(plan, request.headers.get("accept", ""))
    with service.admission.memory() as hold:
        body = await body_of(request, service, hold)
        items, model = await _items(request, service, body)
        service.check_model(model)
        results = await results_for(request, service, items)
        small = sum(map(_num_bytes, results)) <= SMALL_BYTES
        return await in_a_thread(service, lambda: answer_of(plan, results, kind), at_once=small)


async def body_of(request: Request, service: Service, hold: Callable[[int], None]) -> bytearray:
    """Raises ApiError where it is refused: 408, 413, 415, 429."""
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise ApiError(415, f"content encoding {coding[:100]!r}: expected none, send the body as it is",
                       code="content_encoding", headers={"Accept-Encoding": "identity"})  # fmt: skip
    service.admission.check_room()
    settings = service.settings
    most_s = min(MOST_BODY_S, settings.request_timeout_s)
    return await read_body(request, most_bytes=settings.max_body, most_s=most_s, hold=hold)


async def results_for(request: Request, service: Service, items: Items) -> list[Any]:
    """Raises ApiError where there are none: 429, 503, 504."""
    with service.admission.places(len(items), "items"):
        futures = [service.running.streams.submit(item) for item in items]
        try:
            return await all_results(futures, request.receive, service.settings.request_timeout_s)
        except (RankFailedError, RuntimeError) as error:
            raise unavailable(error) from None


async def in_a_thread(service: Service, work: Callable[[], T], *, at_once: bool = False) -> T:
    """Raises ApiError 400 for a UserError. `at_once`: it takes less than handing it to a thread would."""
    try:
        if at_once:
            return work()
        return await asyncio.get_running_loop().run_in_executor(service.preparing, work)
    except UserError as error:
        raise refused(error) from None


async def _items(request: Request, service: Service, body: bytearray) -> tuple[Items, Any]:
    running, most = service.running, service.admission.most
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        files = await form_images(running.items, request.headers, body, most)

        def images() -> tuple[Items, Any]:
            return [running.items.image_file(data, f"image {index}") for index, data in enumerate(files)], None

        return await in_a_thread(service, images)
    plain = kind in (NPY, SAFETENSORS) and len(body) <= PLAIN_BYTES
    return await in_a_thread(service, lambda: items_of(running.plan, running.items, kind, body, most), at_once=plain)


def _num_bytes(result: Any) -> int:
    arrays = result.values() if isinstance(result, dict) else [result]
    return sum(array.nbytes for array in arrays)
