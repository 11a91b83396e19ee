"""Requests of any bytes: each is answered, what is wrong with a 4xx and one line, and the service lives on."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from fuzzing import mutations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save
from served import Served

pytestmark = pytest.mark.slow

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12,
)  # fmt: skip
KEYS = st.sampled_from(["inputs", "items", "texts", "input", "prompt", "messages", "model", "x", "stream", "n", "stop",
                        "temperature", "top_p", "max_tokens", "seed", "stream_options", "encoding_format", "role",
                        "content", "dimensions", "tools", "logit_bias"])  # fmt: skip
BODIES = st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, JSON, max_size=3), max_size=5)
ROUTES = ("/v1/predict", "/v1/embeddings", "/v1/completions", "/v1/chat/completions")
FEW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def check(answer: httpx.Response) -> None:
    """Either a result, or an error in one line."""
    if answer.status_code == 200:
        return
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert error["message"], error
    assert "\n" not in error["message"]


@pytest.mark.parametrize("route", ROUTES)
def test_any_json(text_service: Served, embedding_service: Served, floats_service: Served, route: str) -> None:
    texts = route in ("/v1/completions", "/v1/chat/completions")
    service = text_service if texts else floats_service if route == "/v1/predict" else embedding_service
    with httpx.Client(base_url=service.url, timeout=60) as client:

        @FEW
        @given(BODIES)
        def ask(body: dict[str, Any]) -> None:
            if texts:
                body["max_tokens"] = 1 if body.get("max_tokens") is None else body["max_tokens"]
            check(client.post(route, content=json.dumps(body), headers={"content-type": "application/json"}))

        ask()
        assert client.get("/healthz").status_code == 200


@FEW
@given(body=st.binary(max_size=300), kind=st.sampled_from(["application/json", "application/x-npy", "image/png",
       "application/x-safetensors", "multipart/form-data; boundary=b", "multipart/form-data", "a/b", "\x7f", ""]),
       route=st.sampled_from([*ROUTES, "/nothing", "/v1/models/%ff", "/v1/predict/"]))  # fmt: skip
def test_any_bytes(floats_service: Served, body: bytes, kind: str, route: str) -> None:
    headers = {"content-type": kind} if kind else {}
    check(httpx.post(f"{floats_service.url}{route}", content=body, headers=headers, timeout=60))


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones((2, 4), np.float32))
    return file.getvalue()


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((30, 40, 3), 99, np.uint8)).save(file, "png")
    return file.getvalue()


FORM = b'--b\r\ncontent-disposition: form-data; name="a"; filename="a.png"\r\n\r\n' + png() + b"\r\n--b--\r\n"
SEEDS = {
    "application/x-npy": npy(), "application/x-safetensors": save({"x": np.ones((2, 4), np.float32)}),
    "application/json": json.dumps({"inputs": {"x": [[1, 2, 3, 4]]}}).encode(),
    "image/png": png(), "multipart/form-data; boundary=b": FORM,
}  # fmt: skip


@pytest.mark.parametrize("kind", SEEDS)
def test_damaged_bodies(floats_service: Served, image_service: Served, kind: str) -> None:
    service = image_service if kind.startswith(("image", "multipart")) else floats_service
    with httpx.Client(base_url=service.url, timeout=60, headers={"content-type": kind}) as client:
        assert client.post("/v1/predict", content=SEEDS[kind]).status_code == 200
        for body in mutations(SEEDS[kind], 300):
            check(client.post("/v1/predict", content=body))
        assert client.post("/v1/predict", content=SEEDS[kind]).status_code == 200
