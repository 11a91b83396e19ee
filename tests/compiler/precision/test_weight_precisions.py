"""Plans whose weights alone are of 8 or 4 bits: what is stored, what is counted, and what shards compute of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from compiler_helpers import Compile, compile_into
from safetensors.torch import load_file

from edgecompile.contract.closed_sets import WEIGHT_ONLY
from edgecompile.contract.plan import Plan
from edgecompile.execution.attention import bound
from edgecompile.execution.opened_shard import open_stage
from edgecompile.execution.slot_state import SlotState, slot_value
from edgecompile.execution.weight_only import weights_of

VOCABULARY = 528
SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": VOCABULARY, "+initializer_range": 0.1}  # fmt: skip
TINY = ("model=smollm2_135m", "generation.context=64", "generation.chunk=16", "generation.prompt=16",
        "generation.tokens=16", "accuracy.budget=1", *(
            f"{'+' * name.startswith('+')}model.build.config.{name.removeprefix('+')}={size}"
            for name, size in SIZES.items()
        ))  # fmt: skip
SHARES = {"int8_weights": 0.27, "int4_weights": 0.18}
"""Of the bytes in float32 at most, with norms and headers."""


def stored(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(path) for path in sorted((folder / "weights").iterdir())]


def num_bytes(files: list[dict[str, torch.Tensor]]) -> int:
    return sum(value.numel() * value.element_size() for file in files for value in file.values())


def scores(plan: Plan, folder: Path, *, packed: bool) -> torch.Tensor:
    """Of the last of two prompts' tokens."""
    assert plan.generation is not None
    ids = torch.randint(0, VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(2))
    slots = torch.tensor([slot_value(1, row, 2) for row in range(2)])
    positions = torch.arange(16).repeat(2, 1)
    values: Any = (ids, positions, slots)
    with torch.no_grad():
        for stage in plan.stages:
            opened = open_stage(stage, folder)
            kept = SlotState(tuple(spec for spec in plan.generation.state
                                   if stage.units[0] <= spec.unit <= stage.units[1]), 2, 64)  # fmt: skip
            with bound(kept.step(slots, positions)):
                values = (opened.prepacked() if packed else opened.run)(*values)
    found: torch.Tensor = values[0]
    return found


@pytest.fixture(scope="module")
def in_fp32(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    folder = tmp_path_factory.mktemp("fp32")
    return compile_into(folder, *TINY), folder


@pytest.mark.slow
@pytest.mark.parametrize("artifact", ["torchscript", "pt2"])
@pytest.mark.parametrize("precision", [item.value for item in WEIGHT_ONLY])
def test_weights_shrink_and_results_stay_near(
    in_fp32: tuple[Plan, Path], tmp_path: Path, precision: str, artifact: str
) -> None:
    plan = compile_into(tmp_path, *TINY, f"precision={precision}", f"artifact={artifact}")
    assert {stage.precision for stage in plan.stages} == {precision}
    assert len(plan.stages) == 2
    before, after = stored(in_fp32[1]), stored(tmp_path)
    assert num_bytes(after) < SHARES[precision] * num_bytes(before)
    (wide,) = [value for file in before for value in file.values() if value.shape == (VOCABULARY, 64)]
    tables = [file for file in after if "codes" in file and len(file["codes"]) == VOCABULARY]
    assert len(tables) == 1  # of the embedding and of the head, which is tied to it
    torch.testing.assert_close(weights_of(**tables[0]), wide, atol=0.03, rtol=0)
    counted = [sum(unit.weight_bytes for unit in one.units) + sum(item.num_bytes for item in one.shared_weights)
               for one in (plan, in_fp32[0])]  # fmt: skip
    assert counted[0] < SHARES[precision] * counted[1]
    plain, true = scores(plan, tmp_path, packed=False), scores(*in_fp32, packed=False)
    error = float((plain - true).square().sum() / true.square().sum())
    assert 0 < error < (1e-3 if precision == "int8_weights" else 0.1)
    packed = scores(plan, tmp_path, packed=True)
    assert float((packed - plain).square().sum() / plain.square().sum()) < 1e-4


@pytest.mark.slow
def test_a_kept_head_has_its_weights_as_they_are(compile_here: Compile, tmp_path: Path) -> None:
    plan = compile_here(*TINY, "hosts.count=1", "precision=int4_weights", "precision.keep=[model.lm_head]")
    found = [value for file in stored(tmp_path / "outputs") for value in file.values() if len(value) == VOCABULARY]
    assert {value.dtype for value in found} == {torch.float32, torch.uint8}
    assert any("1 product of a kept module" in note for note in plan.notes)


@pytest.mark.slow
def test_bundled_shards_compute_the_same(tmp_path: Path) -> None:
    """They hold what the codes stand for, since freezing computes whatever is constant."""
    words = (*TINY, "hosts.count=1", "precision=int4_weights")
    plan = compile_into(tmp_path / "one", *words)
    bundled = compile_into(tmp_path / "other", *words, "artifact.bundle=true")
    assert not (tmp_path / "other" / "weights").exists()
    one, other = scores(plan, tmp_path / "one", packed=False), scores(bundled, tmp_path / "other", packed=False)
    torch.testing.assert_close(other, one, rtol=0, atol=1e-2)


@pytest.mark.slow
def test_kinds_of_device_differ_in_what_their_weights_take(compile_here: Compile) -> None:
    plan = compile_here(*TINY, "model.build.config.tie_word_embeddings=false", "devices=mixed_home",
                        "devices.laptop_cpu.precision=int4_weights", "devices.intel_n100.precision=int8_weights",
                        )  # fmt: skip
    (table,) = [unit for unit in plan.units if "embed_tokens" in unit.op and unit.weight_bytes]
    assert table.weight_bytes == 4 * 64 * VOCABULARY  # as on those in float32
    assert table.saved_bytes == {"laptop_cpu": table.weight_bytes * 27 // 32, "intel_n100": table.weight_bytes * 3 // 4}
    wanted = {"laptop_cpu": "int4_weights", "intel_n100": "int8_weights"}
    kinds = {host.name: host.device for host in plan.hosts}
    for stage in plan.stages:
        assert stage.precision == wanted.get(kinds[plan.hosts[stage.rank].name], "fp32")
