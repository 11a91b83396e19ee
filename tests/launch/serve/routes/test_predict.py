"""POST /v1/predict: every kind of body, and answers that are each request's own."""

from __future__ import annotations

import gzip
import io
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from launch_plans import Written
from PIL import Image
from safetensors.numpy import load, save
from safetensors.torch import save as bf16
from served import IMAGE, Served, expect_error

from edgelaunch.inputs.images import prepare

pytestmark = pytest.mark.slow

NPY, SAFETENSORS = "application/x-npy", "application/x-safetensors"
X = np.random.default_rng(0).random((3, 4), dtype=np.float32)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("accept", ["application/json", NPY, SAFETENSORS, "text/html, */*"])
@pytest.mark.parametrize("kind", ["inputs", "items", "rows", NPY, SAFETENSORS])
def test_arrays_of_every_kind(floats_service: Served, kind: str, accept: str) -> None:
    bodies = {
        "inputs": {"json": {"inputs": {"x": X.tolist()}, "model": "tiny"}},
        "items": {"json": {"items": [{"x": row.tolist()} for row in X]}},
        "rows": {"json": {"items": X.tolist()}},
        NPY: {"content": npy(X), "headers": {"content-type": NPY}},
        SAFETENSORS: {"content": save({"x": X}), "headers": {"content-type": f"{SAFETENSORS}; charset=x"}},
    }
    values = bodies[kind]
    headers = {**values.pop("headers", {}), "accept": accept}
    answer = floats_service.post("/v1/predict", headers=headers, **values)
    assert answer.status_code == 200, answer.text
    if accept == NPY:
        found = np.load(io.BytesIO(answer.content))
    elif accept == SAFETENSORS:
        found = load(answer.content)["y"]
    else:
        found = np.array(answer.json()["outputs"]["y"], np.float32)
    np.testing.assert_array_equal(found, 4 * X)


def test_images_are_prepared_as_the_plan_says(image_service: Served, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    wanted = prepare(tmp_path / "a.png", IMAGE)
    one = image_service.post("/v1/predict", content=data, headers={"content-type": "image/png"})
    np.testing.assert_allclose(one.json()["outputs"]["y"], wanted[None], atol=1e-6)
    two = image_service.post("/v1/predict", files=[("a", ("a.png", data)), ("a", ("b.png", data))])
    np.testing.assert_allclose(two.json()["outputs"]["y"], np.stack([wanted] * 2), atol=1e-6)


def test_sentences(embedding_service: Served) -> None:
    answer = embedding_service.post("/v1/predict", json={"texts": ["the cat", "the dog sat on the mat"]})
    assert answer.json()["outputs"]["embedding"] == [[5, 2, 2], [2 + 1 + 4 + 5 + 2, 5, 2]]


def test_requests_share_microbatches_and_each_gets_its_own(two_stages: Written) -> None:
    """Thirty-two at once, each with items of its own; there are fewer messages than items."""
    with Served(two_stages.path, "--max-queue", 1000) as service, httpx.Client(timeout=60) as client:

        def ask(number: int) -> bool:
            rows = X[: 1 + number % 3] + number
            answer = client.post(f"{service.url}/v1/predict", json={"inputs": {"x": rows.tolist()}})
            return np.array_equal(np.array(answer.json()["outputs"]["y"], np.float32), 4 * rows)

        with ThreadPoolExecutor(32) as callers:
            assert all(callers.map(ask, range(400)))
        counted = {line.split()[0]: float(line.split()[1]) for line in service.get("/metrics").text.splitlines()
                   if not line.startswith("#")}  # fmt: skip
        items = counted["edgelaunch_items_total"]
        assert items == sum(1 + number % 3 for number in range(400))
        (messages,) = [value for name, value in counted.items() if "stage_microbatches_total" in name]
        assert messages < 0.75 * items


WRONG = [
    (b"", "application/json", 400, "not JSON"),
    (b"[1, 2]", "application/json", 400, "is an array: expected a JSON object"),
    (b"\xff\xfe", "application/json", 400, "not UTF-8 text: byte 0"),
    (b"[" * 50_000, "application/json", 400, "nested too deeply"),
    (b'{"inputs": {"x": [[NaN, 1, 2, 3]]}}', "application/json", 400, "NaN is not a JSON number"),
    (b'{"inputs": {"x": [[1e999, 1, 2, 3]]}}', "application/json", 400, "holds NaN or infinity"),
    (b'{"inputs": {"x": [[' + b"9" * 400 + b', 1, 2, 3]]}}', "application/json", 400, "a number that is too large"),
    (b'{"inputs": {"x": [[null, 1, 2, 3]]}}', "application/json", 400, "x holds null where numbers are expected"),
    (b'{"inputs": {"x": [["a", 1, 2, 3]]}}', "application/json", 400, "x holds text where numbers are expected"),
    (b'{"inputs": {"x": [[{}, 1, 2, 3]]}}', "application/json", 400, "x holds an object where numbers are expected"),
    (b'{"inputs": {"x": [[true, true, true, true]]}}', "application/json", 400, "x holds true or false"),
    (b'{"inputs": {"x": [[[1], [2, 3]]]}}', "application/json", 400, "its lists differ in length"),
    (b'{"inputs": {"x": [[[1, 2, 3, 4]]]}}', "application/json", 400, "x is of shape (1, 4), the model takes"),
    (b'{"inputs": {"x": [[' + b"9" * 5000 + b', 1, 2, 3]]}}', "application/json", 400, "not JSON"),
    (b'{"inputs": {"x": [[1, 2, 3]]}}', "application/json", 400,
     "x holds 3 numbers where 4 are expected, the model takes float32 (4,)"),
    (b'{"inputs": {"x": [[1, 2], [3]]}}', "application/json", 400, "the model takes float32 (4,)"),
    (b'{"inputs": {"x": [["a", "b", "c", "d"]]}}', "application/json", 400, "the model takes float32 (4,)"),
    (b'{"inputs": {"y": [[1, 2, 3, 4]]}}', "application/json", 400, "has y, the model takes x"),
    (b'{"inputs": {"x": []}}', "application/json", 400, "holds no items"),
    (b'{"inputs": {"x": 3}}', "application/json", 400, "a list of items for each input"),
    (b'{"items": [3]}', "application/json", 400, "item 0: expected an object"),
    (b'{"inputs": {}, "items": []}', "application/json", 400, "expected one of inputs, items and texts"),
    (b'{"\\ud800": 1}', "application/json", 400, "expected one of"),
    (b'{"texts": ["the cat"]}', "application/json", 400, "takes tensor input"),
    (b'{"inputs": {"x": [[1, 2, 3, 4]]}, "model": "other"}', "application/json", 404, "this service has tiny"),
    (b"x", "text/plain", 415, "expected one of application/json"),
    (npy(X)[:-1], NPY, 400, "announces 48 bytes, and 47 are there"),
    (npy(X)[:40], NPY, 400, "not a .npy"),
    (npy(np.float64(3)), NPY, 400, "has no dimension"),
    (npy(X.astype(np.complex64)), NPY, 400, "x is complex64"),
    (npy(np.array([{}, 3], dtype=object)), NPY, 400, "objects or records"),
    (npy(X).replace(b"(3, 4)", b"(300000000000, 4)"), NPY, 400, "damaged .npy"),
    (npy(X * np.float32(np.nan)), NPY, 400, "holds NaN or infinity"),
    (save({"x": X})[:-1], SAFETENSORS, 400, "not a .safetensors"),
    (bf16({"x": torch.ones(3, 4, dtype=torch.bfloat16)}), SAFETENSORS, 400, "x is BF16, which is not taken"),
    (b"\xff" * 64, SAFETENSORS, 400, "not a .safetensors"),
    (save({"z": X}), SAFETENSORS, 400, "the model takes x"),
    (b"GIF89a", "image/gif", 400, "takes tensor input"),
    (b"x", "multipart/form-data", 400, "the form cannot be read"),
    (b"--x\r\n", "multipart/form-data; boundary=x", 400, "the form"),
    (b"x" * 100_001, NPY, 413, "more than 100000 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "status", "said"), WRONG, ids=[said for *_, said in WRONG])
def test_a_wrong_request_gets_one_line(floats_service: Served, body: bytes, kind: str, status: int, said: str) -> None:
    answer = floats_service.post("/v1/predict", content=body, headers={"content-type": kind})
    expect_error(answer, status, said)


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/embeddings"])
def test_a_compressed_body(embedding_service: Served, path: str) -> None:
    body = gzip.compress(b'{"texts": ["the cat"]}')
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = embedding_service.post(path, content=body, headers=headers)
    assert expect_error(answer, 415, "content encoding 'gzip'")["code"] == "content_encoding"
    plain = {"content-type": "application/json", "content-encoding": "identity"}
    body = b'{"texts": ["the cat"]}' if path == "/v1/predict" else b'{"input": ["the cat"]}'
    assert embedding_service.post(path, content=body, headers=plain).status_code == 200


def test_a_large_body_that_waits_to_be_asked_for(floats_service: Served) -> None:
    host, _, port = floats_service.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 4) as connection:  # before a body would be given up
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
                           b"expect: 100-continue\r\ncontent-length: 100001\r\n\r\n")  # fmt: skip
        found = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        assert found.startswith(b"HTTP/1.1 413 ")
    with socket.create_connection((host, int(port)), 60) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
                           b"expect: 100-continue\r\nconnection: close\r\ncontent-length: 2\r\n\r\n")  # fmt: skip
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"{}")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (f"{NPY};q=0.1, application/json", "application/json"),
        (f"{NPY};q=0.1, {SAFETENSORS}; q=0.5", SAFETENSORS),
        (f"application/json;q=0.2, {NPY};q=x", NPY),
        (f"{SAFETENSORS}, {NPY}", SAFETENSORS),
        (f"{NPY};q=0", "application/json"),
        (f"{NPY};q=0.5, */*", "application/json"),
        (f"{NPY}, */*", NPY),
        (f"*/*, {NPY}", NPY),
        (f"application/json;q=0.1, {NPY};q=0.5, */*", NPY),
        ("image/png, */*;q=0.1", "application/json"),
        ("", "application/json"),
    ],
)
def test_what_is_liked_best(floats_service: Served, accept: str, kind: str) -> None:
    answer = floats_service.post("/v1/predict", json={"inputs": {"x": X.tolist()}}, headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == kind


def test_wrong_images(image_service: Served) -> None:
    file = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(file, "png")
    for body, said in ((b"GIF89a", "not a readable image"), (file.getvalue(), "too many")):
        expect_error(image_service.post("/v1/predict", content=body, headers={"content-type": "image/png"}), 400, said)
    expect_error(image_service.post("/v1/predict", files={"a": ("a.png", b"")}), 400, "not a readable image")
    floats = npy(np.zeros((1, 3, 24, 32), np.float32))
    answer = image_service.post("/v1/predict", content=floats, headers={"content-type": NPY})
    expect_error(answer, 400, "convert it first")


def test_a_body_in_chunks_is_limited_too(floats_service: Served) -> None:
    def chunks():
        for _ in range(20):
            yield b"x" * 10_000

    answer = floats_service.post("/v1/predict", content=chunks(), headers={"content-type": NPY})
    expect_error(answer, 413, "more than 100000 bytes")


def test_what_a_npy_cannot_hold(three_stages: Written) -> None:
    with Served(three_stages.path) as service:
        body = {"inputs": {"ids": [[9] * 6], "mask": [[True] * 6]}}
        expect_error(service.post("/v1/predict", json=body, headers={"accept": NPY}), 406, "accept application/x-safe")
        body = {"inputs": {"ids": [[9] * 6] * 3, "mask": [[True] * 6] * 2}}
        expect_error(service.post("/v1/predict", json=body), 400, "differ in their number of items")
        wrong = service.post("/v1/predict", content=npy(X), headers={"content-type": NPY})
        expect_error(wrong, 400, "holds one array")
