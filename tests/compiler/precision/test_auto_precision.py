"""precision=auto: the fastest choice within the budget, what stays in float32 for it, and where it looks."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from compiler_helpers import Compile, compile_into
from torch import nn

from edgecompile.commands.compile_command import compose
from edgecompile.config.measure_request import measure_of
from edgecompile.config.request import request_of
from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.measure import session
from edgecompile.precision import sensitivity
from edgecompile.precision.auto_precision import choices_of

INPUTS = "model.inputs={x: {shape: [64], dtype: float32}}"
KINDS = (
    "defaults: [/board@a: local, /board@b: local, _self_]\n"
    "a: {precisions: [bf16], peak: {float32: 10e9, bfloat16: 17e9}}\n"
    "b: {precisions: [bf16, int8], peak: {float32: 8e9, bfloat16: 14e9, int8: 40e9}}\n"
)


class Deep(nn.Module):
    def __init__(self, outlier: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64 if index == 0 else 512, 512) for index in range(6))
        self.head = nn.Linear(512, 10)
        if outlier:  # one channel of what the fourth layer reads is ten thousand times as large as the others
            with torch.no_grad():
                self.layers[2].bias[0] = 10_000
                self.layers[3].weight[:, 0] /= 10_000

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


def deep() -> nn.Module:
    return Deep(outlier=False).eval()


def outlier() -> nn.Module:
    return Deep(outlier=True).eval()


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    for name, text in (("devices", KINDS), ("hosts", "members: {a: {device: a}, b: {device: b, port: 29510}}\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "two.yaml").write_text(text)
    return [f"hydra.searchpath=[file://{tmp_path}]", "devices=two", "model=custom", INPUTS, "microbatch=64",
            "model.build._target_=test_auto_precision.deep", f"profile.folder={tmp_path}/profiles"]  # fmt: skip


def _of(plan: Plan) -> dict[str, str]:
    return {plan.hosts[stage.rank].device: stage.precision for stage in plan.stages}


def test_what_is_taken_is_the_best_of_all_choices(words: list[str], tmp_path: Path) -> None:
    plan = compile_into(tmp_path / "auto", *words, "precision=auto")
    periods = {}
    for a, b in product(("fp32", "bf16"), ("fp32", "bf16", "int8")):
        given = (f"devices.a.precision={a}", f"devices.b.precision={b}")
        periods[a, b] = compile_into(tmp_path / f"{a}-{b}", *words, *given).predicted.period_s
    assert plan.predicted.period_s == min(periods.values())
    assert _of(plan) == {"a": "bf16", "b": "int8"}
    assert plan.certificate.gap == 0
    assert any("precision=auto took" in note for note in plan.notes)
    assert plan.accuracy is not None
    assert max(plan.accuracy.error.values()) <= 0.01


def test_a_budget_moves_the_cuts_and_the_precisions(words: list[str], tmp_path: Path) -> None:
    fp32 = compile_into(tmp_path / "fp32", *words)
    coarse = compile_into(tmp_path / "coarse", *words, "precision=auto")
    assert coarse.accuracy is not None
    budget = max(coarse.accuracy.error.values()) / 3
    fine = compile_into(tmp_path / "fine", *words, "precision=auto", f"accuracy.budget={budget}")
    strict = compile_into(tmp_path / "strict", *words, "precision=auto", "accuracy.budget=1e-12")
    assert "int8" not in _of(fine).values() or any("in fp32 for the budget" in note for note in fine.notes)
    assert coarse.predicted.period_s < fine.predicted.period_s < fp32.predicted.period_s
    assert set(_of(strict).values()) == {"fp32"}
    assert strict.accuracy is None
    for plan in (fine, coarse):
        assert plan.accuracy is not None
        assert max(plan.accuracy.error.values()) <= plan.accuracy.budget


def test_the_module_that_costs_most_stays_in_fp32(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word.replace(".deep", ".outlier") for word in words]
    with pytest.raises(UserError, match=r"most is lost in layers\.3"):
        compile_into(tmp_path / "whole", *words, "devices.b.precision=int8", "accuracy.budget=0.001")
    asked = [*words, "devices.b.precision=auto", "devices.a.precision=bf16", "accuracy.budget=0.001", "contingency=1"]
    plan = compile_into(tmp_path / "auto", *asked)
    assert _of(plan)["b"] == "int8"
    (kept,) = [note for note in plan.notes if "in fp32 for the budget" in note]
    assert "layers.3" in kept
    assert plan.accuracy is not None
    assert max(plan.accuracy.error.values()) <= 0.001  # of the plan after the loss of b, too
    (file,) = (tmp_path / "profiles").iterdir()
    assert "layers.3" in file.read_text()

    def again(*_: Any, **__: Any) -> dict[str, float]:
        raise AssertionError("measured again")

    monkeypatch.setattr(sensitivity, "module_errors", again)
    same = compile_into(tmp_path / "auto", *asked)
    assert (same.stages, same.notes) == (plan.stages, plan.notes)
    with pytest.raises(AssertionError, match="measured again"):  # other weights
        compile_into(tmp_path / "auto", *asked, "seed=1")
    file.write_text("a file of mine")
    with pytest.raises(UserError, match=r"sensitivity.*is not a"):
        compile_into(tmp_path / "auto", *asked)
    assert file.read_text() == "a file of mine"


def test_where_fewer_bits_gain_nothing_all_stay(words: list[str], tmp_path: Path) -> None:
    """A link that is slower than everything else."""
    slow = ("schedule=even", "hosts.members.b.bandwidth=1Mbps", "hosts.members.a.bandwidth=1Mbps")
    plan = compile_into(tmp_path / "slow", *words, "precision=auto", *slow)
    assert set(_of(plan).values()) == {"fp32"}


def test_microbatch_and_precision_are_chosen_together(words: list[str], tmp_path: Path) -> None:
    both = [word for word in words if not word.startswith("microbatch")]
    plan = compile_into(tmp_path / "both", *both, "precision=auto", "microbatch=auto")
    rates = []
    for microbatch in (1, 2, 4, 8, 16, 32, 64):
        one = compile_into(tmp_path / "one", *both, "precision=auto", f"microbatch={microbatch}")
        rates.append(one.predicted.throughput_items_per_s)
    assert plan.predicted.throughput_items_per_s >= 0.9 * max(rates)


def test_many_kinds_are_not_all_combined(words: list[str], tmp_path: Path) -> None:
    names = "abcdefgh"
    text = f"defaults: [{', '.join(f'/board@{name}: local' for name in names)}, _self_]\n"
    for name in names:
        text += f"{name}: {{precisions: [bf16, int8], peak: {{float32: 8e9, bfloat16: 14e9, int8: 40e9}}}}\n"
    (tmp_path / "devices" / "two.yaml").write_text(text)
    members = ", ".join(f"{name}: {{device: {name}, port: {29500 + 10 * place}}}" for place, name in enumerate(names))
    (tmp_path / "hosts" / "two.yaml").write_text(f"members: {{{members}}}\n")
    request = request_of(compose([*words, "precision=auto", f"output_dir={tmp_path / 'o'}"]))
    assert [set(choice.values()) for choice in choices_of(request)] == [
        {Precision.FP32}, {Precision.BF16}, {Precision.INT8},
    ]  # fmt: skip


def test_a_machine_measures_what_it_has_kernels_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    request = measure_of(compose(["model=deit_tiny", "precision=auto", f"profile.folder={tmp_path}"]))
    monkeypatch.setattr(session, "fast_here", lambda precision: precision is Precision.FP32)
    assert [part.device.precision for part in session.in_precisions(request)] == [Precision.FP32]
    monkeypatch.setattr(session, "fast_here", lambda precision: precision is not Precision.FP16)
    found = [part.device.precision for part in session.in_precisions(request)]
    assert found == [Precision.FP32, Precision.BF16, Precision.INT8]
    fixed = replace(request, device=replace(request.device, auto=False))
    assert session.in_precisions(fixed) == (fixed,)


def test_a_device_without_figures_stays_in_fp32_and_the_plan_says_so(compile_here: Compile) -> None:
    plan = compile_here("model=custom", INPUTS, "microbatch=4", "model.build._target_=test_auto_precision.deep",
                        "precision=auto", "hosts.count=1")  # fmt: skip
    assert [stage.precision for stage in plan.stages] == ["fp32"]
    assert any("local stays in fp32" in note for note in plan.notes)


def test_a_lossy_wire_is_not_counted_as_the_precisions(words: list[str], tmp_path: Path) -> None:
    fp32 = compile_into(tmp_path / "fp32", *words, "wire=int4")
    plain = compile_into(tmp_path / "plain", *words, "precision=auto")
    plan = compile_into(tmp_path / "auto", *words, "precision=auto", "wire=int4", "accuracy.budget=1e-3")
    assert plan.accuracy is not None
    assert plain.accuracy is not None
    assert max(plan.accuracy.error.values()) <= 1e-3
    (name,) = [spec.name for spec in fp32.outputs]
    assert fp32.golden.error[name] > 0.002
    assert plan.accuracy.error[name] < 5 * plain.accuracy.error[name]
