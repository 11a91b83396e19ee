"""`edgeplan diff`: what moved between two plans."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from explore_plans import make_plan

from edgecompile.commands.plan_command import main
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import write_plan
from edgecompile.explore.diff import compare

UNITS = [0.02, 0.03, 0.01, 0.04]
KINDS = {"quick": UNITS, "slow": [2 * seconds for seconds in UNITS]}
HOSTS = [("data", "slow"), ("a", "quick"), ("b", "quick")]
SIZES = [100, 2000, 3000, 4000, 100]


def plan_of(*assignments: tuple[int, int, int], **options: Any) -> Plan:
    return make_plan(KINDS, HOSTS, SIZES, assignments=assignments, **options)


def test_units_that_moved() -> None:
    before, after = plan_of((0, 1, 1), (2, 3, 2)), plan_of((0, 0, 0), (1, 2, 1), (3, 3, 2))
    found = compare(before, after)
    assert found.moves is not None
    assert [(move.first, move.last, move.before, move.after) for move in found.moves] == [
        (0, 0, "a", "data"),
        (2, 2, "b", "a"),
    ]
    assert found.moves[0].before_s == pytest.approx(0.02)
    assert found.moves[0].after_s == pytest.approx(0.04)
    assert found.settings == ()
    shares = {share.host: share for share in found.shares}
    assert shares["data"].before_units is None
    assert shares["data"].after_units == (0, 0)
    assert shares["b"].before_s == pytest.approx(0.05)
    assert shares["b"].after_s == pytest.approx(0.04)
    assert [(cut.after_unit, cut.link, cut.num_bytes) for cut in found.before_cuts] == [
        (1, "a -> b", 3000),
        (3, "b -> data", 100),
    ]


def test_neighbouring_units_that_move_alike_are_one_move() -> None:
    found = compare(plan_of((0, 3, 1)), plan_of((0, 3, 2)))
    assert found.moves is not None
    assert [(move.first, move.last) for move in found.moves] == [(0, 3)]


def test_another_precision() -> None:
    before = plan_of((0, 1, 1), (2, 3, 2))
    after = replace(before, stages=(before.stages[0], replace(before.stages[1], precision="int8")))
    (setting,) = compare(before, after).settings
    assert (setting.what, setting.before, setting.after) == ("precision", "fp32", "int8 on b")


def test_the_same_plan_twice() -> None:
    plan = plan_of((0, 3, 1))
    found = compare(plan, plan)
    assert found.moves == ()
    assert found.settings == ()
    assert found.before_cuts == found.after_cuts


def test_what_was_asked_for() -> None:
    before = plan_of((0, 3, 1))
    after = plan_of((0, 3, 1), rates={"a": 2e6}, microbatch=4, max_hosts=2)
    settings = {item.what: (item.before, item.after) for item in compare(before, after).settings}
    assert settings == {
        "microbatch": ("1", "4"),
        "most hosts": ("-", "2"),
        "a: bandwidth": ("8 Mbit/s", "16 Mbit/s"),
    }
    without = make_plan(KINDS, HOSTS[:2], SIZES, assignments=[(0, 3, 1)])
    gone = {item.what: item.after for item in compare(before, without).settings}
    assert gone["b: device"] == "-"


def test_other_units_are_not_followed() -> None:
    before = plan_of((0, 3, 1))
    units = (replace(before.units[0], op="other"), *before.units[1:])
    assert compare(before, replace(before, units=units)).moves is None


def said(capsys: pytest.CaptureFixture[str], folder: Path, before: Plan, after: Plan, *arguments: str) -> str:
    write_plan(before, folder / "a.yaml")
    write_plan(after, folder / "b.yaml")
    assert main(["diff", str(folder / "a.yaml"), str(folder / "b.yaml"), *arguments]) == 0
    return capsys.readouterr().out


def test_as_tables_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = plan_of((0, 3, 1)), plan_of((0, 1, 1), (2, 3, 2))
    text = " ".join(said(capsys, tmp_path, before, after).split())
    assert "both were compiled with the same settings" in text
    assert "10 items/s" in text
    assert "20 items/s" in text
    assert "+100.0%" in text
    assert "blocks.2.linear" in text
    document = json.loads(said(capsys, tmp_path, before, after, "--json"))
    assert document["moves"][0]["after"] == "b"
    assert document["after"]["predicted"]["throughput_items_per_s"] == pytest.approx(20)


def test_a_missing_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(plan_of((0, 3, 1)), tmp_path / "a.yaml")
    assert main(["diff", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]) == 2
    assert "b.yaml" in capsys.readouterr().err
