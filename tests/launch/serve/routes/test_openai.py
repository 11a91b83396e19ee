"""Embeddings, completions and chat as the openai package asks for them, and what is refused."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from served import Served, expect_error

from edgelaunch import Pipeline

pytestmark = pytest.mark.slow

PROMPT = "The quick brown fox"
MESSAGES = [{"role": "user", "content": "The dog sleeps"}]


def client_of(service: Served, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=60, **options)


@pytest.fixture(scope="module")
def whole(text_plan: Path) -> Iterator[Pipeline]:
    """The same plan without HTTP."""
    with Pipeline(text_plan, local=True) as pipeline:
        yield pipeline


def test_embeddings(embedding_service: Served) -> None:
    client = client_of(embedding_service)
    many = client.embeddings.create(model="tiny", input=["the cat", "mat"])  # base64, as the client asks for by itself
    assert [item.embedding for item in many.data] == [[5, 2, 2], [6, 1, 6]]
    assert (many.model, many.usage.prompt_tokens, many.usage.total_tokens) == ("tiny", 3, 3)
    one = client.embeddings.create(model="tiny", input="the cat", encoding_format="float", dimensions=3, user="me")
    assert [item.embedding for item in one.data] == [[5, 2, 2]]
    long = client.embeddings.create(model="tiny", input="the dog sat on the mat", encoding_format="float")
    assert long.data[0].embedding == [2 + 1 + 4 + 5 + 2, 5, 2]
    assert long.usage.prompt_tokens == 5
    assert "Longer texts are cut" in embedding_service.get("/docs").text
    tokens = client.embeddings.create(model="tiny", input=[[2, 3], [6]], encoding_format="float")
    assert [item.embedding for item in tokens.data] == [[5, 2, 2], [6, 1, 6]]
    assert client.embeddings.create(model="tiny", input=[2, 3]).data[0].embedding == [5, 2, 2]
    raw = embedding_service.post("/v1/embeddings", json={"input": "mat", "encoding_format": "base64"}).json()
    assert np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4").tolist() == [6, 1, 6]
    with pytest.raises(openai.NotFoundError, match="this service has tiny") as caught:
        client.embeddings.create(model="other", input="the cat")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "input: expected"),
        ({"input": []}, "input: expected"),
        ({"input": ""}, "input 0: the text is empty"),
        ({"input": [3.5]}, "input 0: expected a string or token ids"),
        ({"input": [[2, "a"]]}, "input 0: expected a string or token ids"),
        ({"input": [[2, 99]]}, "token 99 is none of the model's 7"),
        ({"input": [[2] * 6]}, "6 tokens, the model takes 1 to 5"),
        ({"input": "\ud83d"}, "half a character"),
        ({"input": "a", "dimensions": 2}, "vectors have 3"),
        ({"input": "a", "encoding_format": "int8"}, "expected float or base64"),
        ({"input": "a", "surprise": 1}, "unknown parameter 'surprise'"),
    ],
)
def test_wrong_embeddings(embedding_service: Served, asked: dict[str, Any], said: str) -> None:
    expect_error(embedding_service.post("/v1/embeddings", json=asked), 400, said)


def test_models_of_other_kinds_say_where_to_ask(floats_service: Served, text_service: Served) -> None:
    answer = floats_service.post("/v1/embeddings", json={"input": "a"})
    expect_error(answer, 400, "gives no vector for a text: it takes tensor input: POST /v1/predict")
    answer = text_service.post("/v1/embeddings", json={"input": "a"})
    expect_error(answer, 400, "it generates text: POST /v1/completions")
    expect_error(floats_service.post("/v1/completions", json={"prompt": "a"}), 400, "POST /v1/predict")
    expect_error(text_service.post("/v1/predict", json={"texts": ["a"]}), 400, "POST /v1/completions")
    found = client_of(text_service).models.list().data
    assert [model.id for model in found] == [client_of(text_service).models.retrieve(found[0].id).id]
    with pytest.raises(openai.NotFoundError):
        client_of(text_service).models.retrieve("other")


def test_completions_are_the_pipelines(text_service: Served, whole: Pipeline) -> None:
    client = client_of(text_service)
    name = client.models.list().data[0].id
    (wanted,) = whole.generate([PROMPT], max_tokens=20)
    found = client.completions.create(model=name, prompt=PROMPT, max_tokens=20, temperature=0)
    assert found.choices[0].text == wanted.text
    assert found.choices[0].finish_reason == wanted.finish
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (wanted.prompt_tokens, len(wanted.tokens))
    sampled = whole.generate([PROMPT], max_tokens=12, temperature=0.9, top_p=0.8, seed=7)[0].text
    again = client.completions.create(model=name, prompt=PROMPT, max_tokens=12, temperature=0.9, top_p=0.8, seed=7)
    assert again.choices[0].text == sampled
    several = client.completions.create(model=name, prompt=[PROMPT, "dog", PROMPT], temperature=0)
    wanted_several = [item.text for item in whole.generate([PROMPT, "dog", PROMPT], max_tokens=16)]
    assert [choice.text for choice in several.choices] == wanted_several
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    tokens = client.completions.create(model=name, prompt=[5, 6, 7], temperature=0, max_tokens=5)
    assert tokens.choices[0].text == whole.generate([[5, 6, 7]], max_tokens=5)[0].text
    stop = wanted.text[6:8]
    stopped = client.completions.create(model=name, prompt=PROMPT, max_tokens=20, temperature=0, stop=[stop])
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == (wanted.text.partition(stop)[0], "stop")


def test_streams(text_service: Served, whole: Pipeline) -> None:
    client = client_of(text_service)
    name = client.models.list().data[0].id
    wanted = whole.generate([PROMPT, "dog"], max_tokens=16)
    texts, ends = ["", ""], {}
    usage = None
    for part in client.completions.create(
        model=name, prompt=[PROMPT, "dog"], temperature=0, stream=True, stream_options={"include_usage": True}
    ):
        usage = part.usage or usage
        for choice in part.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == [item.text for item in wanted]
    assert ends == {0: "length", 1: "length"}
    assert usage is not None
    assert usage.completion_tokens == sum(len(item.tokens) for item in wanted)


def test_chat(text_service: Served, whole: Pipeline) -> None:
    client = client_of(text_service)
    name = client.models.list().data[0].id
    (wanted,) = whole.generate([MESSAGES], max_tokens=20)
    found = client.chat.completions.create(model=name, messages=MESSAGES, max_completion_tokens=20, temperature=0)
    assert found.choices[0].message.content == wanted.text
    assert found.choices[0].message.role == "assistant"
    parts = [{"role": "user", "content": [{"type": "text", "text": "The dog "}, {"type": "text", "text": "sleeps"}]}]
    stream = client.chat.completions.create(model=name, messages=parts, max_tokens=20, temperature=0, stream=True)
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted.text
    assert chunks[-1].choices[0].finish_reason == wanted.finish
    counted = list(client.chat.completions.create(
        model=name, messages=MESSAGES, max_tokens=20, temperature=0, stream=True, stop="\x00", seed=3,
        stream_options={"include_usage": True},
    ))  # fmt: skip
    assert [chunk.usage for chunk in counted[:-1]] == [None] * (len(counted) - 1)
    assert counted[-1].choices == []
    assert counted[-1].usage is not None
    assert counted[-1].usage.completion_tokens == len(wanted.tokens)
    raw = text_service.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 2, "stream": True}).text
    assert raw.endswith("data: [DONE]\n\n")
    until_full = client.chat.completions.create(model=name, messages=MESSAGES, temperature=0)
    assert until_full.choices[0].finish_reason == "length"
    assert until_full.usage is not None
    assert until_full.usage.total_tokens == 128


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "invalid value for messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "king", "content": "a"}]}, "for role"),
        ({"messages": [{"content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "type text"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
        ({"messages": MESSAGES, "n": 2}, "invalid value for n: expected 1"),
        ({"messages": MESSAGES, "tools": [{"type": "function"}]}, "tools is not supported"),
        ({"messages": MESSAGES, "logit_bias": {"5": 3}}, "logit_bias is not supported"),
        ({"messages": MESSAGES, "response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"messages": MESSAGES, "presence_penalty": 0.5}, "presence_penalty is not supported"),
        ({"messages": MESSAGES, "logprobs": True}, "logprobs is not supported"),
        ({"messages": MESSAGES, "logprobs": True, "top_logprobs": 3}, "logprobs is not supported"),
        ({"messages": MESSAGES, "surprise": 1}, "unknown parameter 'surprise'"),
        ({"messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
        ({"messages": MESSAGES, "max_tokens": 1.5}, "max_tokens: expected a whole number"),
        ({"messages": MESSAGES, "temperature": -1}, "temperature"),
        ({"messages": MESSAGES, "temperature": 10**400}, "too large"),
        ({"messages": MESSAGES, "top_p": "much"}, "top_p: expected a number"),
        ({"messages": MESSAGES, "seed": 1 << 70}, "seed"),
        ({"messages": MESSAGES, "stop": ["a"] * 17}, "stop: expected"),
        ({"messages": MESSAGES, "stream": 1}, "stream: expected true or false"),
        ({"messages": MESSAGES, "stream_options": {}}, "only for a stream"),
        ({"messages": [{"role": "user", "content": "a" * 2000}]}, "the prompt has"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "half a character"),
    ],
)
def test_wrong_chats(text_service: Served, asked: dict[str, Any], said: str) -> None:
    expect_error(text_service.post("/v1/chat/completions", json=asked), 400, said)


def test_harmless_parameters_are_ignored(text_service: Served) -> None:
    asked = {"messages": MESSAGES, "max_tokens": 2, "user": "me", "metadata": {"a": "b"}, "presence_penalty": 0,
             "frequency_penalty": 0.0, "tools": [], "logprobs": False, "n": 1, "logit_bias": None}  # fmt: skip
    assert text_service.post("/v1/chat/completions", json=asked).status_code == 200


@pytest.mark.parametrize("prompt", [None, 3, [], [[]], [{"a": 1}], ["a", 3], [1.5], [10**30]])
def test_wrong_prompts(text_service: Served, prompt: Any) -> None:
    expect_error(text_service.post("/v1/completions", json={"prompt": prompt}), 400)


def test_a_client_that_leaves_frees_its_slots(text_service: Served) -> None:
    """Sixteen texts fill the queue; once their clients have left there is room again."""
    client = client_of(text_service)
    name = client.models.list().data[0].id
    streams = [
        client.completions.create(model=name, prompt=[PROMPT] * 4, max_tokens=100, stream=True, extra_body={
            "ignore_eos": True}) for _ in range(4)
    ]  # fmt: skip
    for stream in streams:
        next(iter(stream))
    refused = text_service.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
    if refused.status_code != 200:  # some may have come to their end
        error = expect_error(refused, 429, "the queue is full")
        assert error["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1
    for stream in streams:
        stream.close()
    wait_for_places(text_service, 0)


def test_a_client_that_leaves_before_its_answer_frees_its_slot(text_service: Served) -> None:
    hasty = client_of(text_service).with_options(timeout=0.05)
    with pytest.raises(openai.APITimeoutError):
        hasty.completions.create(model="smollm2_135m", prompt=[PROMPT] * 8, max_tokens=100)
    wait_for_places(text_service, 0)


def wait_for_places(service: Served, count: int) -> None:
    deadline = time.monotonic() + 20
    while f"edgelaunch_http_places {float(count)}" not in service.get("/metrics").text:
        assert time.monotonic() < deadline, service.get("/metrics").text
        time.sleep(0.02)


def test_many_chats_at_once_are_each_their_own(text_service: Served, whole: Pipeline) -> None:
    prompts = [f"{PROMPT} {number}" for number in range(12)]
    wanted = [item.text for item in whole.generate(prompts, max_tokens=16)]
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        answer = client_of(text_service).completions.create(model="smollm2_135m", prompt=prompts[number], temperature=0)
        found[number] = answer.choices[0].text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[number] for number in range(len(prompts))] == wanted
