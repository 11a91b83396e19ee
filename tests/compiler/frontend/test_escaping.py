"""What escapes a tracer or hides behind a label: the right result, or one line that says what to do."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import escaping
import pytest
import torch
from compiler_helpers import Compile
from torch import nn

from edgecompile.contract.errors import UserError
from edgecompile.execution.opened_shard import open_stage

pytestmark = pytest.mark.slow

ITEMS = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))


def words(name: str) -> tuple[str, ...]:
    return ("model=custom", f"model.build._target_=escaping.{name}", "hosts.count=2", "schedule=even", "microbatch=2",
            "model.inputs={x: {shape: [5, 8], dtype: float32}}")  # fmt: skip


@pytest.mark.parametrize("kind", escaping.WHOLE)
def test_what_symbolic_trace_takes_whole(compile_here: Compile, tmp_path: Path, kind: type[nn.Module]) -> None:
    """Shards name no device, though modules make tensors while they run, and lose no write."""
    plan = compile_here(*words(kind.__name__), "capture=symbolic_trace")
    torch.manual_seed(0)
    module = kind().eval()
    values: tuple[torch.Tensor, ...] = (ITEMS[:2],)
    for stage in plan.stages:
        values = tuple(open_stage(stage, tmp_path / "outputs").run(*values))
    with torch.no_grad():
        torch.testing.assert_close(values[0], module(ITEMS[:2]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Unpooled", "TorchScript cannot trace the model in max_unpool2d: .* try capture=export"),
        ("WholeTuple", r"the output 'output' is the whole result of a module .* \(a tuple\): .* use capture=export"),
        ("Autocast", "computes another 'output' than the model: .* use capture=export"),
        ("Replaced", "computes another 'output' than the model: .* use capture=export"),
    ],
)
def test_what_symbolic_trace_misses(compile_here: Compile, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compile_here(*words(name), "capture=symbolic_trace")
    compile_here(*words(name))


@pytest.mark.parametrize("name", ["MappedInside", "Forces"])
def test_transforms_are_refused_by_line(compile_here: Compile, name: str) -> None:
    lines, start = inspect.getsourcelines(getattr(escaping, name))
    (line,) = [start + index for index, text in enumerate(lines) if text.endswith("# here\n")]
    with pytest.raises(UserError, match=rf"escaping\.py:{line}: what torch\.vmap, torch\.func or torch\.autograd"):
        compile_here(*words(name))


def test_another_tensor_behind_a_name_is_refused(compile_here: Compile) -> None:
    with pytest.raises(UserError, match=r"compute another 'output' than the model: .* such as x\.data = y"):
        compile_here(*words("OtherData"))


@pytest.mark.parametrize("capture", ["export", "symbolic_trace"])
@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("Label", "output (before argmax)"), ("Best", "best (before topk)"), ("Sure", "output (before gt)"),
        ("Picked", "output (before topk)"), ("OneHot", "output (before argmax)"),
    ],
)  # fmt: skip
def test_a_label_hides_no_influence(compile_here: Compile, name: str, output: str, capture: str) -> None:
    """On the golden items the labels are the same whatever stands beside them."""
    with pytest.raises(UserError, match=re.escape(f"influence each other: output {output!r} of item")):
        compile_here(*words(name), f"capture={capture}")


@pytest.mark.parametrize("capture", ["export", "symbolic_trace"])
@pytest.mark.parametrize("name", ["OwnLabel", "SortedItems"])
def test_labels_of_an_items_own_compile(compile_here: Compile, name: str, capture: str) -> None:
    compile_here(*words(name), f"capture={capture}")


def test_a_limit_that_counts_for_large_values_alone_is_found(compile_here: Compile) -> None:
    with pytest.raises(UserError, match=r"influence each other: .* when the items beside it hold a value that is far"):
        compile_here(*words("RareLimit"))
