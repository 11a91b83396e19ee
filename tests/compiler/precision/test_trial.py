"""accuracy.items: the user's own items, read as --input reads them, and the scores that the plan holds of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiler_helpers import Compile
from torch import nn

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.execution.opened_shard import open_stage
from edgecompile.precision.trial import Trial, squared_error

INPUTS = "model.inputs={x: {shape: [64], dtype: float32}}"
WORDS = ("model=custom", INPUTS, "model.build._target_=test_trial.classifier",
         "hosts.count=2", "schedule=even", "precision=int8")  # fmt: skip


def classifier() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).eval()


def run(plan: Plan, folder: Path, values: Any) -> torch.Tensor:
    with torch.no_grad():
        for stage in plan.stages:
            values = open_stage(stage, folder).run(*values)
    result: torch.Tensor = values[0]
    return result


@pytest.mark.parametrize("microbatch", [1, 7])
def test_errors_and_labels_are_those_of_the_plans_shards(
    compile_here: Compile, tmp_path: Path, microbatch: int
) -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((40, 64)).astype("float32"), rng.integers(0, 10, 40)
    np.savez(tmp_path / "items.npz", x=x, label=labels)
    words = (*WORDS, f"microbatch={microbatch}", f"accuracy.items={tmp_path / 'items.npz'}", "data.result=labels")
    plan = compile_here(*words)
    with torch.no_grad():
        true = classifier()(torch.from_numpy(x))
    rows = torch.from_numpy(x).split(1)
    found = torch.cat([run(plan, tmp_path / "outputs", (row,)) for row in rows])
    assert plan.accuracy is not None
    own, (name,) = plan.accuracy.items, [spec.name for spec in plan.outputs]
    assert own is not None
    assert own.items == "40 items of items.npz"
    assert own.error[name] == pytest.approx(squared_error([(found, true)]), rel=1e-3)
    assert own.agreement[name] == pytest.approx(float((found.argmax(1) == true.argmax(1)).double().mean()))
    assert own.right == pytest.approx(float((found.argmax(1).numpy() == labels).mean()))
    assert own.model_right == pytest.approx(float((true.argmax(1).numpy() == labels).mean()))
    assert read_plan(tmp_path / "outputs" / "plan.yaml") == plan
    assert any("get the right label" in note for note in plan.notes)


def test_the_budget_holds_on_the_users_items_and_not_on_the_golden_ones(compile_here: Compile, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((20, 64)).astype("float32")
    np.savez(tmp_path / "usual.npz", x=x)
    x[:, 0] = 300  # so that the others are rounded to few levels
    np.savez(tmp_path / "odd.npz", x=x)
    found = {}
    for name in ("usual", "odd"):
        plan = compile_here(*WORDS, "microbatch=4", f"accuracy.items={tmp_path / name}.npz", "accuracy.budget=1")
        assert plan.accuracy is not None
        assert plan.accuracy.items is not None
        found[name] = max(plan.accuracy.items.error.values())
    limit = (found["usual"] * found["odd"]) ** 0.5
    assert found["usual"] < limit < found["odd"]
    compile_here(*WORDS, "microbatch=4", f"accuracy.items={tmp_path}/usual.npz", f"accuracy.budget={limit}")
    with pytest.raises(UserError, match=r"on 20 items of odd\.npz\), more than .*most is lost in 0 "):
        compile_here(*WORDS, "microbatch=4", f"accuracy.items={tmp_path}/odd.npz", f"accuracy.budget={limit}")


def test_at_most_so_many_items_are_read(compile_here: Compile, tmp_path: Path) -> None:
    np.savez(tmp_path / "items.npz", x=np.ones((40, 64), "float32"))
    plan = compile_here(*WORDS, f"accuracy.items={tmp_path}/items.npz", "accuracy.most_items=9")
    assert plan.accuracy is not None
    assert plan.accuracy.items is not None
    assert plan.accuracy.items.items == "9 items of items.npz"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 63), "float32"), r"accuracy\.items: .*x is float32 \(3, 63\)"),
        (np.ones((0, 64), "float32"), r"accuracy\.items: .*holds no items"),
    ],
)
def test_items_that_do_not_fit_are_named(compile_here: Compile, tmp_path: Path, array: Any, message: str) -> None:
    np.savez(tmp_path / "items.npz", x=array)
    with pytest.raises(UserError, match=message):
        compile_here(*WORDS, f"accuracy.items={tmp_path}/items.npz")
    with pytest.raises(UserError, match=r"accuracy\.items: .*nowhere.*no such file"):
        compile_here(*WORDS, f"accuracy.items={tmp_path}/nowhere")


def test_embeddings_agree_if_their_nearest_neighbours_do() -> None:
    true = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    moved = true.clone()
    moved[1] = torch.tensor([0.2, 0.9])  # now nearest to the last one, which then is nearest to it
    trial = Trial(what="", names=("e",), messages=((true[:3],), (true[3:],)), counts=(3, 1),
                  true=((true[:3],), (true[3:],)), neighbours=True)  # fmt: skip
    assert trial.score([(true[:3],), (true[3:],)]).agreement == {"e": 1.0}
    assert trial.score([(moved[:3],), (moved[3:],)]).agreement == {"e": 0.5}
    assert trial.score([(3 * true[:3],), (3 * true[3:],)]).agreement == {"e": 1.0}


def test_values_that_are_not_finite_where_the_model_has_finite_ones_are_beyond_any_budget() -> None:
    true = torch.tensor([[1.0, float("inf")], [2.0, 3.0]])
    assert squared_error([(true, true)]) == 0
    broken = true.clone()
    broken[1, 0] = float("nan")
    assert squared_error([(broken, true)]) == float("inf")
    assert squared_error([(torch.ones(2, 2), torch.zeros(2, 2))]) == 1.0


def test_outputs_without_a_finite_number_are_refused(compile_here: Compile, tmp_path: Path) -> None:
    x = np.ones((3, 64), "float32")
    x[1] = np.nan  # one among others
    np.savez(tmp_path / "items.npz", x=x)
    with pytest.raises(UserError, match=r"accuracy\.items: .*items\.npz: the model gives .* without one finite number"):
        compile_here(*WORDS, f"accuracy.items={tmp_path}/items.npz", "microbatch=2")


def test_rows_of_unlike_lengths_are_no_scores() -> None:
    true = (torch.ones(2, 3), torch.ones(1, 5))
    trial = Trial(what="", names=("e",), messages=((true[0],), (true[1],)), counts=(2, 1),
                  true=((true[0],), (true[1],)))  # fmt: skip
    score = trial.score([(true[0],), (true[1],)])
    assert (score.error, score.agreement) == ({"e": 0.0}, {})


def test_all_kept_is_fp32(compile_here: Compile) -> None:
    plan = compile_here(*WORDS, "precision.keep=['0','2']")
    assert [stage.precision for stage in plan.stages] == ["fp32", "fp32"]
    assert any("all products are of kept modules" in note for note in plan.notes)
