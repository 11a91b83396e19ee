"""Modules whose items may have any length: each does with it what a pass or a trace might get wrong."""

from __future__ import annotations

import torch
from torch import nn

WIDTH = 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Sized(nn.Module):
    """Two blocks around what its subclasses do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Block(), Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.between(self.first(x)))

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Last(Sized):
    """Reads the last position, wherever that is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, -1]


class First(Sized):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, 0]


class Flat(Sized):
    """Batch and length are one axis between the blocks."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, WIDTH)
        return (flat * torch.sigmoid(flat)).reshape(x.shape)


class Positions(Sized):
    """A table that is as long as the longest item."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(12, WIDTH))

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table[: x.shape[1]]


class Steps(Sized):
    """Every second number, up to twice the length."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.arange(0, 2 * x.shape[1], 2)[:, None] / 100


class Shorter(Sized):
    """One position less between the blocks, where no cut can be."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        less = torch.tanh(x[:, 1:])
        return torch.cat([x[:, :1], torch.sigmoid(less) * less], 1)


class Classes(Sized):
    """Close decisions beside what they were made of."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = super().forward(x)
        return x, (x * 1000).long()


class Windowed(Sized):
    """Causal, and no farther than four positions back: open at every length up to four, and at none beyond."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1])
        back = places[:, None] - places[None, :]
        mask = (back >= 0) & (back < 4)
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


class Near(Sized):
    """A mask that hides nothing as long as items are short."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1])
        mask = (places[:, None] - places[None, :]).abs() < 11
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


class Mean(Sized):
    """Padding would change the mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).mean(1)


class Divided(Sized):
    """Computes with the length as a number."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x / (x.shape[1] + 1) + x.sum(1, keepdim=True) / x.shape[1]


class Longer(Sized):
    """One position more than the item has, as class tokens are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        begin = torch.zeros(1, 1, WIDTH).expand(x.shape[0], 1, WIDTH)
        return super().forward(torch.cat([begin, x], 1))[:, 1:]


class OnePast(Sized):
    """And gives it back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([super().forward(x), torch.ones(x.shape[0], 1, WIDTH)], 1)


class Fewer(Sized):
    """Gives one position less than the item has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, 1:]


class Halves(Sized):
    """Only even lengths."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], x.shape[1] // 2, 2 * WIDTH).reshape(x.shape)


class Branching(Sized):
    """Takes another way where items are long."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[1] > 5 else x * 3


class Highest(Sized):
    """Padding is higher than some short items, and than no long one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).amax(1)


class FirstFour(Sized):
    """Padding is among the first positions of short items alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = (torch.arange(x.shape[1]) < 4).to(x.dtype)[:, None]
        return (super().forward(x) * first).sum(1) / first.sum()


class Countdown(Sized):
    """Whole numbers that follow from the length, divided into fractions."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.arange(x.shape[1], 0, -1)[None, :, None] / 10


class Counted(Sized):
    """A result that is only the length, where no tensor that has it is used any more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, 0] * torch.full((x.shape[0], 1), x.shape[1])


class Attended(Sized):
    """The projection is of one axis that is batch and length, with neither beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def between(self, x: torch.Tensor) -> torch.Tensor:
        attended: torch.Tensor = self.attention(x, x, x)[0]
        return attended


class Overwritten(Sized):
    """A position of every item is set to what does not depend on it."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, 0] = 0
        x[:, -1].fill_(0.5)
        return x


class InThrees(Sized):
    """Its code has the number of items in it."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(3, -1, WIDTH) * 2


class TwoWays(Sized):
    """Few items take another way to the same result."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] > 2 else x + x


class Narrow(nn.Module):
    """Three channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.second(x))
        result: torch.Tensor = self.third(x)
        return result
