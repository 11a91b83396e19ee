"""Results of a run that was broken off: what another run goes on with, and what it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from launch_plans import Written

from edgecompile.contract.errors import UserError
from edgelaunch.common.items import STDIN, Entry
from edgelaunch.outputs.partial_results import Origin, left_behind, origin_of
from edgelaunch.outputs.result_files import open_writer
from edgelaunch.request.run_request import RunRequest

ORIGIN = Origin("plan", {"path": "x"})


@pytest.mark.parametrize("name", ["y.npy", "y.npz", "y.jsonl"])
def test_an_output_is_gone_on_with(two_stages: Written, tmp_path: Path, name: str) -> None:
    path, values = tmp_path / name, torch.rand(5, 4)
    writer = open_writer(two_stages.plan, path, ORIGIN)
    for index in range(3):
        writer.add(Entry(index=index), {"y": values[index]})
    writer.discard()
    assert left_behind(path) == f"the results so far are in {path}.partial: continue with --resume"
    rows = tmp_path / f"{name}.partial" / ("rows.jsonl" if name == "y.jsonl" else "0.npy")
    with rows.open("ab") as file:
        file.write(b'{"index": 3, "out')
    writer = open_writer(two_stages.plan, path, ORIGIN, resume=True)
    assert writer.next_index == (4 if name != "y.jsonl" else 3)  # 17 bytes make one row of four floats
    for index in range(writer.next_index, 5):
        writer.add(Entry(index=index), {"y": values[index]})
    writer.finish()
    assert [file.name for file in tmp_path.iterdir()] == [name]
    if name == "y.jsonl":
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert [record["index"] for record in records] == list(range(5))
        given = np.array([record["outputs"]["y"] for record in records])
        np.testing.assert_allclose(given, values.numpy(), rtol=1e-6)


def test_another_plan_or_input_is_no_start_to_go_on_from(two_stages: Written, tmp_path: Path) -> None:
    path = tmp_path / "y.npy"
    writer = open_writer(two_stages.plan, path, ORIGIN)
    writer.add(Entry(index=0), {"y": torch.rand(4)})
    with pytest.raises(UserError, match="another run writes this output"):
        open_writer(two_stages.plan, path, ORIGIN)
    writer.discard()
    for other, key in ((Origin("other", {"path": "x"}), "plan"), (Origin("plan", {"path": "z"}), "input")):
        with pytest.raises(UserError, match=f"holds results of another {key} than this run's"):
            open_writer(two_stages.plan, path, other, resume=True)
    fresh = open_writer(two_stages.plan, path, ORIGIN)
    assert fresh.next_index == 0
    fresh.discard()
    assert left_behind(path) is None


def test_what_does_not_come_again_is_not_kept(two_stages: Written, tmp_path: Path) -> None:
    path = tmp_path / "y.jsonl"
    origin = origin_of(two_stages.plan, RunRequest(plan_path=two_stages.path, input=Path(STDIN)))
    writer = open_writer(two_stages.plan, path, origin)
    writer.add(Entry(index=0), {"y": torch.rand(4)})
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.npy").write_bytes(b"1")
    request = RunRequest(plan_path=two_stages.path, input=tmp_path / "x.npy")
    before = origin_of(two_stages.plan, request)
    (tmp_path / "x.npy").write_bytes(b"12")
    assert origin_of(two_stages.plan, request) != before
    assert origin_of(two_stages.plan, replace(request, input=tmp_path)).input is not None
