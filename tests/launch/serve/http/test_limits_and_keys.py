"""The way of a request: its key, the queue, time, health, and what a client is told when something is not well."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import launch_plans
import pytest
import torch
from launch_harness import Running, rank_process, run, wait_gone
from launch_plans import Written
from served import Served, expect_error

from edgecompile.execution import torchscript

ONE = {"inputs": {"x": [[1, 2, 3, 4]]}}
KEY = "0123456789abcdef"

pytestmark = pytest.mark.slow


class Slow(torch.nn.Module):
    """Computes the longer, the larger the first number is."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        y = torch.ones(400, 400) * x.sum()  # of x, so that no optimiser computes it once and for all
        for _ in range(int(x.max()) * 20):
            y = (y @ y).clamp(0.0, 1.0)
        return (2 * x + y[0, 0] - y[0, 0],)


def slow_plan(folder: Path, **options: Any) -> Written:
    torchscript.silence_deprecation()
    return launch_plans.floats(folder, middle=Slow(), **options)


def test_a_key_is_asked_for(two_stages: Written, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    run("serve", two_stages.path, "--local", "--api-key-file", tmp_path / "key").expect_error("chmod 600")
    (tmp_path / "key").chmod(0o600)
    with Served(two_stages.path, "--api-key-file", tmp_path / "key") as service:
        for header in ({}, {"authorization": f"Bearer {KEY}x"}, {"authorization": KEY}, {"authorization": "Bearer"}):
            answer = service.post("/v1/predict", json=ONE, headers=header)
            error = expect_error(answer, 401, "Authorization: Bearer KEY")
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/models", "/metrics", "/nothing"):
            expect_error(service.get(path), 401)
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert service.get(path).status_code == 200
        assert service.post("/v1/predict", json=ONE, headers={"authorization": f"bearer {KEY}"}).status_code == 200
        large = service.post("/v1/predict", content=b"x" * 20_000_000)
        expect_error(large, 401)
    run("serve", two_stages.path, "--local", EDGELAUNCH_API_KEY="short").expect_error("the API key has 5 bytes")


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    plan = slow_plan(tmp_path)
    with Served(plan.path, "--max-queue", 4) as service:
        expect_error(service.post("/v1/predict", json={"items": [[1, 2, 3, 4]] * 5}), 400, "at most 4 (--max-queue)")
        body = {"json": {"items": [[20, 0, 0, 0]] * 4}}
        held = threading.Thread(target=service.post, args=("/v1/predict",), kwargs=body)
        held.start()
        until(lambda: "edgelaunch_http_places 4.0" in service.get("/metrics").text)
        answer = service.post("/v1/predict", json=ONE)
        error = expect_error(answer, 429, "the queue is full (4 of 4 places)")
        assert error["type"] == "rate_limit_error"
        assert int(answer.headers["retry-after"]) >= 1
        held.join(60)
        assert service.post("/v1/predict", json=ONE).status_code == 200


def test_no_result_in_time(tmp_path: Path) -> None:
    plan = slow_plan(tmp_path)
    with Served(plan.path, "--request-timeout", 0.5) as service:
        answer = service.post("/v1/predict", json={"items": [[60, 0, 0, 0]] * 8})
        expect_error(answer, 504, "no result within 0.5 s (--request-timeout)")
        until(lambda: "edgelaunch_http_places 0.0" in service.get("/metrics").text)


def test_a_body_that_does_not_come(two_stages: Written) -> None:
    with Served(two_stages.path, "--request-timeout", 0.5) as service:
        host, _, port = service.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), 30) as slow:
            slow.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
                         b"content-length: 50\r\n\r\n{")  # fmt: skip
            answer = slow.makefile("rb").readline()
            assert b" 408 " in answer
        with socket.create_connection((host, int(port)), 30) as gone:
            gone.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n{")
        assert service.post("/v1/predict", json=ONE).status_code == 200


def test_a_client_that_leaves_frees_its_places(tmp_path: Path) -> None:
    plan = slow_plan(tmp_path)
    with Served(plan.path) as service:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{service.url}/v1/predict", json={"items": [[20, 0, 0, 0]] * 50}, timeout=0.5)
        until(lambda: "edgelaunch_http_places 0.0" in service.get("/metrics").text)
        assert 'status="499"' in service.get("/metrics").text
        assert service.post("/v1/predict", json=ONE).status_code == 200


def test_documents_ask_for_nothing_elsewhere(floats_service: Served, text_service: Served) -> None:
    for service, path in ((floats_service, "/v1/predict"), (text_service, "/v1/chat/completions")):
        document = service.get("/openapi.json").json()
        assert document["openapi"].startswith("3.1")
        assert path in document["paths"]
        page = service.get("/docs")
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert path in page.text
        assert "http" not in page.text.replace("http-equiv", "")


def test_what_is_not_there(floats_service: Served) -> None:
    expect_error(floats_service.get("/v2"), 404, "nothing is at /v2: see /docs")
    expect_error(floats_service.get("/v1/predict"), 405, "GET is not for /v1/predict")
    expect_error(floats_service.post("/metrics", json={}), 405)


def test_a_lost_rank_is_a_pause(tmp_path: Path) -> None:
    path = launch_plans.floats(tmp_path, rejoin_s=40.0).path
    with Served(path, "--restarts", 5) as service:
        assert service.get("/readyz").json() == {"ready": True}
        stop, wrong = threading.Event(), []

        def ask(number: int) -> None:
            with httpx.Client(timeout=60) as client:
                while not stop.is_set():
                    answer = client.post(f"{service.url}/v1/predict", json={"items": [[number, 0, 0, 0]]})
                    if answer.status_code != 200 or answer.json()["outputs"]["y"] != [[4 * number, 0, 0, 0]]:
                        wrong.append(answer.text)

        callers = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for caller in callers:
            caller.start()
        for count in (2, 3):
            os.kill(rank_process(path, 1), signal.SIGKILL)
            until(lambda count=count: f'rank="0"}} {float(count)}' in line(service, "edgelaunch_generation"))
            until(lambda: service.get("/readyz").status_code == 200)
        stop.set()
        for caller in callers:
            caller.join(60)
        assert not wrong, wrong
    wait_gone(path, 3.0)


def line(service: Served, name: str) -> str:
    return next(line for line in service.get("/metrics").text.splitlines() if line.startswith(f"{name}{{"))


def test_told_to_stop_it_finishes_what_is_under_way(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        plan = slow_plan(tmp_path / str(number))
        answers: list[httpx.Response] = []
        with Served(plan.path) as service:
            body = {"items": [[20, 0, 0, 0]] * 4}
            caller = threading.Thread(target=lambda: answers.append(service.post("/v1/predict", json=body)))  # noqa: B023
            caller.start()
            until(lambda service=service: "edgelaunch_http_places 4.0" in service.get("/metrics").text)
            ended = service.stop(number)
            caller.join(30)
        assert answers[0].status_code == 200, answers[0].text
        ended.expect(0)
        assert "answered" in ended.err
        wait_gone(plan.path, 3.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(number: signal.Signals, tmp_path: Path) -> None:
    plan = slow_plan(tmp_path)
    with Served(plan.path) as service:
        body = {"items": [[2000, 0, 0, 0]] * 4}
        unanswered: list[httpx.HTTPError] = []

        def call() -> None:
            try:
                service.post("/v1/predict", json=body)
            except httpx.HTTPError as error:
                unanswered.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        until(lambda: "edgelaunch_http_places 4.0" in service.get("/metrics").text)
        service.running.process.send_signal(number)
        service.running.wait_for("stopping")
        service.running.process.send_signal(number)
        service.running.process.send_signal(number)
        ended = service.running.wait()
        caller.join(30)
    ended.expect(130)
    assert unanswered
    assert "terminate" not in ended.err
    assert "Traceback" not in ended.err
    wait_gone(plan.path, 10.0)


def test_what_has_no_end_in_time_is_told_so(tmp_path: Path) -> None:
    plan = slow_plan(tmp_path)
    answers: list[httpx.Response] = []
    with Served(plan.path, "--grace", 1) as service:
        body = {"items": [[2000, 0, 0, 0]] * 4}
        caller = threading.Thread(target=lambda: answers.append(service.post("/v1/predict", json=body)))
        caller.start()
        until(lambda: "edgelaunch_http_places 4.0" in service.get("/metrics").text)
        asked = int(service.get("/live/figures").json()["requests"])
        ended = service.stop(signal.SIGTERM)
        caller.join(30)
    assert expect_error(answers[0], 503, "--grace")["code"] == "stopping"
    ended.expect(0)
    assert "1 requests had no result within 1 s (--grace)" in ended.err
    assert f"answered {asked + 2} requests" in ended.err
    assert "uvicorn" not in ended.err
    wait_gone(plan.path, 3.0)


def test_a_rank_that_fails_ends_it(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path, num_stages=3, middle=launch_plans.Failing())
    with Served(plan.path) as service:
        answer = service.post("/v1/predict", json={"items": [[-1, 0, 0, 0]]})
        expect_error(answer, 503, "the shard met a negative number")
        service.running.wait().expect(2)


def test_health_is_told_before_all_ranks_are_there(two_stages: Written) -> None:
    """Rank 1 is yet to come: alive, not ready, no results; then it comes, and is no more than a rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        http = probe.getsockname()[1]
    common = ["--master", f"127.0.0.1:{port}"]
    leader = Running(["serve", two_stages.path, "--rank", 0, "--port", http, "--json", *common])
    url = f"http://127.0.0.1:{http}"
    until(lambda: responds(f"{url}/healthz"))
    assert httpx.get(f"{url}/readyz").status_code == 503
    answer = httpx.post(f"{url}/v1/predict", json=ONE, timeout=60)
    expect_error(answer, 503, "no results now")
    assert answer.headers["retry-after"] == "1"
    other = Running(["serve", two_stages.path, "--rank", 1, *common])
    until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
    assert json.loads(leader.text()[0]) == {"url": url, "model": "tiny"}
    assert httpx.post(f"{url}/v1/predict", json=ONE, timeout=60).status_code == 200
    leader.process.terminate()
    leader.wait().expect(0)
    other.wait().expect(0)


def responds(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--local", "--rank", 1], "leave out --rank"),
        (["--local", "--port", 70000], "invalid value 70000 for --port"),
        (["--local", "--max-queue", 0], "invalid value 0 for --max-queue"),
        (["--local", "--max-body", 5], "invalid value 5 for --max-body"),
        (["--local", "--max-connections", 0], "invalid value 0 for --max-connections"),
        (["--local", "--request-timeout", "nan"], "for --request-timeout"),
        (["--local", "--bind", "192.0.2.1"], "nothing can listen at 192.0.2.1:8000"),
        (["--prot", 3], "did you mean --port"),
    ],
)
def test_wrong_options(two_stages: Written, words: list[object], said: str) -> None:
    run("serve", two_stages.path, *words).expect_error(said)


def test_without_the_packages(two_stages: Written, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['uvicorn'] = None\n")
    ended = run("serve", two_stages.path, "--local", PYTHONPATH=str(tmp_path))
    ended.expect_error("edgelaunch serve needs uvicorn: pip install 'edgecompile[serve]'")


def until(condition: Any) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
