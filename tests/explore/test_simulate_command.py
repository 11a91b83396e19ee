"""`edgeplan simulate`: what is said, what-if settings, and what is wrong in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from explore_plans import make_plan, with_stages

from edgecompile.commands.plan_command import main
from edgecompile.contract.cluster import Network, Pair
from edgecompile.contract.costs import Pinned
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan, write_plan
from edgecompile.explore.changes import change, with_host, with_speed, without_host
from edgecompile.planning.from_plan import as_planned, planned_again, problem_of
from edgecompile.planning.problem import Infeasible
from edgecompile.planning.solver import solve

UNITS = [0.02, 0.03, 0.01, 0.04, 0.02, 0.03]
KINDS = {"quick": UNITS, "slow": [2 * seconds for seconds in UNITS]}
HOSTS = [("data", "slow"), ("a", "quick"), ("b", "quick"), ("c", "slow")]
SIZES = [9000, 20_000, 5000, 20_000, 5000, 20_000, 100]


def cluster(**options: Any) -> Plan:
    return make_plan(KINDS, HOSTS, SIZES, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_plan(cluster(), tmp_path / "plan.yaml")
    return tmp_path / "plan.yaml"


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["simulate", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_figures_stand_beside_the_predicted_ones(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = command(capsys, path)
    predicted = read_plan(path).predicted
    assert found["plan"]["period_s"] == found["predicted"]["period_s"] == predicted.period_s
    assert found["simulated"]["period_s"] == pytest.approx(predicted.period_s, rel=1e-3)
    assert found["simulated"]["fill_s"] == pytest.approx(predicted.latency_s)
    assert {stage["host"] for stage in found["simulated"]["stages"]} <= {name for name, _ in HOSTS}
    assert not found["predicted"]["planned_again"]
    assert command(capsys, path, "--jitter", 1.3) == command(capsys, path, "--jitter", 1.3)


def test_the_tables_name_stages_links_and_the_busiest(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(path), "--set", "hosts.a.speed=0.5", "--rate", "1000"]) == 0
    said = capsys.readouterr().out
    for text in ("figures", "predicted now", "waits to send", "busiest: stage", "--resolve plans again",
                 "latency grows without bound"):  # fmt: skip
        assert text in said


def test_a_setting_changes_the_same_stages(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slower = command(capsys, path, "--set", "hosts.a.speed=0.25")
    stages = [stage["units"] for stage in command(capsys, path)["simulated"]["stages"]]
    assert [stage["units"] for stage in slower["simulated"]["stages"]] == stages
    assert slower["predicted"]["period_s"] > slower["plan"]["period_s"] * 2
    again = command(capsys, path, "--set", "hosts.a.speed=0.25", "--resolve")
    assert again["predicted"]["planned_again"]
    assert slower["predicted"]["period_s"] > again["predicted"]["period_s"] > again["plan"]["period_s"]
    named = command(capsys, path, "--set", "hosts.2.bandwidth=160kbps", "--set", "runtime.num_buffers_in=3")
    assert named["predicted"]["period_s"] == pytest.approx(1.0)
    assert named["simulated"]["period_s"] == pytest.approx(1.0, rel=1e-2)


def test_a_dropped_host_is_planned_around(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = read_plan(path)
    without = command(capsys, path, "--drop", "a")
    best = solve(problem_of(make_plan(KINDS, [host for host in HOSTS if host[0] != "a"], SIZES)))
    assert without["predicted"]["period_s"] == best.period_s
    assert "a" not in {stage["host"] for stage in without["simulated"]["stages"]}
    headless = command(capsys, path, "--drop", "data")  # the next host feeds the inputs then
    best = solve(problem_of(make_plan(KINDS, HOSTS[1:], SIZES)))
    assert headless["predicted"]["period_s"] == best.period_s
    assert without_host(plan, "data").cluster[0] == "a"


def test_changes_are_what_a_new_cluster_would_be() -> None:
    plan = cluster()
    rates = {"c": 5e4}
    assert problem_of(change(plan, ["hosts.c.bandwidth=50kB/s"])) == problem_of(cluster(rates=rates))
    memory = {"b": 2000}
    assert problem_of(change(plan, ["hosts.b.memory=2kB"])) == problem_of(cluster(memory=memory))
    network = Network(model="host", latency_s=0.002)
    assert problem_of(change(plan, ["network.latency=2ms"])) == problem_of(cluster(network=network))
    buffers = change(plan, ["runtime.num_buffers_in=4", "runtime.num_buffers_out=1"])
    assert problem_of(buffers) == problem_of(cluster(buffers=(4, 1)))
    pairs = (Pair(source="a", destination="b", bandwidth_bytes_per_s=1e3, latency_s=0.5),)
    linked = change(plan, ["links.a->b.bandwidth=1kB/s", "links.a->b.latency=500ms"])
    assert problem_of(linked) == problem_of(cluster(network=Network(model="pairwise", pairs=pairs)))
    shared = Network(model="shared", bandwidth_bytes_per_s=3e5)
    wider = change(cluster(network=Network(model="shared", bandwidth_bytes_per_s=1e5)), ["network.bandwidth=300kB/s"])
    assert problem_of(wider) == problem_of(cluster(network=shared))


def test_a_faster_host_and_one_more() -> None:
    plan = cluster()
    faster = with_speed(with_speed(plan, "c", 4.0), "c", 0.5)
    kinds = KINDS | {"other": [seconds / 2 for seconds in KINDS["slow"]]}
    hosts = [*HOSTS[:3], ("c", "other")]
    assert solve(problem_of(faster)).period_s == pytest.approx(
        solve(problem_of(make_plan(kinds, hosts, SIZES))).period_s
    )
    more = with_host(plan, plan.devices[0])
    assert (
        solve(problem_of(more)).period_s
        == solve(problem_of(make_plan(KINDS, [*HOSTS, ("d", "quick")], SIZES))).period_s
    )
    assert planned_again(more)[1].period_s < plan.predicted.period_s


def test_formats_of_single_cuts_stay_with_the_stages() -> None:
    plan = cluster(assignments=[(0, 1, 1), (2, 3, 2), (4, 5, 0)], per_cut=("int8", "fp32"), encode_s=0.001)
    problem, schedule = as_planned(plan)
    assert problem.cut_bytes[2] == SIZES[2] // 4
    assert problem.cut_bytes[4] == SIZES[4]
    assert schedule.period_s == plan.predicted.period_s
    problem, _ = planned_again(plan)
    assert problem.cut_bytes == tuple(SIZES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "hosts.nobody.speed=2"], "hosts.nobody.speed: no host 'nobody': the hosts are a, b, c, data"),
        (["--set", "hosts.9.speed=2"], "no host '9'"),
        (["--set", "hosts.a.speed=fast"], "expected a factor greater than 0"),
        (["--set", "hosts.a.speed=0"], "expected a factor greater than 0"),
        (["--set", "hosts.a.colour=red"], "a host has bandwidth, memory, speed"),
        (["--set", "hosts.a.bandwidth=5 apples"], "unknown unit 'apples'"),
        (["--set", "hosts.a.memory"], "expected KEY=VALUE"),
        (["--set", "hosts.a.memory=1kB"], "needs"),
        (["--set", "links.a.bandwidth=1Mbps"], "links.SOURCE->DESTINATION"),
        (["--set", "links.a->a.bandwidth=1Mbps"], "no link to itself"),
        (["--set", "links.a->b.colour=red"], "a link has bandwidth, latency"),
        (["--set", "network.bandwidth=1Mbps"], "share no channel"),
        (["--set", "runtime.num_buffers_in=0"], "1 to 1024"),
        (["--set", "wire=int8"], "no such key"),
        (["--drop", "nobody"], "--drop: no host 'nobody'"),
        (["--drop", "a", "--drop", "b", "--drop", "c", "--drop", "data"], "nothing is left"),
        (["--microbatches", "0"], "invalid value 0"),
        (["--jitter", "0.5"], "invalid value 0.5"),
        (["--jitter", "nan"], "invalid value nan"),
        (["--rate", "-1"], "invalid value -1"),
        (["--rate", "inf"], "invalid value inf"),
        (["--warm-up", "-1"], "invalid value -1"),
        (["--warm-up-factor", "0"], "invalid value 0"),
        (["--seed", "-1"], "invalid value -1"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(
    path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["simulate", str(path), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_constraints_stand_in_the_way_of_a_change() -> None:
    pinned = cluster(pins=(Pinned(units=(2, 3), hosts=("a",)),))
    with pytest.raises(UserError, match="without a, units 2-3, which are pinned to it, have no host"):
        without_host(pinned, "a")
    ordered = cluster(host_order=("a", "b"), exclude=("c",))
    assert without_host(ordered, "a").scheduling.host_order == ("b",)
    assert without_host(ordered, "c").scheduling.exclude == ()
    tight = cluster(memory={name: 100_000 for name, _ in HOSTS})
    with pytest.raises(Infeasible, match="fits on no host"):
        planned_again(change(tight, [f"hosts.{name}.memory=12kB" for name, _ in HOSTS]))
    shared = cluster(network=Network(model="shared", bandwidth_bytes_per_s=1e5))
    with pytest.raises(UserError, match="share one channel"):
        change(shared, ["links.a->b.bandwidth=1Mbps"])
    names = [name for name, _ in HOSTS]
    pairs = tuple(Pair(source=one, destination=other, bandwidth_bytes_per_s=1e6, latency_s=0.0)
                  for one in names for other in names if one != other)  # fmt: skip
    given = cluster(network=Network(model="pairwise", pairs=pairs))
    with pytest.raises(UserError, match="each of a's links has its own figures"):
        change(given, ["hosts.a.bandwidth=1Mbps"])


def test_plans_of_figures_are_whole(tmp_path: Path) -> None:
    """What these tests write reads back as it was, and its problem is the one it was made of."""
    plan = cluster()
    write_plan(plan, tmp_path / "plan.yaml")
    assert read_plan(tmp_path / "plan.yaml") == plan
    assert with_stages(plan, solve(problem_of(plan))) == plan
