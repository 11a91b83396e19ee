"""Modules of which symbolic_trace takes a part whole or misses it, and labels that hide an influence among items."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)


# --- what symbolic_trace takes whole ---------------------------------------------------------------------------------


class WholeLSTM(_Layers):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, 8, 2, batch_first=True, bidirectional=True, proj_size=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.recurrent(torch.tanh(self.first(x)))[0])


class WholeBag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(10, 8, mode="mean"), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.bag((x[..., 0] * 2).long().clamp(-4, 5) + 4))


class ManyAtOnce(_Layers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x))
        torch._foreach_add_([h], 1.0)
        return self.last(h)


WHOLE = (WholeLSTM, WholeBag, ManyAtOnce)


class Unpooled(_Layers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, places = functional.max_pool2d(self.first(x)[:, None, :4], 2, return_indices=True)
        return functional.max_unpool2d(values, places, 2)


class WholeTuple(_Layers):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.first(x)
        return self.attention(h, h, h)


class Autocast(_Layers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.first(x)
        return self.last(h.float())


class Replaced(_Layers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = {name: value / 2 for name, value in self.first.named_parameters()}
        return self.last(torch.func.functional_call(self.first, halves, (x,)))


# --- what no tracer follows ------------------------------------------------------------------------------------------


class MappedInside(_Layers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(lambda step: self.last(self.first(step)), in_dims=1, out_dims=1)(x)  # here


class Forces(_Layers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = torch.tanh(self.first(x)).sum()
            return torch.autograd.grad(energy, x)[0]  # here


class OtherData(_Layers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        h.data = h * 2
        return self.last(h)


# --- decisions -------------------------------------------------------------------------------------------------------


class Label(_Layers):
    """One label an item, of scores that other items move a little."""

    share = 0.3

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.tanh(self.first(x)).mean(1)
        return self.last(pooled - self.share * pooled.mean(0)) + torch.tensor([9.0, 0.0, 0.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores(x).argmax(-1)


class OwnLabel(Label):
    """Of scores that do not: fine."""

    share = 0.0


class Best(Label):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"best": self.scores(x).topk(2)[1]}


class Sure(Label):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.scores(x).softmax(-1) > 0.9).long()


class Picked(Label):
    """Floats of the item's own, chosen by such scores."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        best = self.scores(x).topk(2)[1]
        return self.last(x)[:, 0].gather(1, best)


class OneHot(Label):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.one_hot(self.scores(x).argmax(-1), 3).float() * 2


class SortedItems(Label):
    """Puts the items in the order of their sizes, and their labels back: fine."""

    share = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = x.sum((1, 2)).argsort()
        return self.scores(x[order]).argmax(-1)[order.argsort()]


class RareLimit(_Layers):
    """What the whole microbatch shares, once a value is very large."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x)) * torch.where((x.abs() > 50).any(), 0.5, 1.0)
