"""Weights stand beside the shards, once, whatever number of stages and fallbacks need them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from compiler_helpers import SMALL_DEIT, Compile, compile_into, hand_written
from safetensors import safe_open
from torch import nn

from edgecompile.artifacts.weight_store import _dense, _is_storable, _Stored, _write_safetensors
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan, weights_path
from edgecompile.execution.opened_shard import open_stage
from edgecompile.execution.stored_weights import StoredTensor, read_record, stored_tensors, written_record


class Views(nn.Module):
    """Constants that are not as they are stored: transposed, expanded, a slice, half precision, one shared by two."""

    def __init__(self) -> None:
        super().__init__()
        self.square = nn.Parameter(torch.randn(24, 24))
        self.wide, self.tall = nn.Parameter(torch.randn(24, 72)), nn.Parameter(torch.randn(48, 24))
        self.register_buffer("row", torch.randn(1, 24).expand(6, 24))
        self.register_buffer("fine", torch.randn(24).half())
        self.register_buffer("kept", torch.arange(24) % 3 > 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, _, last = self.wide.chunk(3, dim=1)
        x = x @ self.square.t() + self.row
        x = torch.where(self.kept, x @ first, x @ last)
        x = nn.functional.linear(x, self.tall[:24]) + nn.functional.linear(x, self.tall[24:]) + x @ self.tall[::2]
        return (x * self.fine.float()) @ self.square


class Turned(nn.Module):
    """Convolutions whose batch norms are folded into them, in the layout that a user gave them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))


def views(name: str, shape: str) -> tuple[str, ...]:
    return ("model=custom", f"model.build._target_=test_weight_store.{name}",
            f"model.inputs={{x: {{shape: {shape}, dtype: float32}}}}")  # fmt: skip


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (folder / "weights").iterdir()}


def named(plan: Plan) -> set[str]:
    stages = [*plan.stages, *(stage for item in plan.contingencies for stage in item.stages)]
    return {sha256 for stage in stages for sha256 in stage.weights}


@pytest.mark.slow
@pytest.mark.parametrize("artifact", ["torchscript", "pt2"])
def test_every_fallback_shares_the_weights(compile_here: Compile, tmp_path: Path, artifact: str) -> None:
    plan = compile_here(*SMALL_DEIT, "hosts.count=4", "schedule=even", "contingency=1", "microbatch=1",
                        f"artifact={artifact}")  # fmt: skip
    assert len(plan.contingencies) == 3
    stored, folder = files(tmp_path / "outputs"), tmp_path / "outputs"
    assert {f"{sha256}.safetensors" for sha256 in named(plan)} == set(stored)
    assert sum(stored.values()) < 1.02 * 4 * plan.model.num_parameters + 300 * len(stored)
    bundled = compile_into(tmp_path / "whole", *SMALL_DEIT, "hosts.count=4", "schedule=even", "contingency=1",
                           "microbatch=1", "artifact.bundle=true", f"artifact={artifact}")  # fmt: skip
    assert not named(bundled)
    assert (plan.version, bundled.version) == (2, 1)
    for stage in plan.stages:
        size = (folder / stage.shard).stat().st_size
        assert size < 300_000  # a pt2 archive is large without any weights
        assert stage.files[-1] == (stage.shard, stage.sha256)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("Views", "[6, 24]"), ("Turned", "[3, 12, 12]")])
@pytest.mark.parametrize("count", [1, 3])
def test_a_tensor_is_stored_once_however_it_is_seen(
    compile_here: Compile, tmp_path: Path, name: str, shape: str, count: int
) -> None:
    """compile_model() itself compares the results with the model's."""
    chosen = (*views(name, shape), f"hosts.count={count}", "schedule=even", "microbatch=2")
    plan = compile_here(*chosen)
    folder = tmp_path / "outputs"
    seen: list[str] = []
    for sha256 in named(plan):
        with safe_open(str(folder / weights_path(sha256)), framework="pt") as opened:
            values = [opened.get_tensor(key) for key in opened.keys()]  # noqa: SIM118
            seen += [value.numpy().tobytes() for value in values if len(value.unique()) > 2]  # others may be alike
    assert len(seen) == len(set(seen))
    if name == "Views":
        widened = 4 * 24  # of the one in half precision
        assert sum(map(len, seen)) == 4 * (24 * 24 + 24 * 72 + 48 * 24 + 24) + widened, "none is stored in parts"
    again = compile_into(tmp_path / "again", *chosen)
    assert named(again) == named(plan)
    assert [stage.sha256 for stage in again.stages] == [stage.sha256 for stage in plan.stages]


@pytest.mark.slow
def test_a_bundle_runs_with_torch_alone(compile_here: Compile, tmp_path: Path) -> None:
    apart = compile_here(*hand_written("Encoder"), "hosts.count=2", "schedule=even")
    whole = compile_into(tmp_path / "whole", *hand_written("Encoder"), "hosts.count=2", "schedule=even",
                         "artifact.bundle=true")  # fmt: skip
    inputs = (torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.int64))
    one = two = inputs
    for first, second in zip(apart.stages, whole.stages, strict=True):
        one = tuple(open_stage(first, tmp_path / "outputs").run(*one))
        two = tuple(torch.jit.load(str(tmp_path / "whole" / second.shard))(*two))
    assert all(torch.equal(left, right) for left, right in zip(one, two, strict=True))


@pytest.mark.slow
def test_a_missing_or_foreign_file_is_named(compile_here: Compile, tmp_path: Path) -> None:
    plan = compile_here(*hand_written("Tied"), "hosts.count=1")
    path = tmp_path / "outputs" / weights_path(plan.stages[0].weights[0])
    whole = path.read_bytes()
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match=f"{path.name}: this weights file cannot be read"):
        open_stage(plan.stages[0], tmp_path / "outputs")
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name}: this weights file of the plan is missing"):
        open_stage(plan.stages[0], tmp_path / "outputs")
    path.write_bytes(whole)
    open_stage(plan.stages[0], tmp_path / "outputs")


def test_what_is_written_is_what_safetensors_reads(tmp_path: Path) -> None:
    given = {
        "floats": torch.randn(5, 7), "fine": torch.randn(3).half(), "brain": torch.randn(3, 1).bfloat16(),
        "flags": torch.tensor([True, False, True]), "ids": torch.arange(4), "bytes": torch.arange(9, dtype=torch.uint8),
    }  # fmt: skip
    path = tmp_path / "x.safetensors"
    _write_safetensors(given, path)
    with safe_open(str(path), framework="pt") as opened:
        assert set(opened.keys()) == set(given)
        for name, value in given.items():
            assert torch.equal(opened.get_tensor(name), value)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert (8 + header) % 64 == 0


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(4, 5), torch.randn(4, 5).t(), torch.randn(1, 5).expand(6, 5), torch.randn(2, 3, 4).permute(2, 0, 1),
        torch.randn(6, 8)[2:4], torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        torch.randn(4, 4, 4).permute(2, 0, 1), torch.randn(1, 1),
    ],
)  # fmt: skip
def test_values_are_kept_in_the_order_of_memory(value: torch.Tensor) -> None:
    dense = _dense(value)
    assert dense is not None
    assert dense.data_ptr() == value.data_ptr()
    whole = _Stored(name="w", values=dense, units=set())
    parts = [value, value[:1], value[..., -1:], value.transpose(0, -1)[::2]]
    for part in parts:
        assert whole.holds(part)
        seen = whole.seen(part, "f")
        if seen.shape is None:
            assert torch.equal(dense, part)
        else:
            assert seen.stride is not None
            assert torch.equal(dense.clone().as_strided(seen.shape, seen.stride, seen.offset), part)
    assert not whole.holds(torch.randn(3))
    assert not whole.holds(dense.view(torch.int32))


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(3.0), torch.randn(4, 6)[:, :3], torch.randn(3, dtype=torch.complex64), torch.zeros(0),
        torch.eye(3).to_sparse(),
    ],
)  # fmt: skip
def test_other_tensors_stay_in_the_shard(value: torch.Tensor) -> None:
    assert not _is_storable(value) or _dense(value) is None


def test_a_record_reads_back() -> None:
    items = (StoredTensor(file="b" * 64, name="x"),
             StoredTensor(file="a" * 64, name="y", shape=(2, 3), stride=(1, 2), offset=5))  # fmt: skip
    assert read_record(written_record(items), Path("p")) == items
    assert read_record("", Path("p")) == ()
    for wrong in ("{", "[]", json.dumps({"files": [], "tensors": [[0, "x"]]})):
        with pytest.raises(UserError, match="what it says of its weights cannot be read"):
            read_record(wrong, Path("p"))
    assert stored_tensors((), Path("nowhere")) == []
