"""`edgelaunch PLAN --web`: the live page of a run that is no service, on rank 0, whatever its input is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import launch_plans
import pytest
from browser import CHROMIUM, dom
from launch_harness import DEADLINE_S, Running, free_port, processes_of, rank_process, run
from launch_plans import Written

from edgecompile.contract.errors import UserError
from edgelaunch.commands.check_request import check_run
from edgelaunch.commands.web_option import open_page
from edgelaunch.common.addresses import Address
from edgelaunch.request.run_request import RunRequest
from edgelaunch.serve.live.live_page import live_html

KEY = "k" * 32


def until(work: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := work()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def figures(port: int, **headers: str) -> dict[str, Any] | None:
    """None before the page is there."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/live/figures", headers=headers, timeout=10)
    except httpx.HTTPError:
        return None
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def end(running: Running) -> None:
    os.kill(running.process.pid, signal.SIGTERM)
    running.wait()


def test_the_page_of_a_run_asks_for_nothing_that_is_not_there(two_stages: Written) -> None:
    page = live_html(two_stages.plan, keyed=False, serves=False)
    assert "/docs" not in page
    assert 'id="places"' not in page
    assert 'id="chat"' not in page
    assert 'href="/docs"' in live_html(two_stages.plan, keyed=False)


def test_nothing_starts_where_the_port_is_taken(two_stages: Written) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"nothing can listen at 127.0.0.1:{port}: Address already in use"):
            open_page(RunRequest(plan_path=two_stages.path, local=True, web=Address("127.0.0.1", port)))
        for words in (["--local"], ["--rank", 0]):
            run(two_stages.path, *words, "--web", port).expect_error(f"127.0.0.1:{port}", "--web")


def test_what_is_missing_is_named(two_stages: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    request = RunRequest(plan_path=two_stages.path, local=True, web=Address("127.0.0.1", free_port()))
    monkeypatch.setattr("edgelaunch.commands.web_option.find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(UserError, match=r"--web needs uvicorn: pip install 'edgecompile\[serve\]'"):
        open_page(request)
    monkeypatch.undo()
    monkeypatch.setenv("EDGELAUNCH_API_KEY", "short")
    with pytest.raises(UserError, match="the API key has 5 bytes"):
        open_page(request)
    with pytest.raises(UserError, match="add --web PORT"):
        check_run(RunRequest(plan_path=two_stages.path, api_key_file=Path("key")), two_stages.plan)
    assert open_page(RunRequest(plan_path=two_stages.path, local=True)) is None


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--items", 400, "--rate", 100, "--local"], ["--verify", "--items", 400, "--local"]])
def test_a_run_has_a_page_until_it_ends(two_stages: Written, words: list[object]) -> None:
    port = free_port()
    running = Running([two_stages.path, *words, "--web", port])
    seen = until(lambda: figures(port) or running.process.poll() is not None)
    ended = running.wait().expect(0)
    assert f"a live page of this run is at http://127.0.0.1:{port}" in ended.err
    assert isinstance(seen, dict)
    assert seen["ranks"] == 2
    assert figures(port) is None


@pytest.mark.slow
def test_a_page_with_a_key_shows_nothing_without_it(two_stages: Written) -> None:
    port = free_port()
    words = [two_stages.path, "--local", "--items", 2000, "--rate", 100, "--web", f"0.0.0.0:{port}"]
    running = Running(words, EDGELAUNCH_API_KEY=KEY)
    try:
        url = f"http://127.0.0.1:{port}"
        running.wait_for("a live page of this run")
        answer = until(lambda: httpx.get(f"{url}/live/figures"))
        assert answer.status_code == 401
        assert httpx.get(f"{url}/").status_code == 200
        assert httpx.get(f"{url}/v1/predict").status_code == 401
        authorized = {"Authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{url}/v1/predict", headers=authorized).status_code == 404
        assert figures(port, **authorized)
        assert "whoever reaches this address" not in running.text()[1]
    finally:
        end(running)


@pytest.mark.slow
def test_texts_have_a_page_too(text_plan: Path, tmp_path: Path) -> None:
    folder, port = tmp_path / "plan", free_port()
    shutil.copytree(text_plan.parent, folder)
    prompts = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"id": number, "prompt": "the cat", "max_tokens": 40}) for number in range(400)]
    prompts.write_text("\n".join(lines) + "\n")
    words = [folder / text_plan.name, "--local", "--input", prompts, "--output", tmp_path / "out.jsonl", "--web", port]
    running = Running(words)
    try:
        seen = until(lambda: _counted(figures(port), running))
        assert seen["unit"] == "tokens"
        page = httpx.get(f"http://127.0.0.1:{port}/").text
        assert 'id="chat"' not in page
        assert "Tokens and pieces of prompts" in page
    finally:
        end(running)


def _counted(seen: dict[str, Any] | None, running: Running) -> dict[str, Any] | None:
    assert running.process.poll() is None, running.text()
    return seen if seen is not None and seen["num_items"] else None


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_a_browser_shows_a_killed_rank_and_that_it_came_again(tmp_path: Path) -> None:
    plan, port = launch_plans.floats(tmp_path / "plan", rejoin_s=40.0).path, free_port()
    running = Running([plan, "--local", "--items", 100_000, "--rate", 100, "--restarts", 3, "--web", port])
    try:
        until(lambda: (figures(port) or {}).get("items_per_s"))
        url = f"http://127.0.0.1:{port}"
        shown = dom(url, tmp_path)
        assert re.search(r'id="state"[^>]*>running<', shown)
        assert re.search(r'data-said="memory-1"[^>]*>memory [\d.]+ MB, planned', shown)
        assert re.search(r'id="ranks">2 of 2<', shown)
        os.kill(rank_process(plan, 1), signal.SIGKILL)
        until(lambda: (figures(port) or {"hosts": {"1": {"num_restarts": 0}}})["hosts"]["1"]["num_restarts"])
        until(lambda: (figures(port) or {}).get("ready"))
        shown = dom(url, tmp_path, "--window-size=390,800")
        assert "rank 1 (host-1" in shown
        assert "is gone" in shown
        assert re.search(r'id="ranks">2 of 2, came again 1', shown)
    finally:
        end(running)
    assert until(lambda: not processes_of(plan))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="--emulate needs Linux and root")
def test_the_page_of_emulated_hosts_is_reached_from_outside(tmp_path: Path) -> None:
    plan, port = launch_plans.floats(tmp_path / "plan").path, free_port()
    running = Running([plan, "--emulate", "--items", 100_000, "--rate", 50, "--web", port])
    try:
        seen = until(lambda: _counted(figures(port), running))
        assert seen["present"] == 2
        assert "host-0 -> host-1" in run("top", plan, "--once").expect(0).out
    finally:
        end(running)
