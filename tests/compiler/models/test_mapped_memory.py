"""Large weights lie in files while a model is compiled; what is computed with them is the same."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgecompile.config.model_spec import ModelSpec
from edgecompile.contract.errors import UserError
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.golden import eager
from edgecompile.frontend.golden.eager import Eager
from edgecompile.models import mapped_memory
from edgecompile.models.builders import build_model
from edgecompile.models.mapped_memory import MappedMemory
from edgecompile.models.weights import load_weights

WIDTH = 640
SPEC = ModelSpec(
    name="tiny",
    build={
        "_target_": "edgecompile.models.from_transformers", "architecture": "BertModel",
        "config": {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 500,
                   "intermediate_size": 700},
    },
    inputs=(), outputs=(), dims={},
)  # fmt: skip
ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="pages of mapped files are let go of on Linux alone")


def in_files() -> int:
    """How many of the weights' files this process has mapped."""
    return sum(".weights." in line for line in Path("/proc/self/maps").read_text().splitlines())


@ONLY_LINUX
def test_random_weights_are_the_same_and_lie_in_files(tmp_path: Path) -> None:
    usual = build_model(SPEC, 3)
    with MappedMemory(tmp_path / "not yet there" / "outputs") as memory:
        before = in_files()
        mapped = build_model(SPEC, 3, memory)
        assert in_files() - before == sum(value.numel() * 4 >= 1 << 20 for value in mapped.parameters()) == 9
        assert list(tmp_path.iterdir()) == [], "the files have no names"
        for (name, one), (_, other) in zip(usual.named_parameters(), mapped.named_parameters(), strict=True):
            assert torch.equal(one, other), name
        memory.let_go()
        for one, other in zip(usual.parameters(), mapped.parameters(), strict=True):
            assert torch.equal(one, other)
    assert torch.equal(next(iter(usual.parameters())), next(iter(mapped.parameters()))), "they live on"


@ONLY_LINUX
def test_weights_of_a_file_are_converted_one_by_one(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    usual = build_model(SPEC, 3)
    save_file({name: value.bfloat16() for name, value in usual.state_dict().items()}, tmp_path / "w.safetensors")
    with MappedMemory(tmp_path) as memory:
        drawn = torch.get_rng_state()
        model = build_model(SPEC, 4, memory, filled=True)
        largest = max(model.parameters(), key=torch.Tensor.numel)
        assert not largest.any(), "values that a file replaces are not drawn"
        load_weights(model, str(tmp_path / "w.safetensors"), memory=memory)
        memory.let_go()
        for name, value in usual.state_dict().items():
            assert torch.equal(value.bfloat16().float(), model.state_dict()[name]), name
    torch.set_rng_state(drawn)
    lacking = {name: value for name, value in usual.state_dict().items() if "query.weight" not in name}
    save_file(lacking, tmp_path / "less.safetensors")
    with MappedMemory(tmp_path) as memory, pytest.raises(UserError, match=r"lacks .*query\.weight"):
        load_weights(build_model(SPEC, 4, memory, filled=True), str(tmp_path / "less.safetensors"), memory=memory)


@ONLY_LINUX
def test_what_was_written_in_memory_alone_is_kept(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({"x": torch.ones(1 << 20)}, tmp_path / "x.safetensors")
    (value,) = load_file(tmp_path / "x.safetensors").values()
    with MappedMemory(tmp_path) as memory:
        memory.watch([value])
        memory.let_go()
        assert bool((value == 1).all())
        value.add_(1)
        memory.let_go()
        assert bool((value == 2).all())


@ONLY_LINUX
def test_memory_stays_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_memory, "_MOST_RESIDENT_BYTES", 8 << 20)
    with MappedMemory(tmp_path) as memory:
        begin = mapped_memory._resident_file_bytes()
        values = [memory.empty((1 << 22,), dtype=torch.float32).fill_(index) for index in range(8)]
        assert all(bool((value == index).all()) for index, value in enumerate(values))
        for _ in range(200):
            if mapped_memory._resident_file_bytes() < begin + (24 << 20):
                break
            os.sched_yield()
            memory._closed.wait(0.05)
        else:
            raise AssertionError("128 MB stayed in memory")


def test_without_room_for_files_weights_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with MappedMemory(tmp_path) as memory:
        assert torch.equal(memory.empty((1 << 20,), dtype=torch.float32), torch.zeros(1 << 20))
        assert list(tmp_path.iterdir()) == []
        assert torch.equal(build_model(SPEC, 3, memory).pooler.dense.weight, build_model(SPEC, 3).pooler.dense.weight)


class Kept(nn.Module):
    """Keeps its parameters elsewhere too, and fills them when they are registered."""

    def __init__(self) -> None:
        super().__init__()
        self.late = late = nn.Parameter(torch.empty(WIDTH, WIDTH))
        nn.init.constant_(late, 0.5)
        self.others = [nn.Parameter(torch.full((WIDTH, WIDTH), float(index))) for index in range(2)]
        for index, value in enumerate(self.others):
            self.register_parameter(f"w{index}", value)
        flat = torch.ones(2 * WIDTH * WIDTH)
        self.part, self.shared = nn.Parameter(flat[: WIDTH * WIDTH]), nn.Parameter(shared := torch.ones(WIDTH * WIDTH))
        flat.fill_(3.0)
        shared.fill_(4.0)
        self.views = (flat, shared)
        self.same = self.late


@ONLY_LINUX
def test_a_users_parameters_stay_what_they_are(tmp_path: Path) -> None:
    spec = ModelSpec(name="kept", build={"_target_": "test_mapped_memory.Kept"}, inputs=(), outputs=(), dims={})
    with MappedMemory(tmp_path) as memory:
        before = in_files()
        model = build_model(spec, 0, memory)
        assert isinstance(model.others, list)
        assert in_files() - before == 3, "the late one and the two in the list; what shares memory stays"
        assert [float(value.mean()) for value in (model.late, model.w0, model.w1)] == [0.5, 0.0, 1.0]
        assert model.others[1] is model.w1
        assert model.same is model.late
        assert (float(model.part.mean()), float(model.shared.mean())) == (3.0, 4.0)
        load = {name: torch.full_like(value, 7.0) for name, value in model.state_dict().items()}
        model.load_state_dict(load)
        memory.let_go()
        assert all(bool((value == 7).all()) for value in (*model.others, model.views[1]))


class Tied(nn.Module):
    """Products of large weights: tied to a table, with and without a bias, written in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 24)
        self.first, self.second = nn.Linear(24, 70), nn.Linear(70, 24, bias=False)
        self.square = nn.Parameter(torch.randn(24, 40))

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.second(torch.tanh(self.first(self.table(ids))))
        added = torch.addmm(torch.zeros(40, dtype=x.dtype), x[:, 0], self.square)
        return functional.linear(x, self.table.weight), x @ self.square, added


def test_float64_takes_large_weights_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, ids = Tied().eval().requires_grad_(False), torch.randint(0, 100, (4, 7))
    widened: list[int] = []
    real = eager._widened

    def noted(value: object) -> object:
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            widened.append(value.numel())
        return real(value)

    monkeypatch.setattr(eager, "_MOST_WIDENED", 500)
    monkeypatch.setattr(eager, "_widened", noted)
    found = Eager(FlatModel(model, ["ids"], ()), (ids,)).run([0, 1, 2, 3], wide=True)
    assert max(widened) < 4 * 7 * 70
    for one, other in zip(found, model.double()(ids), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
