"""`edgelaunch profile --boards` with agents here: the profiles come, a plan is made of them, boards are compared."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from board_harness import SECRET, agents_here
from launch_harness import Running, free_port

from edgelaunch.commands.on_boards import profile_boards
from edgelaunch.commands.on_boards.profile_boards import Profiled

COMPILE = "from edgecompile.commands.entry_points import compile_main; raise SystemExit(compile_main())"
MODEL = "vit_digits"
"""The smallest that comes with edgecompile."""


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_each_board_is_measured_and_a_plan_made_of_it(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    profiles = tmp_path / "profiles"
    with agents_here(tmp_path, "127.0.0.1", ports):
        joins = [word for port in ports for word in ("--join", f"127.0.0.1:{port}")]

        asked = ["profile", MODEL, "--boards", "--each", *joins, "--wait", 0, "--output", profiles, "--json"]
        ended = Running(asked, EDGELAUNCH_SECRET=SECRET).wait(400.0).expect(0)
        unknown = Running(["profile", "surprise", "--boards", *joins, "--wait", 0, "--output", profiles],
                          EDGELAUNCH_SECRET=SECRET).wait(120.0)  # fmt: skip
    assert "Traceback" not in ended.err
    told = json.loads(ended.out)
    assert told["problems"] == []
    kind, name = (Path(path).name.removesuffix(f"-{MODEL}.yaml") for path in told["profiles"])
    assert name == "pi-1"
    units = [yaml.safe_load(Path(path).read_text())["units"] for path in told["profiles"]]
    assert units[0] == units[1]
    unknown.expect(2)
    assert f"pi-1 is of the same kind as pi-0, {kind}: measured there alone" in unknown.err
    assert "edgeprofile of surprise ended with status 2" in unknown.err
    for group, text in (("devices", f"defaults:\n  - /board@{kind}: {kind}\n"),
                        ("hosts", f"members:\n  a: {{device: {kind}, address: 10.9.0.1}}\n"
                                  f"  b: {{device: {kind}, address: 10.9.0.2}}\n")):  # fmt: skip
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "board.yaml").write_text(text)
    compiled = Running(
        ["--config-dir", tmp_path / "conf", "devices=board", f"model={MODEL}", "profile=measured",
         f"profile.folder={profiles}", "microbatch=1", f"output_dir={tmp_path / 'out'}", "--quiet"],
        [sys.executable, "-c", COMPILE],
    )  # fmt: skip
    compiled.wait(200.0).expect(0)
    assert (tmp_path / "out" / "plan.yaml").is_file()


# --- boards that differ ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    name: str
    kind: str = "raspberry_pi_5"


@dataclass(frozen=True)
class Named:
    facts: Facts


def profiled(folder: Path, name: str, seconds: float, kind: str = "raspberry_pi_5") -> Profiled:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"microbatches": [{"wall_s": [seconds, seconds]}, {"wall_s": [9.0]}]}))
    board: Any = Named(Facts(name, kind))
    return Profiled(board=board, files={"m": path})


def test_a_board_that_differs_from_the_first_of_its_kind_is_told_of(tmp_path: Path) -> None:
    results = [profiled(tmp_path, "a", 0.01), profiled(tmp_path, "b", 0.0109), profiled(tmp_path, "c", 0.0112),
               profiled(tmp_path, "d", 0.0088), profiled(tmp_path, "e", 0.5, "local")]  # fmt: skip
    lines = [line for item in results for line in profile_boards._differences(item, results)]
    assert [line.split(",")[0] for line in lines] == [
        "c takes 1.12 times as long for m as a", "d takes 0.88 times as long for m as a",
    ]  # fmt: skip
    assert f"profile.files.NAME={tmp_path / 'c.yaml'}" in lines[0]
