"""Text from two ranks that keep keys and values in bf16: verified, and the same whatever happens to them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from launch_harness import Running, rank_process, run
from text_requests import random_requests, read_answers, wait_for_answers, write_lines

from edgecompile.contract.plan_file import read_plan

pytestmark = pytest.mark.slow

COUNT = 24


def test_a_plan_tells_of_it_and_is_verified(bf16_text_plan: Path, text_plan: Path) -> None:
    plan, in_fp32 = read_plan(bf16_text_plan), read_plan(text_plan)
    assert plan.generation is not None
    assert in_fp32.generation is not None
    assert {spec.dtype for spec in plan.generation.state} == {"bf16"}
    assert 2 * plan.generation.slot_bytes == in_fp32.generation.slot_bytes
    assert plan.rounding == "products are in int8, keys and values are kept in bf16"
    kept = [sum(unit.state_bytes for unit in one.units) for one in (plan, in_fp32)]
    assert 2 * kept[0] == kept[1] > 0
    assert "dtype" not in yaml.safe_load(text_plan.read_text(encoding="utf-8"))["generation"]["state"][0]
    ended = run(bf16_text_plan, "--local", "--verify").expect(0)
    assert "verified: scores of" in " ".join(ended.out.split())


def test_a_killed_rank_changes_no_answer(bf16_text_plan: Path, tmp_path: Path) -> None:
    """Its tokens are computed again in chunks, where they came one by one before."""
    asked, one, other = tmp_path / "asked.jsonl", tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    write_lines(asked, random_requests(5, COUNT, least_tokens=20))
    run(bf16_text_plan, "--local", "--input", asked, "--output", one).expect(0)
    running = Running([bf16_text_plan, "--local", "--json", "--input", asked, "--output", other])
    wait_for_answers(running, other, 3)
    os.kill(rank_process(bf16_text_plan, 1), signal.SIGKILL)
    ended = running.wait().expect(0)
    assert json.loads(ended.out)["text"]["rebuilt"] > 0
    assert read_answers(other) == read_answers(one)
