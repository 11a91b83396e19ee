"""Calls of an application: what they take, and what becomes of those that nobody waits for any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch import Pipeline
from edgelaunch.generation.answers import TextRequest
from edgelaunch.generation.text_calls import TextCalls, TextOptions


@pytest.fixture
def calls(text_plan: Path, text_facts: Plan) -> TextCalls:
    return TextCalls(text_facts, text_plan.parent, lambda: None)


@pytest.fixture(scope="module")
def running(text_plan: Path) -> Iterator[Pipeline]:
    with Pipeline(text_plan, local=True) as pipeline:
        yield pipeline


def test_numbers_of_numpy_are_taken_as_pythons_own(calls: TextCalls) -> None:
    options = TextOptions(max_tokens=np.int64(3), temperature=np.float32(0.5), top_k=np.int32(4), seed=np.int64(-5))  # type: ignore[arg-type]
    request = calls.request(np.array([5, 6]), options)  # type: ignore[arg-type]
    assert request.prompt == (5, 6)
    assert all(type(token) is int for token in request.prompt)
    assert type(request.max_tokens) is int
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed) == (0.5, 4, -5)
    assert (type(sampling.temperature), type(sampling.top_k), type(sampling.seed)) == (float, int, int)


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_tokens", "5"), ("max_tokens", 2.0), ("max_tokens", True), ("temperature", "a"), ("top_k", 2.5),
     ("seed", 1.5), ("seed", "x"), ("stop", 5), ("stop", [1]), ("ignore_end", "no")],
)  # fmt: skip
def test_an_option_of_another_type_is_refused_before_it_reaches_a_rank(
    calls: TextCalls, option: str, value: object
) -> None:
    with pytest.raises(UserError, match=f"^prompt: invalid value .* for {option}: expected "):
        calls.request([5], TextOptions(**{option: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", [[1.7], ["a"], b"abc", None, [True], [[1]], {"prompt": "a"}, np.array([0.5])])
def test_a_prompt_that_is_none_is_refused(calls: TextCalls, prompt: Any) -> None:
    with pytest.raises(UserError, match=r"^prompt: invalid (value for tokens|prompt of type)"):
        calls.request(prompt, TextOptions())


@pytest.mark.parametrize("prompts", ["a", b"a", 5, [5], np.array([5]), [{"role": "user", "content": "a"}], {"a": 1}])
def test_prompts_that_are_no_list_of_them_are_refused(calls: TextCalls, prompts: Any) -> None:
    with pytest.raises(UserError, match=r"^invalid prompts: expected a list"):
        calls.generate(prompts, {})


def test_text_as_it_comes_needs_a_tokenizer(text_plan: Path, text_facts: Plan) -> None:
    assert text_facts.generation is not None
    bare = replace(text_facts, generation=replace(text_facts.generation, tokenizer=None, sha256=None))
    calls = TextCalls(bare, text_plan.parent, lambda: None)
    with pytest.raises(UserError, match="no tokenizer"):
        next(calls.stream([5], {}))


@pytest.mark.slow
def test_a_cancelled_task_frees_its_slot(running: Pipeline) -> None:
    async def read() -> None:
        async for _ in running.generate_async([5, 6, 7], max_tokens=120, ignore_end=True):
            await asyncio.sleep(0)

    async def cancelled() -> list[BaseException | None]:
        tasks = [asyncio.create_task(read()) for _ in range(8)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    before = running.generate([[5, 6, 7]], max_tokens=20, ignore_end=True)
    for outcome in asyncio.run(cancelled()):
        assert isinstance(outcome, asyncio.CancelledError)
    assert running._running.texts is not None
    assert running._running.texts._ends is not None
    begin = time.monotonic()
    while running._running.texts._ends.num_in_flight():
        assert time.monotonic() - begin < 60
        time.sleep(0.01)
    assert running.generate([[5, 6, 7]], max_tokens=20, ignore_end=True) == before


@pytest.mark.slow
def test_a_timeout_ends_texts_that_flow(running: Pipeline) -> None:
    """The answers together take far longer, and each of them has a piece whenever it is looked at."""
    with pytest.raises(TimeoutError, match=r"no result within 0\.2 s"):
        running.generate([[5, 6, 7]] * 200, max_tokens=120, ignore_end=True, timeout=0.2)
    with pytest.raises(TimeoutError, match="no result within 0 s"):
        running.generate([[5, 6, 7]], max_tokens=120, ignore_end=True, timeout=0)
    with pytest.raises(UserError, match="invalid value '1' for timeout"):
        running.generate([[5, 6, 7]], timeout="1")  # type: ignore[arg-type]


@pytest.mark.slow
def test_calls_of_items_point_at_generate(running: Pipeline) -> None:
    batch: Any = {"input_ids": np.zeros((1, 4), np.int64)}
    for call in (running, running.submit, lambda items: next(running.stream(items)), running.map):
        with pytest.raises(UserError, match=r"generates text: call generate\(\)"):
            call(batch)


@pytest.mark.slow
def test_asyncio_gives_the_same_text(running: Pipeline) -> None:
    async def read() -> str:
        return "".join([piece async for piece in running.generate_async([5, 6, 7], max_tokens=30)])

    assert asyncio.run(read()) == running.generate([[5, 6, 7]], max_tokens=30)[0].text


@pytest.mark.slow
def test_a_pipeline_that_is_closed_leaves_nobody_waiting(text_plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more is asked for than comes out while it closes."""
    monkeypatch.setattr("edgelaunch.application.running.CLOSE_S", 0.2)
    ends: list[Any] = []
    with ThreadPoolExecutor(3) as pool:
        with Pipeline(text_plan, local=True) as pipeline:
            calls = pipeline._text_calls("test")
            held = [calls.ask(TextRequest(prompt=(5,), max_tokens=120, ignore_end=True)) for _ in range(200)]
            listed = pool.submit(pipeline.generate, [[6]] * 200, max_tokens=120, ignore_end=True)
            streamed = pool.submit(lambda: list(pipeline.generate_stream("the dog", max_tokens=120, ignore_end=True)))
            next(held[0].pieces())
        ends += [listed.exception(30), streamed.exception(30)]
    assert [str(error) for error in ends] == ["the pipeline is closed"] * 2
    for answer in held:
        answer.wait()
    assert "cancelled" in {answer.finish for answer in held} <= {"length", "cancelled"}
