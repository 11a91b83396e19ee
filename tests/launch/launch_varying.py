"""Writes tiny plans whose messages vary in size: hand-made TorchScript shards that take any batch and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import launch_plans
import numpy as np
import torch
from launch_plans import Part, Written
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan import DataSpec, Dim, Plan, Stage, TensorSpec, TextSpec
from edgecompile.execution import torchscript

LENGTHS = (1, 24)
AXES: dict[str, tuple[str | None, ...]] = {
    "ids": ("batch", "length"),
    "mask": ("batch", "length"),
    "hidden": ("batch", "length", None),
    "flat": ("batch*length",),
    "pooled": ("batch", None),
    "tokens": ("batch", "length", None),
}
"""Of each tensor of `texts`."""

Arrays = dict[str, NDArray[Any]]


class Embed(torch.nn.Module):
    """What is beyond the mask is not zero in what crosses the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 8)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.embedding(ids), mask, ids.flatten() * 2


class Pool(torch.nn.Module):
    """The mean of the masked positions, and something of each position. `rounds`: keeps a core busy for a while."""

    def __init__(self, rounds: int = 0) -> None:
        super().__init__()
        self.rounds = rounds

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, flat: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        busy = torch.ones(300, 300) * hidden.sum()
        for _ in range(self.rounds):
            busy = (busy @ busy).clamp(0.0, 1.0)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        tokens = hidden[:, :, :3] + flat.view(mask.shape).unsqueeze(-1)
        return pooled + 0.0 * busy[0, 0], tokens


class Whole(torch.nn.Module):
    def __init__(self, first: torch.nn.Module, second: torch.nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, same, flat = self.first(ids, mask)
        return self.second(hidden, same, flat)


def texts(
    folder: Path,
    *,
    microbatch: int = 4,
    lengths: tuple[int, int] = LENGTHS,
    padded: bool = True,
    rounds: int = 0,
    num_stages: int = 2,
    least_batch: int = 1,
    tokenizer: bool = False,
    reference: bool = False,
    runtime: Mapping[str, Any] | None = None,
    **options: Any,
) -> Written:
    """Ids and a mask (length,) to `pooled` (8,) and `tokens` (length, 3). `padded`: lengths may share a message.

    `tokenizer`: a word is a token, and `wN` is N.
    """
    data = None
    if tokenizer:
        words = ["[PAD]", *(f"w{number}" for number in range(1, 50))]
        made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="w1"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.save(str(folder / "tokenizer.json"))
        text = TextSpec(tokenizer="tokenizer.json", sha256=file_sha256(folder / "tokenizer.json"),
                        max_length=lengths[1], ids="ids", mask="mask")  # fmt: skip
        data = DataSpec(kind="text", text=text)
    torch.manual_seed(3)
    torchscript.silence_deprecation()
    inputs = {"ids": torch.randint(1, 50, (6, lengths[1])), "mask": torch.ones(6, lengths[1], dtype=torch.int64)}
    parts = [
        Part(torch.jit.script(Embed().eval()), ["hidden", "mask", "flat"]),
        Part(torch.jit.script(Pool(rounds).eval()), ["pooled", "tokens"]),
    ]

    whole = torch.jit.script(Whole(*(part.module for part in parts)).eval())
    if num_stages == 1:
        parts = [Part(whole, parts[-1].outputs)]
    if reference:
        torchscript.save(torchscript.freeze(whole), folder / "reference.pt")

    def change(plan: Plan) -> Plan:
        dims = {"batch": Dim(min=least_batch, max=microbatch), "length": Dim(min=lengths[0], max=lengths[1])}
        padding = {"ids": 0.0, "mask": 0.0} if padded else {}
        golden = plan.golden
        if reference:
            sha256 = file_sha256(folder / "reference.pt")
            golden = replace(golden, reference="reference.pt", reference_sha256=sha256)
        return replace(
            plan, version=2, model=replace(plan.model, dims=dims, padding=padding), inputs=_named(plan.inputs),
            outputs=_named(plan.outputs), stages=tuple(_stage(stage) for stage in plan.stages),
            runtime=replace(plan.runtime, **(runtime or {})), golden=golden,
        )  # fmt: skip

    return launch_plans.write(folder, inputs, parts, microbatch=microbatch, change=change, data=data, **options)


def batches(folder: Path, microbatch: int = 4, **options: Any) -> Written:
    """`floats` whose messages have as many items as there are; nothing else varies."""

    def named(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, dims=("batch", None)) for spec in specs)

    def change(plan: Plan) -> Plan:
        stages = tuple(replace(it, inputs=named(it.inputs), outputs=named(it.outputs)) for it in plan.stages)
        model = replace(plan.model, dims={"batch": Dim(min=1, max=microbatch)})
        return replace(plan, version=2, model=model, inputs=named(plan.inputs), outputs=named(plan.outputs),
                       stages=stages)  # fmt: skip

    return launch_plans.floats(folder, microbatch=microbatch, change=change, **options)


def _named(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(replace(spec, dims=AXES[spec.name]) for spec in specs)


def _stage(stage: Stage) -> Stage:
    return replace(stage, inputs=_named(stage.inputs), outputs=_named(stage.outputs))


def sentences(count: int, lengths: tuple[int, int] = LENGTHS, seed: int = 0) -> list[Arrays]:
    """Items of all lengths."""
    rng = np.random.default_rng(seed)
    items = []
    for length in rng.integers(lengths[0], lengths[1] + 1, count):
        items.append({"ids": rng.integers(1, 50, length), "mask": np.ones(length, dtype=np.int64)})
    return items


def in_words(items: Sequence[Arrays]) -> list[str]:
    """The sentences that the tokenizer makes these items of."""
    return [" ".join(f"w{number}" for number in item["ids"]) for item in items]


def alone(written: Written, item: Arrays) -> Arrays:
    """What the parts make of one item by itself."""
    values: Any = tuple(torch.from_numpy(item[spec.name])[None] for spec in written.plan.inputs)
    with torch.no_grad():
        for part in written.parts:
            values = part.module(*values)
    return {name: value[0].numpy() for name, value in zip(written.parts[-1].outputs, values, strict=True)}


def check(written: Written, item: Arrays, result: Mapping[str, Any]) -> None:
    expected = alone(written, item)
    assert set(result) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(result[name]), value, rtol=1e-5, atol=1e-6)


def as_json(items: Sequence[Arrays]) -> list[dict[str, list[int]]]:
    return [{name: array.tolist() for name, array in item.items()} for item in items]
