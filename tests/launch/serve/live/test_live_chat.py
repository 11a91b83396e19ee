"""The live page's chat in a browser, with streams as they come from a service that is slow or ends."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import CHROMIUM, dom
from served import Served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from edgelaunch.common.addresses import LOOPBACK
from edgelaunch.process.listener import listen_at
from edgelaunch.serve.http.api_error import ApiError
from edgelaunch.serve.http_server import HttpServer
from edgelaunch.serve.routes.event_stream import DONE, KEEP, EventStream, event

ASK = '<script>$("question").value = "Who?"; $("chat").requestSubmit();</script></body>'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]


def piece(text: str) -> str:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


@contextmanager
def chat(service: Served, *parts: str) -> Iterator[str]:
    """A page that asks at once and gets these parts of a stream; all else is the service's."""

    async def page(request: Request) -> Response:
        return HTMLResponse(service.get("/").text.replace("</body>", ASK))

    async def other(request: Request) -> Response:
        answer = service.get(request.url.path)
        return Response(answer.content, answer.status_code, media_type=answer.headers["content-type"])

    async def answer(request: Request) -> Response:
        assert json.loads(await request.body())["messages"] == [{"role": "user", "content": "Who?"}]
        return EventStream(stream(), lambda: None)

    async def stream() -> AsyncGenerator[str, None]:
        for part in parts:
            if part == "fail":
                raise ApiError(503, "the service ends")
            yield part

    listener = listen_at(LOOPBACK, 0, "choose another")
    routes = [Route("/", page), Route("/v1/chat/completions", answer, methods=["POST"]), Route("/{path:path}", other)]
    server = HttpServer(Starlette(routes=routes), listener, 1.0, 8)
    url = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
    server.start()
    try:
        yield url
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("parts", "kind", "said"),
    [
        ((KEEP, piece("The "), KEEP, "event: x\nid: 3\ndata:" + piece("cat")[6:], KEEP, DONE), "answer", "The cat"),
        ((piece("The "), KEEP, "fail"), "answer failed", "The  [the service ends]"),
        ((piece("The "),), "answer failed", "The  [the answer was cut off]"),
    ],
    ids=["slow", "error", "cut"],
)  # fmt: skip
def test_what_the_chat_shows(
    text_service: Served, tmp_path: Path, parts: tuple[str, ...], kind: str, said: str
) -> None:
    with chat(text_service, *parts) as url:
        shown = dom(url, tmp_path)
    assert re.findall(r'<p class="(answer[^"]*)">([^<]*)</p>', shown) == [(kind, said)]
