"""POST /v1/completions and /v1/chat/completions, as the OpenAI API has them, whole or as a stream."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edgelaunch.generation.answers import TextRequest
from edgelaunch.generation.text_calls import TextCalls
from edgelaunch.serve.http.api_error import ApiError, json_answer
from edgelaunch.serve.http.awaiting import answered
from edgelaunch.serve.http.service import Service
from edgelaunch.serve.routes.event_stream import DONE, KEEP, EventStream, event
from edgelaunch.serve.routes.json_bodies import check_json, read_object
from edgelaunch.serve.routes.openai_options import TextCall, read_chat, read_completion
from edgelaunch.serve.routes.predict_route import body_of, in_a_thread
from edgelaunch.serve.routes.text_answers import Piece, TextAnswers

__all__ = ["chat_completions", "completions"]


@dataclass(frozen=True, kw_only=True)
class Form:
    """How an answer is written."""

    prefix: str
    whole: str
    """`object` of an answer, and of a piece of one."""
    piece: str
    choice: Callable[[str], dict[str, Any]]
    """A text of an answer, and of a piece of one."""
    delta: Callable[[str], dict[str, Any]]
    first: dict[str, Any] | None = None
    """What stands before an answer's first piece."""


COMPLETION = Form(
    prefix="cmpl-", whole="text_completion", piece="text_completion",
    choice=lambda text: {"text": text, "logprobs": None}, delta=lambda text: {"text": text, "logprobs": None},
)  # fmt: skip
CHAT = Form(
    prefix="chatcmpl-", whole="chat.completion", piece="chat.completion.chunk",
    choice=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None},
    delta=lambda text: {"delta": {"content": text} if text else {}, "logprobs": None},
    first={"delta": {"role": "assistant", "content": ""}, "logprobs": None},
)  # fmt: skip


async def completions(request: Request) -> Response:
    return await _answer(request, COMPLETION, lambda asked, texts: read_completion(asked))


async def chat_completions(request: Request) -> Response:
    return await _answer(request, CHAT, lambda asked, texts: read_chat(asked, texts.context))


async def _answer(request: Request, form: Form, read: Callable[[dict[str, Any], TextCalls], TextCall]) -> Response:
    service = Service.of(request)
    service.check()
    texts = service.running.texts
    if texts is None:
        raise ApiError(400, f"{service.name} generates no text: POST /v1/predict")
    if texts.spelling is None:
        raise ApiError(400, "the plan has no tokenizer, so that an answer has no text: compile with "
                            "generation.tokenizer=DIR")  # fmt: skip
    check_json(request)
    with service.admission.memory() as hold:
        body = await body_of(request, service, hold)
        call, requests = await in_a_thread(service, lambda: _requests(texts, read(read_object(body), texts)))
    service.check_model(call.model)
    with contextlib.ExitStack() as held:
        held.enter_context(service.admission.places(len(requests), "texts"))
        answers = TextAnswers(service.running, requests, service.settings.request_timeout_s)
        held.callback(answers.cancel)
        if not call.stream:
            work = _whole(service, form, answers)
            return await answered(work, request.receive, service.settings.request_timeout_s)
        return EventStream(_events(service, form, call, answers), held.pop_all().close)


def _requests(texts: TextCalls, call: TextCall) -> tuple[TextCall, list[TextRequest]]:
    """Raises UserError where the plan does not allow it."""
    many = len(call.prompts) > 1
    where = (f"prompt {index}" if many else "prompt" for index in range(len(call.prompts)))
    return call, [texts.request(prompt, call.options, place) for prompt, place in zip(call.prompts, where, strict=True)]


async def _whole(service: Service, form: Form, answers: TextAnswers) -> Response:
    texts, finishes = [""] * len(answers.answers), [""] * len(answers.answers)
    async for piece in answers.pieces():
        if piece is not None:
            texts[piece.index] += piece.text
            finishes[piece.index] = piece.finish or ""
    choices = [
        {"index": index, **form.choice(text), "finish_reason": finish}
        for index, (text, finish) in enumerate(zip(texts, finishes, strict=True))
    ]
    return json_answer({**_head(service, form, form.whole), "choices": choices, "usage": _usage(answers)})


async def _events(
    service: Service, form: Form, call: TextCall, answers: TextAnswers
) -> AsyncGenerator[str, None]:  # fmt: skip
    head = _head(service, form, form.piece)
    if call.with_usage:
        head["usage"] = None

    def written(index: int, content: dict[str, Any], finish: str | None = None) -> str:
        return event({**head, "choices": [{"index": index, **content, "finish_reason": finish}]})

    if form.first is not None:
        for index in range(len(answers.answers)):
            yield written(index, form.first)
    async for piece in answers.pieces():
        for text in _texts(piece, written, form):
            yield text
    if call.with_usage:
        yield event({**head, "choices": [], "usage": _usage(answers)})
    yield DONE


def _texts(piece: Piece | None, written: Callable[..., str], form: Form) -> list[str]:
    if piece is None:
        return [KEEP]
    found = [written(piece.index, form.delta(piece.text))] if piece.text else []
    return [*found, written(piece.index, form.delta(""), piece.finish)] if piece.finish else found


def _head(service: Service, form: Form, kind: str) -> dict[str, Any]:
    return {"id": f"{form.prefix}{uuid.uuid4().hex}", "object": kind, "created": int(time.time()),
            "model": service.name}  # fmt: skip


def _usage(answers: TextAnswers) -> dict[str, int]:
    prompt, tokens = answers.prompt_tokens, answers.tokens
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
