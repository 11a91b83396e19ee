"""Modules that use more of Python and torch than operators: what compiles all the same, and what is refused."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass, field

import torch
from torch import nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

Pair = namedtuple("Pair", "first second")


class Small(nn.Module):
    """Two linear layers; what is between them is each subclass's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.between(self.first(x)))

    def between(self, h: torch.Tensor) -> torch.Tensor:
        return h.relu()


# --- what works ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class States:
    last: torch.Tensor
    others: tuple[object, ...] = ()


@dataclass
class Result:
    scores: torch.Tensor
    states: States | None = None
    name: str = "a result"
    pair: object = field(default=None)


class Dataclass(Small):
    def forward(self, x: torch.Tensor) -> Result:
        h = self.first(x)
        states = States(last=h, others=({"next": h + 1},))
        return Result(scores=self.last(h), states=states, pair=Pair(first=h * 2, second=None))


class Tensor(Small):
    """Its result is a tensor, whose name is 0 or output."""


class Mapped(Small):
    """vmap over a function of one item."""

    def between(self, h: torch.Tensor) -> torch.Tensor:
        return torch.vmap(lambda row: row * row.sum())(h)


class Scaled(Small):
    """Python numbers out of its own buffers, and arithmetic on them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.5))

    def between(self, h: torch.Tensor) -> torch.Tensor:
        return h * self.scale.item() + 2 * self.scale.exp().item()


class Bits(Small):
    def between(self, h: torch.Tensor) -> torch.Tensor:
        return (h.view(torch.int32) & 0x7FFFFFFF).view(torch.float32)


class Wrapped(Small):
    """Regions that say how to compute, not what."""

    def between(self, h: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return torch.utils.checkpoint.checkpoint(torch.tanh, h, use_reentrant=False)


class Compiled(Small):
    """torch.compile on a part, on a function and as a method."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.compile(self.first)
        self.last.compile()

    def between(self, h: torch.Tensor) -> torch.Tensor:
        return _decorated(h)


@torch.compile
def _decorated(h: torch.Tensor) -> torch.Tensor:
    return h.sigmoid()


def compiled() -> nn.Module:
    return torch.compile(Small())


def parallel() -> nn.Module:
    return nn.DataParallel(Small())


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)))


def on_meta() -> nn.Module:
    """No values yet; one weight under two names."""
    with torch.device("meta"):
        module = Small()
    module.again = module.last
    return module


# --- what is refused -------------------------------------------------------------------------------------------------


class Branches(Small):
    def between(self, h: torch.Tensor) -> torch.Tensor:
        return h * 2 if h.sum() > 0 else h  # a branch


class Counts(Small):
    def between(self, h: torch.Tensor) -> torch.Tensor:
        return h * int(h.abs().sum().item())  # a count


class ReadsNumber(Small):
    def between(self, h: torch.Tensor) -> torch.Tensor:
        return h * h.max().item()  # a number


class Nonzero(Small):
    def between(self, h: torch.Tensor) -> torch.Tensor:
        return h + h[:, (h[0] > 0).nonzero().squeeze(-1)].sum()  # an index


class Unique(Small):
    def between(self, h: torch.Tensor) -> torch.Tensor:
        return h + torch.unique(h.round()).sum()  # a set


class Masked(Small):
    def between(self, h: torch.Tensor) -> torch.Tensor:
        return h + h[h > 0].sum()  # a selection


class Cond(Small):
    def between(self, h: torch.Tensor) -> torch.Tensor:
        return torch.cond(h.sum() > 0, lambda value: value * 2, lambda value: value - 1, (h,))  # a cond


class Loops(Small):
    def between(self, h: torch.Tensor) -> torch.Tensor:
        start = (torch.tensor(0), h)
        return while_loop(lambda i, value: i < 3, lambda i, value: (i + 1, value * 2), start)[1]  # a loop


class Scans(Small):
    def between(self, h: torch.Tensor) -> torch.Tensor:
        start = torch.zeros(h.shape[0])
        return scan(lambda c, row: (c + row, (c * row).clone()), start, h.t().contiguous())[1].t()  # a scan


class ToNumpy(Small):
    def between(self, h: torch.Tensor) -> torch.Tensor:
        return h * torch.from_numpy(h.numpy())  # numpy


class Sparse(Small):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("graph", torch.eye(8).to_sparse())

    def between(self, h: torch.Tensor) -> torch.Tensor:
        return torch.sparse.mm(self.graph, h.t()).t()


class WrongSize(Small):
    def between(self, h: torch.Tensor) -> torch.Tensor:
        return h.reshape(3, 5)  # a size


class HasScript(Small):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.jit.script(nn.Linear(8, 8))


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Linear(8, 4)))


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(Small(), {nn.Linear}, dtype=torch.qint8)


def meta_buffer() -> nn.Module:
    """A table that no file holds was made without values."""
    module = Small()
    module.register_buffer("table", torch.empty(3, device="meta"), persistent=False)
    return module
