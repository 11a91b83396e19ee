"""Modules that a user may bring: several inputs and outputs, skips, shared weights, integers and bools across cuts."""

from __future__ import annotations

import torch
from torch import nn


class Forked(nn.Module):
    """Two inputs, a skip over everything, an integer and a bool result, and results of the middle."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.middle = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.last = nn.Linear(width, 5)
        self.register_buffer("offset", torch.linspace(-1, 1, width))

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> dict[str, object]:
        kept = ids > 2
        h = self.first(x) + self.offset
        for _ in range(3):
            h = h + self.middle(h)  # one set of weights, three times
        h = torch.where(kept.unsqueeze(-1), h, x)
        scores = self.last(h.mean(1))
        return {"scores": scores, "best": scores.argmax(-1), "states": (h, x), "kept": kept, "count": ids.sum(-1)}


class Tied(nn.Module):
    """An embedding whose table is the output layer too."""

    def __init__(self, vocabulary: int = 50, width: int = 16) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.mixer = nn.Linear(width, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.mixer(self.table(ids))))


class InPlace(nn.Module):
    """Writes into tensors, as older code does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layers(x)
        h[:, 0] = 1.0
        h[:, 2:4] = x[:, :2]
        h += x
        return h.mul_(2).clamp_(min=-1)


class Convolutions(nn.Module):
    """A small residual network with batch norm, split and concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        h = self.stem(image)
        for conv in self.body:
            left, right = conv(h).chunk(2, dim=1)
            h = h + torch.cat([right, left.sigmoid()], dim=1)
        return self.head(h.flatten(2).mean(-1))


class Encoder(nn.Module):
    """torch's own encoder, whose fused form in eval mode differs where the mask pads, and a recurrent network."""

    def __init__(self) -> None:
        super().__init__()
        part = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(part, 2)
        self.recurrent = nn.LSTM(16, 8, batch_first=True)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = self.encoder(x, src_key_padding_mask=mask == 0)
        return states, self.recurrent(states)[0]


class Random(nn.Module):
    """Not a function of its input: must be refused."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


class DataDependent(nn.Module):
    """Control flow that looks at values: cannot be captured."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


class Unbatched(nn.Module):
    """Its result has lost the items."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(0)


class NotANumber(nn.Module):
    """One of its weights is NaN, as after a training run that diverged."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.layer.weight.data[1, 2] = float("nan")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Masked(nn.Module):
    """Attention written out, with a float mask alive from the first unit to the last.

    With `both`, padding attends to nothing at all, so that it averages over everything where `hidden` is finite.
    """

    def __init__(self, hidden: float = float("-inf"), both: bool = False, width: int = 8) -> None:
        super().__init__()
        self.hidden, self.both = hidden, both
        self.first = nn.Linear(width, width)
        self.mix = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        # smaller than the int64 mask, so that this is what travels
        hide = torch.log(mask.float()).clamp(min=self.hidden)
        hide = torch.minimum(hide[:, None, :], hide[:, :, None]) if self.both else hide[:, None, :]
        h = self.first(x)
        for mix in self.mix:
            h = torch.tanh(mix(torch.softmax(h @ h.transpose(1, 2) + hide, -1) @ h))
        return {"scores": self.last(h), "kept": mask > 0}
