"""Modules that people bring: last steps, complex numbers, memory read in another way, writes, masks, routed experts."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class _Wide(nn.Module):
    """Two layers before and one after what a module is about, so that there are cuts on both sides."""

    def __init__(self, width: int = 16, num_out: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.last = nn.Linear(width, num_out)

    def before(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.second(functional.gelu(self.first(x))))


class LastSteps(_Wide):
    """The last step, one in the middle and all but the ends of a sequence (B, T, 16)."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = self.before(x)
        return self.last(h[:, -1]), self.last(h[:, 2]), self.last(h[:, 1:-1])


class Spectrum(_Wide):
    """FFTs over time, with a filter of complex numbers and a conjugate whose imaginary part is a lazy negative."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.polar(torch.rand(4, 1) + 0.5, torch.arange(4.0)[:, None]))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        spectrum = torch.fft.rfft(self.before(x), dim=1) * self.filter
        conjugate = spectrum.conj()
        return self.last(torch.fft.irfft(conjugate, n=x.shape[1], dim=1)), self.last(conjugate.imag)


class Rotary(_Wide):
    """Complex rotary embeddings, as Llama's first code has them, on halves that a transpose brought together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.before(x)
        pairs = torch.view_as_complex(h.view(*h.shape[:2], 2, 8).transpose(-1, -2).contiguous())
        turns = torch.polar(torch.ones(x.shape[1], 8), torch.arange(float(x.shape[1]))[:, None] * torch.arange(8.0))
        return self.last(torch.view_as_real(pairs * turns).flatten(-2))


class Windows(_Wide):
    """Overlapping windows of memory, also of a tensor that begins in the middle of another; and bits of floats."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = self.before(x)
        items, steps, width = h.shape
        turned = h.transpose(1, 2).contiguous()
        windows = turned.as_strided((items, width, steps - 2, 3), (steps * width, steps, 1, 1)).mean(-1)
        inner = h[:, 1:].as_strided((items, 3, width), (steps * width, width, 1))
        rounded = (h.view(torch.int32) & ~0xFFFF).view(torch.float32)
        return windows.sum(-1), self.last(inner), self.last(rounded)


class Eighths(_Wide):
    """Activations and a table in eight bits of float."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.linspace(-1, 1, 16).to(torch.float8_e4m3fn))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.before(x).to(torch.float8_e4m3fn)
        return self.last(h.to(torch.float32) * self.table.to(torch.float32))


class Scaled(_Wide):
    """One number for the whole microbatch, alive over several layers: right at microbatch 1 alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().max()
        return self.last(self.before(x / scale) * scale)


class TimeFirst(_Wide):
    """Time first inside, items in the second place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.before(x.transpose(0, 1).contiguous())
        return self.last((h.cumsum(0) * 3).tanh()).transpose(0, 1)


class Decomposed(_Wide):
    """Needs a positive definite matrix, which zeros are not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.before(x)
        factor = torch.linalg.cholesky(h.transpose(1, 2) @ h + 0.1 * torch.eye(16))
        return self.last(torch.cholesky_solve(torch.ones(16, 1), factor).transpose(1, 2))


class Routed(_Wide):
    """Sorts tokens by what a router says and gives each to an expert of its own, by their counts."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, 3)
        self.experts = nn.Parameter(torch.randn(3, 16, 16) / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.before(x).reshape(-1, 16)
        expert = self.router(h).argmax(-1)
        order = expert.argsort()
        moved = torch.bmm(h[order].unsqueeze(1), self.experts[expert[order]]).squeeze(1)
        back = torch.empty_like(h).index_copy(0, order, moved)
        return self.last(back.reshape(x.shape))


class InPlaceLayers(_Wide):
    """Activations that write into their input, which a shortcut reads too, and sums that write into another name."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.clip = nn.ReLU(inplace=True), nn.Hardtanh(inplace=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.before(x)
        same = h
        h += x
        y = self.clip(self.second(h)) + functional.silu(same.mul_(0.5), inplace=True)
        return self.last(self.act(y)), same + y


class OuterMask(_Wide):
    """A mask of all pairs of steps, made of one of single steps, as DeBERTa's, read by every layer (x, mask (B, T))."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        wide = mask[:, None, None, :] * mask[:, None, :, None]
        weights = ((1.0 - wide.to(x.dtype)) * -1e4).expand(-1, 2, -1, -1)
        h = x
        for layer in (self.first, self.second, self.first):
            parts = layer(h).unflatten(-1, (2, 8)).transpose(1, 2)
            scores = torch.softmax(parts @ parts.transpose(-1, -2) + weights, -1) * wide
            h = h + (scores @ parts).transpose(1, 2).flatten(-2)
        return self.last(h)


class Square(_Wide):
    """As many classes as items of a microbatch of four, and as many steps."""

    def __init__(self) -> None:
        super().__init__(num_out=4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.before(x)
        return self.last(h.mean(1)), (h @ h.transpose(1, 2))
