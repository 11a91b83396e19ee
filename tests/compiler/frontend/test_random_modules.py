"""Modules made at random: each compiles to shards that give every item its own result, or is refused by name."""

from __future__ import annotations

import copy
import functools
import itertools
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_modules import LENGTH, MIXING, OUTPUTS, PURE, UNFIT, WIDTH, RandomModule
from torch.utils._pytree import tree_leaves

from edgecompile.commands.compile_command import compose
from edgecompile.config.schema import Conf
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.execution.opened_shard import open_stage
from edgecompile.pipeline import compile_model

pytestmark = pytest.mark.slow

ITEMS = torch.randn(5, LENGTH, WIDTH, generator=torch.Generator().manual_seed(7))
NUM_MODULES = int(os.environ.get("RANDOM_MODULES", "320"))
"""How many are made; one in four has a part that does not treat each item by itself."""
IN_ALL_WAYS = "RANDOM_MODULES_ALL" in os.environ
"""Whether each is compiled at every microbatch size and wire format; as a rule it is at one that is drawn."""
NOTHING = 1e-4
ORDERS = ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [1, 1, 3, 1, 1], [2])


@functools.cache
def base() -> Conf:
    inputs = f"{{x: {{shape: [{LENGTH}, {WIDTH}], dtype: float32}}}}"
    return compose(
        ["model=custom", "model.build._target_=random_modules.RandomModule", f"model.inputs={inputs}",
         "hosts.count=2", "schedule=even"]
    )  # fmt: skip


def compiled(parts: list[str], output: str, microbatch: int, wire: str, folder: Path) -> Plan:
    conf = copy.deepcopy(base())
    conf.model.build = {**conf.model.build, "parts": parts, "output": output}
    conf.microbatch, conf.wire.format, conf.output_dir = microbatch, wire, str(folder)
    return compile_model(conf, lambda _: nullcontext())


def outcome(parts: list[str], output: str, microbatch: int, wire: str, folder: Path) -> Plan | UserError:
    """The plan, or why there is none."""
    try:
        return compiled(parts, output, microbatch, wire, folder)
    except UserError as error:
        return error


def check(parts: list[str], output: str, microbatch: int, wire: str) -> None:
    """Compiles and runs, or sees a refusal that a part calls for; a norm may undo what such a part does."""
    unruly = set(parts) & {*UNFIT, *MIXING}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = outcome(parts, output, microbatch, wire, folder)
        if isinstance(found, UserError):
            if wire == "int8" and "wire.max_error" in str(found):
                assert any(cancels(leaf) for leaves in alone(parts, output) for leaf in leaves), found
                return
            assert unruly, found
            assert any(reason in str(found) for reason in ("is random", "keeps state", "influence each other")), found
        else:
            assert unruly or not any("influence each other" in note for note in found.notes)
            check_items(found, folder, parts, output)


def alone(parts: list[str], output: str) -> list[list[torch.Tensor]]:
    """The eager model's outputs for each item by itself."""
    torch.manual_seed(0)
    module = RandomModule(parts, output).eval()
    with torch.no_grad():
        return [tree_leaves(module(ITEMS[row : row + 1].clone())) for row in range(len(ITEMS))]


def cancels(value: torch.Tensor) -> bool:
    """Whether nothing but rounding is left, as of a sum of normalised values; the largest of it is chance."""
    return value.is_floating_point() and float(value.abs().max()) < NOTHING


def check_items(plan: Plan, folder: Path, parts: list[str], output: str) -> None:
    """Each item, whatever stands beside it, comes out as the eager model computes it alone."""
    by_item = alone(parts, output)
    stages = [open_stage(stage, folder).run for stage in plan.stages]
    size, lossless = plan.model.microbatch, plan.scheduling.wire == "fp32"
    for order in ORDERS:
        for start in range(0, len(order), size):
            rows = [order[min(start + place, len(order) - 1)] for place in range(size)]
            values = [ITEMS[rows]]
            for stage in stages:
                values = [value.contiguous() for value in stage(*values)]
            for spec, value, *wanted in zip(plan.outputs, values, *[by_item[row] for row in rows], strict=True):
                for row, got, want in zip(rows, value, wanted, strict=True):
                    if got.is_floating_point():
                        largest, least = float((got - want[0]).abs().max()), 1e-5 if cancels(want) else 1e-6
                        assert largest <= 3 * plan.golden.tolerance[spec.name] + least, (order, spec.name, largest)
                    elif lossless and not (spec.name == "label" and cancels(by_item[row][0])):
                        assert torch.equal(got, want[0]), (order, spec.name)


def check_ways(parts: list[str], output: str, microbatch: int, wire: str) -> None:
    ways = itertools.product(range(1, 5), ("fp32", "int8")) if IN_ALL_WAYS else [(microbatch, wire)]
    for way in ways:
        check(parts, output, *way)


PARTS = st.lists(st.sampled_from(sorted(PURE)), min_size=1, max_size=5)


@pytest.mark.timeout(10_000 if IN_ALL_WAYS else 900)
@settings(
    max_examples=NUM_MODULES * 3 // 4,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)
@given(PARTS, st.sampled_from(sorted(OUTPUTS)), st.integers(1, 4), st.sampled_from(["fp32", "int8"]))
def test_modules_that_treat_each_item_by_itself(parts: list[str], output: str, microbatch: int, wire: str) -> None:
    check_ways(parts, output, microbatch, wire)


@pytest.mark.timeout(10_000 if IN_ALL_WAYS else 900)
@settings(
    max_examples=NUM_MODULES // 4,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)
@given(PARTS, st.sampled_from(sorted({**MIXING, **UNFIT})), st.integers(0, 5), st.sampled_from(sorted(OUTPUTS)),
       st.integers(1, 4), st.sampled_from(["fp32", "int8"]))  # fmt: skip
def test_modules_with_one_part_that_does_not(
    parts: list[str], bad: str, place: int, output: str, microbatch: int, wire: str
) -> None:
    check_ways([*parts[:place], bad, *parts[place:]], output, microbatch, wire)
