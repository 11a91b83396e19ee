"""`edgeplan explain`: the bottleneck, prices, placements and the certificate in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from explore_plans import make_plan

from edgecompile.commands.plan_command import main
from edgecompile.contract.cluster import Network
from edgecompile.contract.costs import UnitEntry
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import write_plan
from edgecompile.explore.bottleneck import certificate_in_words
from edgecompile.explore.explain import explain
from edgecompile.explore.why import find_units, placement_of
from edgecompile.planning.from_plan import planned_again, problem_of
from edgecompile.planning.problem import Assignment, Pin
from edgecompile.planning.solver import evaluate, solve

UNITS = [0.02, 0.03, 0.01, 0.04, 0.02, 0.03]
KINDS = {"quick": UNITS, "slow": [2 * seconds for seconds in UNITS]}
HOSTS = [("data", "slow"), ("a", "quick"), ("b", "quick"), ("c", "slow")]
SIZES = [9000, 20_000, 5000, 20_000, 5000, 20_000, 100]


def cluster(**options: Any) -> Plan:
    return make_plan(KINDS, HOSTS, SIZES, **options)


def said(capsys: pytest.CaptureFixture[str], folder: Path, plan: Plan, *arguments: str) -> str:
    write_plan(plan, folder / "plan.yaml")
    assert main(["explain", str(folder / "plan.yaml"), *arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_loads_are_all_that_a_microbatch_occupies() -> None:
    sizes = [100_000, 200_000, 300_000, 50_000]
    hosts = [("data", "box"), ("a", "box"), ("b", "box")]
    plan = make_plan({"box": [0.35, 0.01, 0.02]}, hosts, sizes, assignments=[(0, 0, 1), (1, 1, 0), (2, 2, 2)])
    found = [(load.what, pytest.approx(load.time_s)) for load in explain(plan).loads]
    assert found == [
        ("all that data sends", 0.4),
        ("stage 0 on a", 0.35),
        ("link data -> b", 0.3),
        ("all that data receives", 0.25),
        ("link a -> data", 0.2),
        ("link data -> a", 0.1),
        ("link b -> data", 0.05),
        ("stage 2 on b", 0.02),
        ("stage 1 on data", 0.01),
    ]
    medium = make_plan({"box": [0.1, 0.1]}, hosts[:2], [0, 50_000, 50_000], assignments=[(0, 0, 0), (1, 1, 1)],
                       network=Network(model="shared", bandwidth_bytes_per_s=1e6))  # fmt: skip
    assert ("the shared medium", pytest.approx(0.1)) in [(load.what, load.time_s) for load in explain(medium).loads]


def test_shifts_cost_what_those_stages_cost() -> None:
    plan = cluster()
    problem = problem_of(plan)
    found = explain(plan)
    assert found.shifts
    for shift in found.shifts:
        assert shift.period_s is None or shift.period_s >= plan.predicted.period_s
    given = cluster(assignments=[(0, 0, 0), (1, 4, 1), (5, 5, 2)])
    less, more = explain(given).shifts
    moved = [Assignment(first=first, last=last, host=host) for first, last, host in ((0, 1, 0), (2, 4, 1), (5, 5, 2))]
    assert less.period_s == evaluate(problem, moved).period_s
    assert less.what == "blocks.1.linear on stage 0 too"
    assert (more.unit, more.what) == (4, "blocks.4.linear on stage 2 too")
    kept = explain(cluster(assignments=[(0, 0, 0), (1, 4, 1), (5, 5, 2)], together=((1, 3),)))
    assert kept.shifts[0].what == "blocks.1.linear to blocks.3.linear on stage 0 too"


def test_prices_count_every_limit_and_name_what_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = cluster(memory={"a": 60_000}, rates={"c": 3e5})
    found = explain(plan)
    targets = [(price.kind, price.target) for price in found.prices]
    names = [name for name, _ in HOSTS]
    assert targets == [
        *(("compute", name) for name in names),
        *(("memory", name) for name in names),
        ("bandwidth", "every interface"),
        *(("bandwidth", name) for name in names),
        ("more", "quick"),
        ("more", "slow"),
        *(("loss", name) for name in names),
    ]
    for price in found.prices:
        assert price.gain is not None
        assert price.gain <= 0 if price.kind == "loss" else price.gain >= 0
    assert [price.target for price in found.wires] == ["fp32", "int8"]
    words = said(capsys, tmp_path, plan)
    for text in ("what a microbatch occupies", "now ", "without data: a feeds the inputs then", "no faster plan with:",
                 "wire=int8", "wire=fp32 (this plan's)", "microbatch 1 only", "Proved: of all ways"):  # fmt: skip
        assert text in words


def test_a_host_that_cannot_be_lost_says_why() -> None:
    plan = make_plan({"box": [0.1, 0.1]}, [("a", "box"), ("b", "box")], [10, 10, 10], memory={"a": 1280, "b": 1280})
    lost = [price for price in explain(plan).prices if price.kind == "loss"]
    assert all(price.throughput_items_per_s is None and "add a host" in price.why_not for price in lost)
    alone = make_plan({"box": [0.1, 0.1]}, [("a", "box")], [10, 10, 10])
    assert {price.kind for price in explain(alone).prices} == {"compute", "memory", "more"}


def test_given_stages_are_told_from_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = cluster(assignments=[(0, 2, 0), (3, 5, 1)])
    given = replace(given, scheduling=replace(given.scheduling, method="manual"))
    found = explain(given)
    assert found.best.period_s < given.predicted.period_s
    assert found.certificate.startswith("The stages were given (schedule=manual), not searched for: the best plan's")
    assert "with the best stages" in said(capsys, tmp_path, given)
    words = said(capsys, tmp_path, given, "--unit", "0-2")
    assert "on data" in words
    assert "these stages were given (schedule=manual); the best plan puts it on" in words


def test_a_bounded_search_is_not_called_proof() -> None:
    plan = cluster()
    open_plan = replace(plan, certificate=replace(plan.certificate, method="bounded", gap=0.1, lower_bound_s=0.01))
    words = certificate_in_words(open_plan, planned_again(plan)[1])
    assert words.startswith("Not proved best")
    assert "10.0%" in words
    ties = replace(plan, certificate=replace(plan.certificate, method="exact, ties open"))
    assert "Among plans of equal period" in certificate_in_words(ties, planned_again(plan)[1])
    limited = replace(plan, scheduling=replace(plan.scheduling, max_hosts=3))
    assert "within what was asked for" in certificate_in_words(limited, planned_again(limited)[1])


def test_elsewhere_is_the_best_plan_with_the_units_pinned() -> None:
    plan = cluster()
    problem = problem_of(plan)
    found = placement_of(plan, (3, 3))
    assert found.hosts == found.best_hosts
    for host, place in enumerate(found.elsewhere):
        pinned = solve(replace(problem, pins=(Pin(units=(3, 3), hosts=(host,)),)))
        assert place.host == plan.cluster[host]
        assert place.throughput_items_per_s == 1 / pinned.period_s
        assert place.latency_s == pinned.latency_s
        assert (place.verdict == "the best plan") == ((place.host,) == found.hosts)
    tight = cluster(memory={"c": 1100})
    assert placement_of(tight, (0, 5)).elsewhere[3].verdict.startswith("no plan:")


def test_units_go_by_number_range_operator_and_module(tmp_path: Path) -> None:
    plan = cluster()
    ops = ("vit.embed", "vit.layers.0.fc1", "vit.layers.0:add", "vit.layers.0:add#2", "vit.layers.1.fc1", "head")
    units: tuple[UnitEntry, ...] = tuple(replace(unit, op=op) for unit, op in zip(plan.units, ops, strict=True))
    plan = replace(plan, units=units)
    assert find_units(plan, "3") == (3, 3)
    assert find_units(plan, "1-4") == (1, 4)
    assert find_units(plan, "vit.layers.0.fc1") == (1, 1)
    assert find_units(plan, "vit.layers.0:add#2") == (3, 3)
    assert find_units(plan, "vit.layers.0") == (1, 3)
    assert find_units(plan, "vit") == (0, 4)
    with pytest.raises(UserError, match="--unit 6: this plan's units are 0 to 5"):
        find_units(plan, "6")
    with pytest.raises(UserError, match=r"--unit vit.layers.1.fc9: .* near it are vit.layers.1.fc1"):
        find_units(plan, "vit.layers.1.fc9")


def test_the_room_for_larger_microbatches() -> None:
    """Beside the runtime, stage 0 holds 200 bytes of weights, a heap of 10 and buffers of 2 x (30 + 40) bytes.

    For the ends of the pipeline, 2 x (30 + 10) bytes are kept free on its host, and 3 x 4 x 30 for inputs that are
    kept until results are there.
    """
    hosts = [("a", "box"), ("b", "box")]
    plan = make_plan({"box": [0.1, 0.1, 0.1]}, hosts, [30, 5, 40, 10], assignments=[(0, 1, 0), (2, 2, 1)],
                     memory={"a": 1000 + 200 + 5900})  # fmt: skip
    room = explain(plan).microbatch
    assert (room.largest, room.tightest, room.stage) == (10, "a", "stage 0 on a")
    assert room.sizes == (1, 2, 4, 8)


def test_figures_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(cluster(), tmp_path / "plan.yaml")
    assert main(["explain", str(tmp_path / "plan.yaml"), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert found["best"]["period_s"] == found["plan"]["period_s"] == found["loads"][0]["time_s"]
    assert {price["kind"] for price in found["prices"]} == {"compute", "memory", "bandwidth", "more", "loss"}
    assert main(["explain", str(tmp_path / "plan.yaml"), "--json", "--unit", "blocks.2"]) == 0
    assert json.loads(capsys.readouterr().out)["units"] == [2, 2]
    assert main(["explain", str(tmp_path / "plan.yaml"), "--unit", "nothing"]) == 2
