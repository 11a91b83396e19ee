"""Whole runs: every way to start the ranks gives the model's own results."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import launch_plans
import numpy as np
import pytest
import torch
from launch_harness import Running, free_port, run, run_ranks
from launch_plans import Written


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 4), dtype=np.float32)


@pytest.fixture
def x(tmp_path: Path) -> Path:
    """Seven items: with microbatch 2 the last microbatch is partial."""
    np.save(tmp_path / "x.npy", rows(7))
    return tmp_path / "x.npy"


@pytest.mark.slow
def test_local_gives_the_models_results_in_order(two_stages: Written, x: Path, tmp_path: Path) -> None:
    ended = run(two_stages.path, "--local", "--input", x, "--output", tmp_path / "y.npy").expect(0)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 4 * rows(7))
    for text in ("7 results in", "items/s overall", "predicted", "bottleneck:"):
        assert text in ended.out
    assert "rank 1 (host-1): stage 1, units 1-1, cpu, 1 thread: ready" in ended.err


@pytest.mark.slow
def test_several_inputs_outputs_and_dtypes_verified_then_streamed(three_stages: Written, tmp_path: Path) -> None:
    torch.manual_seed(3)
    items = {"ids": torch.randint(0, 50, (7, 6)), "mask": torch.randint(0, 2, (7, 6))}
    np.savez(tmp_path / "x.npz", ids=items["ids"].int().numpy(), mask=items["mask"].bool().numpy())
    ended = run(three_stages.path, "--local", "--verify", "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz")
    assert "verified: 5 items equal" in ended.expect(0).out
    with torch.no_grad():
        expected = three_stages.eager(items)
    given = np.load(tmp_path / "y.npz")
    assert {name: given[name].dtype.name for name in given} == {
        "scores": "float32", "total": "int64", "big": "bool", "raw": "float32",
    }  # fmt: skip
    for name, tensor in expected.items():
        np.testing.assert_allclose(given[name], tensor.float().numpy(), atol=1e-6)


@pytest.mark.slow
def test_one_stage_runs_as_one_process(one_stage: Written, x: Path, tmp_path: Path) -> None:
    run(one_stage.path, "--input", x, "--output", tmp_path / "y.npy").expect(0)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 2 * rows(7))


@pytest.mark.slow
def test_ranks_by_hand(two_stages: Written, x: Path, tmp_path: Path) -> None:
    master = f"127.0.0.1:{free_port()}"
    commands = [
        [two_stages.path, "--rank", rank, "--master", master, "--input", x, "--output", tmp_path / "y.npy", "--verify"]
        for rank in (1, 0)
    ]
    second, first = run_ranks(commands)
    assert "verified: 6 items" in first.expect(0).out
    assert "done" in second.expect(0).err
    assert second.out == ""
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 4 * rows(7))


@pytest.mark.slow
def test_ranks_by_hand_whose_plan_names_other_machines(tmp_path: Path, x: Path) -> None:
    plan = launch_plans.floats(tmp_path / "far", addresses=["198.51.100.1", "198.51.100.2"])
    master = f"127.0.0.1:{free_port()}"
    for ended in run_ranks([[plan.path, "--rank", rank, "--master", master, "--verify"] for rank in (0, 1)]):
        ended.expect(0)


@pytest.mark.slow
def test_data_host_without_a_stage(tmp_path: Path, x: Path) -> None:
    plan = launch_plans.floats(tmp_path / "plan", ranks=[1, 2])
    run(plan.path, "--local", "--input", x, "--output", tmp_path / "y.npy", "--quiet").expect(0)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 4 * rows(7))


@pytest.mark.slow
def test_the_data_host_may_run_a_later_stage(tmp_path: Path, x: Path) -> None:
    plan = launch_plans.floats(tmp_path / "plan", num_stages=3, ranks=[1, 0, 2])
    run(plan.path, "--local", "--input", x, "--output", tmp_path / "y.npy").expect(0)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 8 * rows(7))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("torchrun", path=os.path.dirname(sys.executable)) is None, reason="no torchrun")
def test_torchrun(two_stages: Written, x: Path, tmp_path: Path) -> None:
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    script = tmp_path / "start"  # as the installed script: no suffix
    script.write_text("import sys\nfrom edgelaunch.commands.launch_command import main\nsys.exit(main())\n")
    command = ["--nproc-per-node", 2, "--master-port", free_port(), script, two_stages.path]
    data = ["--input", x, "--output", tmp_path / "y.npy"]
    Running([*command, *data], program=[torchrun]).wait().expect(0)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 4 * rows(7))


@pytest.mark.slow
def test_large_messages_travel_in_pieces(tmp_path: Path) -> None:
    torch.manual_seed(2)
    inputs = {"x": torch.rand(3, 700_001)}
    parts = [launch_plans.Part(launch_plans.Scale(2.0), ["y"]) for _ in range(2)]
    plan = launch_plans.write(tmp_path, inputs, parts, microbatch=2)
    assert "verified: 3 items" in run(plan.path, "--local", "--verify").expect(0).out


@pytest.mark.slow
def test_synthetic_items_without_input(one_stage: Written) -> None:
    ended = run(one_stage.path, "--items", 5).expect(0)
    assert ended.out.count("item ") == 5
    assert "5 items in" in ended.out


@pytest.mark.slow
def test_items_limits_a_file(one_stage: Written, x: Path, tmp_path: Path) -> None:
    run(one_stage.path, "--input", x, "--items", 3, "--output", tmp_path / "y.jsonl", "--quiet").expect(0)
    records = [json.loads(line) for line in (tmp_path / "y.jsonl").read_text().splitlines()]
    assert [record["index"] for record in records] == [0, 1, 2]
    np.testing.assert_allclose([record["outputs"]["y"] for record in records], 2 * rows(7)[:3])


@pytest.mark.slow
def test_a_difference_is_named(copied: Written) -> None:
    from safetensors.torch import load_file, save_file

    golden = copied.path.parent / copied.plan.golden.file
    tensors = load_file(golden)
    tensors["output.y"][4, 1] += 0.25
    save_file(tensors, golden)
    launch_plans.rehash_golden(copied)
    run(copied.path, "--local", "--verify").expect_error("output y of golden item 4", "0.25", "1e-05")


@pytest.mark.slow
def test_pt2_artifact(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path, num_stages=1)
    launch_plans.export_stage(plan, 0, launch_plans.Scale(2.0))
    assert "verified: 6 items" in run(plan.path, "--verify").expect(0).out


def test_version_and_help_need_no_torch(two_stages: Written) -> None:
    code = (
        "import sys, edgelaunch.commands.launch_command as c\n"
        f"assert c.main([{str(two_stages.path)!r}, '--items', '0']) == 2\n"
        "assert 'torch' not in sys.modules\n"
        "try: c.main(['--version'])\n"
        "except SystemExit as e: sys.exit(e.code)\n"
    )
    ended = Running(["-c", code], program=[sys.executable]).wait()
    assert ended.expect(0).out.startswith("edgelaunch ")
