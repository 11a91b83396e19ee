"""Golden items and what the eager model makes of them, in its own precision and in float64."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.golden.golden_items import make_reference

ITEMS = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Insists(nn.Module):
    """Takes float32 alone, and where `size` is set, only batches of that many."""

    calls: ClassVar[list[int]] = []
    """The number of items of each call, of all modules: an attribute that forward() writes would be put back."""

    def __init__(self, dtype: torch.dtype | None, size: int | None) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)
        self.dtype, self.size = dtype, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(x))
        if self.dtype not in (None, x.dtype) or self.size not in (None, len(x)):
            raise TypeError(f"{x.dtype} and {len(x)} items do not do")
        return self.linear(x)


@pytest.mark.parametrize("size", [None, 2])
def test_a_model_in_float64_is_nearer_than_the_eager_one(size: int | None) -> None:
    torch.manual_seed(0)
    module = Insists(None, size).eval()
    reference = make_reference(FlatModel(module, ["x"], ()), [ITEMS], 2)
    assert reference.exact[0].dtype == torch.float64
    assert 0 < reference.own_error[0] < 1e-6
    with torch.no_grad():
        wide = nn.functional.linear(ITEMS.double(), module.linear.weight.double(), module.linear.bias.double())
    assert torch.allclose(reference.exact[0], wide, rtol=1e-12)


def test_a_model_that_insists_on_float32_is_compared_with_itself() -> None:
    """It runs no more often than it must: twice, among six other neighbours, two tries of float64, one item alone."""
    module = Insists(torch.float32, None).eval()
    Insists.calls.clear()
    reference = make_reference(FlatModel(module, ["x"], ()), [ITEMS], 2)
    assert Insists.calls == [2, 2, *[2] * 6, 3, 2, 1]
    assert torch.equal(reference.exact[0], reference.outputs[0].double())
    assert 0 < reference.allowed[0] < 1e-4
