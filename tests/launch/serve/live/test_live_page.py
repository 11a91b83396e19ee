"""The live page: in one piece, asks nothing of elsewhere, and shows in a browser what the cluster does."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launch_plans
import pytest
from browser import CHROMIUM, dom
from launch_harness import DEADLINE_S, rank_process
from served import Served, expect_error

from edgelaunch.serve.live.live_page import SCRIPT

MOST_BYTES = 200_000
ONE = {"items": [[1, 2, 3, 4]]}


def until(work: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not work():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_the_page_is_one_piece_that_may_ask_its_service_alone(floats_service: Served, text_service: Served) -> None:
    for service, chats in ((floats_service, False), (text_service, True)):
        page = service.get("/")
        assert page.status_code == 200
        assert len(page.content) < MOST_BYTES
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "connect-src 'self'" in policy
        (script,) = re.findall("<script>(.*?)</script>", page.text, re.DOTALL)
        assert script == SCRIPT
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page.text)
        assert ('id="chat"' in page.text) == chats


@pytest.mark.slow
def test_figures_are_what_was_counted(floats_service: Served) -> None:
    before = floats_service.get("/live/figures").json()
    assert floats_service.post("/v1/predict", json={"items": [[1, 2, 3, 4]] * 5}).status_code == 200
    until(lambda: figures(floats_service)["num_items"] == before["num_items"] + 5)
    after = figures(floats_service)
    assert after["ready"] is True
    assert after["present"] == after["ranks"] == len(after["hosts"]) == 2
    assert after["predicted_per_s"] > 0
    assert all(host["state"] == "present" for host in after["hosts"].values())
    picture = floats_service.get("/live/cluster").text
    for rank in after["hosts"]:
        assert f'data-node="{rank}"' in picture
    for ends in after["links"]:
        assert f'data-lines="{ends}"' in picture


@pytest.mark.slow
def test_a_service_of_texts_has_a_rate_too(text_service: Served) -> None:
    asked = {"prompt": "the cat", "max_tokens": 8}
    seen = figures(text_service)["num_items"]
    until(lambda: text_service.post("/v1/completions", json=asked).status_code == 200
          and (figures(text_service)["items_per_s"] or 0.0) > 0.0)  # fmt: skip
    assert figures(text_service)["num_items"] > seen


def figures(service: Served) -> dict[str, Any]:
    answer = service.get("/live/figures")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.slow
def test_the_page_is_open_and_its_figures_need_the_key(two_stages: launch_plans.Written) -> None:
    with Served(two_stages.path, EDGELAUNCH_API_KEY="k" * 32) as service:
        page = service.get("/")
        assert page.status_code == 200
        assert 'id="unlock" aria-label="API key" hidden' not in page.text
        expect_error(service.get("/live/figures"), 401, "API key")
        expect_error(service.get("/live/cluster"), 401, "API key")
        authorized = {"Authorization": f"Bearer {'k' * 32}"}
        assert service.get("/live/figures", headers=authorized).status_code == 200


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_a_browser_shows_it_and_a_rank_that_was_killed(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path / "plan", rejoin_s=40.0).path
    with Served(plan, "--restarts", 3) as service:
        assert service.post("/v1/predict", json=ONE).status_code == 200
        shown = dom(service.url, tmp_path)
        assert re.search(r'id="state"[^>]*>running<', shown)
        assert re.search(r'id="items">[\d,]+<', shown)
        assert "epoch 1 began" in shown
        assert re.search(r'data-said="busy-0"[^>]*>busy', shown)
        assert re.search(r"<polyline", shown)
        os.kill(rank_process(plan, 1), signal.SIGKILL)
        until(lambda: any(event["kind"] == "rank-lost" for event in figures(service)["events"]))
        until(lambda: figures(service)["ready"])
        shown = dom(service.url, tmp_path, "--window-size=390,800")
        assert "rank 1 (host-1" in shown
        assert "is gone" in shown
        assert re.search(r'id="state"[^>]*>running<', shown)
