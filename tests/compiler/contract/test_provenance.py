"""What a plan was made from stands in it, and is the same wherever the config is the same."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compiler_helpers import SMALL_DEIT, TINY_VIT, Command, Compile, hand_written

import edgecompile
from edgecompile.commands.compile_command import compose, recorded_overrides
from edgecompile.commands.plan_command import main as edgeplan
from edgecompile.contract.plan_file import read_plan, write_plan

SAME: list[tuple[Sequence[str], Sequence[str]]] = [
    ([], []),
    (["microbatch=auto", "model=vit_base", "data=image", "hosts=local", "devices=local", "~passes.sink_views",
      "+passes.sink_views=true"], []),
    (["output_dir=/tmp/x", "profile.folder=/x/y", "hydra.job.name=x"], []),
    (["microbatch=4", "devices=jetson_cluster", "model=deit_tiny"],
     ["devices=jetson_cluster", "model=deit_tiny", "microbatch=4"]),
    (["experiment=vit_large_mixed", "microbatch=8"], ["experiment=vit_large_mixed"]),
    (["experiment=vit_large_mixed", "wire=int8"], ["experiment=vit_large_mixed", "wire=int8"]),
    (["weights=/a/folder/w.npz"], ["weights=w.npz"]),
    (["weights=nearby/../w.npz"], ["weights=w.npz"]),
    (["weights=pkg://a/model"], ["weights=pkg://a/model"]),
    (["devices=jetson_cluster", "hosts=local", "+board@devices.local=local"],
     ["devices=jetson_cluster", "hosts=local", "+board@devices.local=local"]),
    (["hosts.members.local.bandwidth='5Mbps'", "devices.local.python='3.11'"],
     ["devices.local.python='3.11'", "hosts.members.local.bandwidth=5Mbps"]),
    (["~passes.sink_views"], ["~passes.sink_views"]),
    (["data.labels=[a,'b c',\"d's\"]"], ["data.labels=[a,'b c','d\\'s']"]),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("given", "recorded"), SAME, ids=lambda value: " ".join(value)[:50])
def test_the_same_config_is_recorded_alike(given: Sequence[str], recorded: Sequence[str]) -> None:
    assert sorted(recorded_overrides(list(given))) == sorted(recorded)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [TINY_VIT, SMALL_DEIT, hand_written("Encoder"),
     ("schedule.constraints.pin={a.b: local-1}", "capture=symbolic_trace"),
     ("model.name='it\\'s \\\\'", "schedule=manual", "schedule.cuts=[vit.layers.3, 71]", "wire=int8", "seed=7",
      "schedule.constraints.max_latency=80ms", "schedule.constraints.min_throughput=1e-3")],
    ids=lambda value: value[0],
)  # fmt: skip
def test_what_is_recorded_gives_the_config_again(given: Sequence[str]) -> None:
    again = recorded_overrides(list(given))
    assert compose(list(again)) == compose(list(given))
    assert recorded_overrides([*again, "output_dir=elsewhere"]) == again


@pytest.mark.slow
def test_a_plan_alone_is_the_one_of_a_sweep(main_here: Command, tmp_path: Path) -> None:
    """In another folder, with its overrides in another order and one that says what holds anyway."""
    words = [*hand_written("Tied"), "hosts.count=2"]
    assert main_here("-m", *words, "microbatch=1,2", "--quiet").returncode == 0
    assert main_here("microbatch=2", "seed=0", *words, f"output_dir={tmp_path / 'own'}", "--quiet").returncode == 0
    alone = (tmp_path / "own" / "plan.yaml").read_bytes()
    assert alone == (tmp_path / "outputs" / "multirun" / "1" / "plan.yaml").read_bytes()
    made = read_plan(tmp_path / "own" / "plan.yaml").provenance
    assert made is not None
    assert (made.edgecompile, made.torch, made.python) == (
        edgecompile.__version__, str(torch.__version__), platform.python_version(),
    )  # fmt: skip
    assert made.overrides[0] == "model=custom"
    assert made.overrides[-1] == "microbatch=2"


@pytest.mark.slow
def test_old_plans_without_it_still_read(
    compile_here: Compile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = compile_here(*hand_written("Tied"))
    old = tmp_path / "outputs" / "plan.yaml"
    old.write_text(old.read_text().partition("\nprovenance:")[0] + "\n")
    assert read_plan(old).provenance is None
    assert edgeplan(["show", str(old)]) == 0
    assert "compiled by" not in capsys.readouterr().out
    assert plan.provenance is not None
    write_plan(replace(plan, provenance=replace(plan.provenance, overrides=("model=custom", "a={b: c}"))), old)
    assert edgeplan(["show", str(old)]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"compiled by edgecompile {edgecompile.__version__}" in said
    assert "edgecompile model=custom 'a={b: c}'" in said
    assert edgeplan(["explain", str(old), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert "edgecompile -m model=custom 'a={b: c}' microbatch=" in captured.out.replace("\n", " ")
    assert captured.err == ""
