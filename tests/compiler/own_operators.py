"""What registers operators of a model's own, as a user's extension does, and models that call them."""

from __future__ import annotations

import torch
from torch import nn


@torch.library.custom_op("edgecompile_tests::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@double.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("edgecompile_tests::shapeless", mutates_args=())
def shapeless(x: torch.Tensor) -> torch.Tensor:
    return x * 2


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(double(self.first(x)))


class Shapeless(Doubled):
    """Its operator does not say what shape its result has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(shapeless(self.first(x)))


@torch.library.custom_op("edgecompile_tests::fill", mutates_args={"x"})
def fill(x: torch.Tensor) -> None:
    x.fill_(1.0)


class Filled(Doubled):
    """Its operator writes into its argument."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        fill(h)
        return self.last(h)
