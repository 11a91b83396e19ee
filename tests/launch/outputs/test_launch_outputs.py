"""Results: files, labels, accuracy, comparison with the golden items, the bottleneck's name."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launch_plans import Written

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Contingency, DataSpec, Plan, TensorSpec
from edgelaunch.common.items import Entry
from edgelaunch.inputs.labels import Accuracy, predicted_class, top_labels
from edgelaunch.outputs.golden import GoldenFile
from edgelaunch.outputs.golden_comparison import Comparison, Verifier
from edgelaunch.outputs.result_files import check_output, open_writer
from edgelaunch.outputs.results import ResultHandler
from edgelaunch.report.run_report import print_verified
from edgelaunch.transport.counters import KEPT, Series

SCORED = DataSpec(kind="tensor", result="labels", scores="y", labels=("cat", "dog"), top_k=3)


@pytest.fixture
def plan(two_stages: Written) -> Plan:
    return two_stages.plan


def test_npy_grows_row_by_row(plan: Plan, tmp_path: Path) -> None:
    writer = open_writer(plan, tmp_path / "y.npy")
    values = torch.rand(1000, 4)
    for index, row in enumerate(values):
        writer.add(Entry(index=index), {"y": row})
    assert not (tmp_path / "y.npy").exists()
    writer.finish()
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), values.numpy())
    assert [file.name for file in tmp_path.iterdir()] == ["y.npy"]


def test_npz_of_several_dtypes(three_stages: Written, tmp_path: Path) -> None:
    outputs = {
        "scores": torch.rand(8), "total": torch.tensor(3), "big": torch.ones(6, dtype=torch.bool),
        "raw": torch.full((8, 6), 1.5, dtype=torch.bfloat16),
    }  # fmt: skip
    writer = open_writer(three_stages.plan, tmp_path / "y.npz")
    for index in range(3):
        writer.add(Entry(index=index), outputs)
    writer.finish()
    given = np.load(tmp_path / "y.npz")
    assert {name: (given[name].dtype.name, given[name].shape) for name in given} == {
        "scores": ("float32", (3, 8)), "total": ("int64", (3,)), "big": ("bool", (3, 6)), "raw": ("float32", (3, 8, 6)),
    }  # fmt: skip
    assert (given["raw"] == 1.5).all()
    assert [file.name for file in tmp_path.iterdir()] == ["y.npz"]


def test_jsonl_of_arrays_and_of_labels(plan: Plan, tmp_path: Path) -> None:
    writer = open_writer(plan, tmp_path / "y.jsonl")
    writer.add(Entry(index=0, name="a.png"), {"y": torch.tensor([1.0, math.nan, math.inf, 2.0])})
    writer.finish()
    assert json.loads((tmp_path / "y.jsonl").read_text()) == {
        "index": 0, "name": "a.png", "outputs": {"y": [1.0, None, None, 2.0]},
    }  # fmt: skip
    writer = open_writer(replace(plan, data=SCORED), tmp_path / "y.jsonl")
    writer.add(Entry(index=4, label=1), {"y": torch.log(torch.tensor([0.2, 0.5, 0.2, 0.1]))})
    writer.finish()
    record = json.loads((tmp_path / "y.jsonl").read_text())
    assert record["label"] == record["true_label"] == "dog"
    assert [entry["label"] for entry in record["top"]] == ["dog", "cat", 2]
    assert record["score"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["y.npy", "y.jsonl"])
def test_a_failed_run_leaves_what_was_there(plan: Plan, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("of an earlier run")
    writer = open_writer(plan, tmp_path / name)
    writer.add(Entry(index=0), {"y": torch.rand(4)})
    writer.discard()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "of an earlier run")]


def test_outputs_that_do_not_do(plan: Plan, three_stages: Written, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the model gives scores, total, big, raw: name a .npz"):
        check_output(three_stages.plan, tmp_path / "y.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        check_output(plan, tmp_path / "folder.npy")
    with pytest.raises(UserError, match="there is no folder"):
        check_output(plan, tmp_path / "none" / "y.npy")
    with pytest.raises(UserError, match="expected a name that ends in"):
        check_output(plan, tmp_path / "y")


def test_top_labels_of_extreme_scores() -> None:
    top = top_labels(SCORED, np.array([1e4, -1e4, 0.0], np.float32))
    assert top[0] == ("cat", 1.0)
    assert sum(score for _, score in top) == pytest.approx(1)
    top = top_labels(SCORED, np.array([0.0, -np.inf, 1.0], np.float32))  # a class that is ruled out
    assert top[-1][1] == 0.0
    assert predicted_class(np.array([0.0, -np.inf, 1.0])) == 2


@pytest.mark.parametrize("scores", [[1.0, np.nan, 0.0], [np.inf, 0.0, 1.0], [-np.inf] * 3])
def test_scores_that_are_no_numbers_give_no_label(plan: Plan, tmp_path: Path, scores: list[float]) -> None:
    plan = replace(plan, data=SCORED)
    writer = open_writer(plan, tmp_path / "y.jsonl")
    handler = ResultHandler(plan, None, None, writer, lambda count: None)
    handler.add(Entry(index=0, name="a", label=0), {"y": torch.tensor(scores)})
    handler.finish()
    assert handler.accuracy.num_correct == 0
    assert handler.accuracy.num_items == 1
    assert (tmp_path / "y.jsonl").read_text().count("no label: its scores are not finite numbers") == 1


@pytest.mark.slow
def test_accuracy_and_matthews_correlation_against_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    for classes in (2, 5):
        labels = generator.integers(0, classes, 300)
        predicted = np.where(generator.random(300) < 0.6, labels, generator.integers(0, classes, 300))
        accuracy = Accuracy()
        for prediction, label in zip(predicted, labels, strict=True):
            accuracy.add(int(prediction), int(label))
        assert accuracy.num_correct / accuracy.num_items == metrics.accuracy_score(labels, predicted)
        assert accuracy.matthews() == pytest.approx(metrics.matthews_corrcoef(labels, predicted))
    constant = Accuracy()
    constant.add(1, 1)
    assert constant.matthews() == 0.0


def test_results_are_counted_and_shown(plan: Plan) -> None:
    shown: list[str] = []
    handler = ResultHandler(replace(plan, data=SCORED), None, None, None, lambda count: None, shown.append)
    for index, label in enumerate([1, 0, 1]):
        handler.add(Entry(index=index, name="x" * 100, label=label), {"y": torch.tensor([0.0, 5.0, 0.0, 0.0])})
    assert (handler.accuracy.num_correct, handler.accuracy.num_items) == (2, 3)
    assert shown[0].startswith("x" * 57 + "...: dog 98")


# --- comparison ---------------------------------------------------------------------------------------------------


def verify(written: Written, change: Any) -> None:
    golden = GoldenFile(written.plan, written.path.parent)
    verifier = Verifier(written.plan, golden)
    for index in range(written.plan.golden.num_items):
        outputs = {spec.name: golden.expected(spec.name, index).clone() for spec in written.plan.outputs}
        change(index, outputs)
        verifier.add(Entry(index=index, stream="golden"), outputs)


def verdict(capsys: pytest.CaptureFixture[str], lossy: bool, times: float = 1.0, **outputs: tuple[int, float]) -> str:
    """The last line, for outputs of so many compared items and such a difference; 0.5 is allowed."""
    found = {name: Comparison(tolerance=0.5 * times, num_items=count, max_difference=gap, max_value=2.0)
             for name, (count, gap) in outputs.items()}  # fmt: skip
    print_verified(
        "golden items", found, quiet=True, rounding="the wire formats are lossy" if lossy else "", times=times
    )
    return capsys.readouterr().out.strip()


def test_only_what_is_equal_is_called_equal(capsys: pytest.CaptureFixture[str]) -> None:
    said = verdict(capsys, lossy=False, scores=(4, 2e-7))
    assert said == "verified: 4 items equal the unsplit model's (largest difference 2e-07)"
    said = verdict(capsys, lossy=True, scores=(4, 0.25))
    assert said == (
        "verified: 4 items within the plan's tolerance of 0.5 (largest difference 0.25; the wire formats are lossy)"
    )
    said = verdict(capsys, lossy=True, times=4.0, scores=(9, 0.75), best=(0, 0.0), states=(9, 1.5))
    assert said == (
        "verified: 9 items within 4 times the plan's tolerance of 0.5 for states (largest difference 1.5; the wire "
        "formats are lossy); not compared, since rounding may turn a close decision: best"
    )
    said = verdict(capsys, lossy=True, best=(0, 0.0))
    assert said == "not compared, since rounding may turn a close decision: best"


def test_a_plan_is_lossy_where_anything_is_rounded_also_after_a_loss(three_stages: Written) -> None:
    plan = three_stages.plan
    assert not plan.lossy
    coded = replace(plan.stages[0], outputs=(TensorSpec(name="h", shape=(2, 3), dtype="bfloat16", wire="bf16"),))
    assert replace(plan, stages=(coded, *plan.stages[1:])).lossy
    spare = Contingency(lost="b", predicted=plan.predicted, certificate=plan.certificate, stages=(coded,))
    assert replace(plan, contingencies=(spare,)).lossy


def test_equal_outputs_are_verified(three_stages: Written) -> None:
    verify(three_stages, lambda index, outputs: None)
    verify(three_stages, lambda index, outputs: outputs["scores"].add_(5e-6))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "scores",
            lambda tensor: tensor.add_(0.5),
            r"output scores of golden item 0 .* by 0.5, .* allows 1e-05",
        ),
        ("scores", lambda tensor: tensor[0].fill_(math.nan), "differs from the model's by inf"),
        ("scores", lambda tensor: tensor[0].fill_(math.inf), "differs from the model's by inf"),
        ("total", lambda tensor: tensor.add_(1), "output total"),
        ("big", lambda tensor: tensor.logical_not_(), "output big"),
    ],
)
def test_differences_are_named(three_stages: Written, name: str, change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        verify(three_stages, lambda index, outputs: change(outputs[name]))


def test_golden_file_missing_or_changed(copied: Written) -> None:
    file = copied.path.parent / copied.plan.golden.file
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"golden.safetensors: the golden file is damaged"):
        GoldenFile(copied.plan, copied.path.parent)
    file.unlink()
    with pytest.raises(UserError, match=r"golden.safetensors: the golden file is missing"):
        GoldenFile(copied.plan, copied.path.parent)


def test_series_keeps_a_bounded_number() -> None:
    series = Series()
    for value in range(3 * KEPT):
        series.add(value)
    summary = series.summary()
    assert summary.count == 3 * KEPT
    assert summary.max_s == (3 * KEPT - 1) / 1e9
    assert summary.median_s == pytest.approx(2.5 * KEPT / 1e9, rel=1e-3)
