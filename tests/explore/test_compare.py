"""`edgeplan compare`: a row a plan, and what is wrong with one in one line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from explore_plans import make_plan

from edgecompile.commands.plan_command import main
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import write_plan
from edgecompile.explore.compare import plan_row, short_names

KINDS = {"quick": [0.01, 0.02, 0.01], "slow": [0.02, 0.04, 0.02]}
HOSTS = [("a", "slow"), ("b", "quick")]
SIZES = [400, 8000, 6000, 40]


def plan(**options: object) -> Plan:
    return make_plan(KINDS, HOSTS, SIZES, **options)  # type: ignore[arg-type]


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    for name, options in (("best", {}), ("single", {"assignments": [(0, 2, 0)]})):
        (tmp_path / name).mkdir()
        write_plan(plan(**options), tmp_path / name / "plan.yaml")
    return [str(tmp_path / name / "plan.yaml") for name in ("best", "single")]


def test_the_bytes_of_each_link_by_hand() -> None:
    row = plan_row(plan(assignments=[(0, 0, 1), (1, 2, 0)]))
    assert row["links"] == [{"link": "a -> b", "bytes": 400}, {"link": "b -> a", "bytes": 8000}]
    assert row["sent_bytes"] == 8400
    assert plan_row(plan(assignments=[(0, 2, 0)]))["links"] == []
    through = plan_row(plan(assignments=[(0, 1, 0), (2, 2, 1)]))
    assert through["links"] == [{"link": "a -> b", "bytes": 6000}, {"link": "b -> a", "bytes": 40}]
    assert through["hosts"] == ["a", "b"]


def test_the_same_as_table_json_and_csv(paths: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *paths, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["plans"]
    best, single = plan(), plan(assignments=[(0, 2, 0)])
    assert [row["plan"] for row in rows] == paths
    assert [row["throughput_items_per_s"] for row in rows] == [
        item.predicted.throughput_items_per_s for item in (best, single)
    ]
    assert rows[0]["of_best"] == 1 > rows[1]["of_best"]
    assert main(["compare", *paths, "--csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["bottleneck"] for row in table] == [row["bottleneck"] for row in rows]
    assert float(table[1]["latency_s"]) == rows[1]["latency_s"]
    assert main(["compare", *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("│")] == ["best", "single"]
    assert "memory: of the stage that needs most" in lines[-1]


def test_names_are_as_short_as_they_can_be() -> None:
    assert short_names(["out/a/plan.yaml", "out/b/plan.yaml"]) == ["a", "b"]
    assert short_names(["out/a.yaml", "out/b.yaml"]) == ["a.yaml", "b.yaml"]
    assert short_names(["out/plan.yaml"]) == ["out/plan.yaml"]
    assert short_names(["plan.yaml", "plan.yaml"]) == ["plan.yaml", "plan.yaml"]


def test_what_cannot_be_compared_is_one_line(paths: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(paths[1])
    path.write_text(path.read_text(encoding="utf-8").replace("version: 1", "version: 7"), encoding="utf-8")
    for words, message in (
        ([paths[0], paths[1]], f"{paths[1]}: version is 7, this edgecompile reads the versions 1 and 2"),
        ([paths[0], "nix.yaml"], "nix.yaml: no such plan"),
        ([paths[0], "--csv", "--json"], "--csv and --json are two forms of the same"),
    ):
        assert main(["compare", *words]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith(f"edgeplan: {message}")
        assert said.err.count("\n") == 1
