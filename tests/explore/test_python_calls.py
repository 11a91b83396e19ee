"""edgecompile.solve(), problem() and simulate(): from plain figures or a plan, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from explore_plans import make_plan

import edgecompile
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import write_plan

UNIT_S = {"pi": [1.0, 2.0, 3.0, 2.0], "nano": [0.5, 1.0, 1.5, 1.0]}
HOSTS = {"a": "pi", "b": "nano"}


def plan() -> Plan:
    return make_plan(UNIT_S, [("a", "pi"), ("b", "nano")], [4000, 4000, 1000, 4000, 100])


def test_plain_figures_by_hand() -> None:
    """Cuts before unit 1, 2, 3: pi then nano 3.5, 3, 6; nano then pi 7, 5, 2 s beside 0.5, 1.5, 3; nano alone 4 s.

    Of the two with a period of 3 s the second one's latency is less.
    """
    found = edgecompile.solve(edgecompile.problem(unit_s=UNIT_S, hosts=HOSTS, cut_bytes=1000, bandwidth="8kbps"))
    assert found.period_s == 3.0
    assert (found.hosts, found.units) == (("b", "a"), ((0, 2), (3, 3)))
    assert found.latency_s == 3.0 + 1.0 + 2.0  # 1000 bytes at 1000 bytes a second between
    assert found.certificate.gap == 0
    assert found.bottleneck == "stage 0 on b"
    assert repr(found).startswith("<b 0-2, a 3-3; period 3 s set by stage 0 on b, latency 6 s; exact, gap 0.00%>")


def test_links_memory_and_limits_of_plain_figures() -> None:
    slow = edgecompile.problem(
        unit_s=UNIT_S, hosts=HOSTS, cut_bytes=[0, 9000, 9000, 9000, 0], bandwidth={"a": 1e3, "b": "1MB/s"}
    )
    assert edgecompile.solve(slow).hosts == ("b",)
    small = edgecompile.problem(
        unit_s=UNIT_S, hosts=HOSTS, weight_bytes=10, memory={"a": "1kB", "b": 100}, runtime_memory=80,
    )  # fmt: skip
    assert edgecompile.solve(small).units == ((0, 1), (2, 3))
    alone = edgecompile.problem(unit_s=UNIT_S, hosts=HOSTS, max_hosts=1, objective="latency", latency="1ms")
    assert edgecompile.solve(alone).hosts == ("b",)


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"unit_s": {}}, "unit_s has units by kind {}"),
        ({"unit_s": {"pi": [1.0], "nano": [1.0, 2.0]}}, "expected one kind or more, of equally many units"),
        ({"hosts": {"a": "pie"}}, r"hosts\.a: no kind 'pie': unit_s has nano, pi \(did you mean pi\?\)"),
        ({"data_host": "c"}, "data_host: no host 'c': the hosts are a, b"),
        ({"cut_bytes": [1, 2]}, "cut_bytes has 2 entries: expected 5"),
        ({"bandwidth": {"a": 1.0}}, "bandwidth: nothing for the host 'b': give one of each: a, b"),
        ({"memory": "much"}, "memory.a"),
        ({"objective": "speed"}, "invalid value 'speed' for objective: expected period or latency"),
        ({"unit_s": {"pi": [-1.0], "nano": [1.0]}}, "problem: .*unit_s"),
        ({"weight_bytes": 9, "memory": 8}, "unit 0 fits on no host"),
    ],
)
def test_figures_that_are_not_possible(figures: dict[str, Any], message: str) -> None:
    with pytest.raises(edgecompile.UserError, match=message):
        edgecompile.solve(edgecompile.problem(**{"unit_s": UNIT_S, "hosts": HOSTS, **figures}))


def test_a_plan_is_solved_again_with_changes(tmp_path: Path) -> None:
    write_plan(plan(), tmp_path / "plan.yaml")
    as_planned = edgecompile.solve(plan())
    assert as_planned.period_s == plan().predicted.period_s
    assert edgecompile.solve(tmp_path / "plan.yaml").schedule == as_planned.schedule
    assert edgecompile.solve(str(tmp_path / "plan.yaml"), drop=["b"]).hosts == ("a",)
    slower = edgecompile.solve(plan(), changes={"hosts.b.speed": 0.25})
    assert slower.period_s > as_planned.period_s
    with pytest.raises(edgecompile.UserError, match="no such plan"):
        edgecompile.solve("nix.yaml")
    with pytest.raises(edgecompile.UserError, match="plan is of type int"):
        edgecompile.solve(3)  # type: ignore[arg-type]
    with pytest.raises(edgecompile.UserError, match="drop and changes are for plans"):
        edgecompile.solve(edgecompile.problem(unit_s=UNIT_S, hosts=HOSTS), drop=["b"])


def test_other_systems_schedulers() -> None:
    stated = edgecompile.problem(unit_s=UNIT_S, hosts=HOSTS, cut_bytes=1000, bandwidth="8kbps", memory="1GB")
    best, ring = edgecompile.solve(stated), edgecompile.solve(stated, scheduler="greedy_memory")
    assert edgecompile.solve(stated, scheduler="pipeedge").period_s == best.period_s
    assert (ring.hosts, ring.units) == (("b", "a"), ((0, 1), (2, 3)))
    assert ring.period_s == 5.0
    assert ring.certificate.method == "greedy_memory"
    assert ring.certificate.gap == pytest.approx(1 - 3.0 / 5.0)
    assert edgecompile.solve(stated, scheduler="pipeedge_shipped", layers=[0, 2]).units[0] in ((0, 1), (0, 3))
    assert edgecompile.solve(plan(), scheduler="pipeedge").period_s >= edgecompile.solve(plan()).period_s
    with pytest.raises(edgecompile.UserError, match=r"no scheduler 'pipedge': there are .*did you mean pipeedge"):
        edgecompile.solve(stated, scheduler="pipedge")
    for layers in ([1, 2], [0, 2, 2], [0, 9], []):
        with pytest.raises(edgecompile.UserError, match="for layers: expected units from 0 on, each once"):
            edgecompile.solve(stated, scheduler="pipeedge", layers=layers)


def test_simulate_is_what_the_command_does() -> None:
    found = edgecompile.simulate(plan(), microbatches=50)
    assert found.simulation.period_s == pytest.approx(plan().predicted.period_s)
    changed = edgecompile.simulate(plan(), microbatches=50, resolve=True, **{"hosts.b.speed": 0.5})
    assert changed.again
    assert changed.schedule == edgecompile.solve(plan(), changes={"hosts.b.speed": 0.5}).schedule
    with pytest.raises(edgecompile.UserError, match="invalid value 0 for --microbatches"):
        edgecompile.simulate(plan(), microbatches=0)
