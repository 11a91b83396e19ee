"""Modules whose results do not depend on one item alone: they mix items, keep state or draw numbers."""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.nn import functional


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


class Faint(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1e-4 * x.amax(0)


class SoftmaxOverItems(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.softmax(0)


class NormOverItems(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.normalize(x, dim=0)


class NoRunningStats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.transpose(1, 2))


class TimeFirstLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.recurrent(x)[0]


class TimeFirstGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(8, 8, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.recurrent(x)[0]


class TimeFirstAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


class TimeFirstEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)


class Similarities(nn.Module):
    """As CLIP's logits_per_image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean(1)
        return pooled @ pooled.T


class Earlier(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(0)


class Later(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(0).cumsum(0).flip(0)


class Neighbour(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.roll(1, 0)


class FirstOfAll(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x[:1]


class Sorted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort(0)[0]


class ItemCount(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / len(x)


class Place(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + torch.arange(len(x))[:, None, None])


MIXING = (
    Mean, Faint, SoftmaxOverItems, NormOverItems, NoRunningStats, TimeFirstLSTM, TimeFirstGRU, TimeFirstAttention,
    TimeFirstEncoder, Similarities, Earlier, Later, Neighbour, FirstOfAll, Sorted, ItemCount, Place,
)  # fmt: skip


class Hidden(nn.Module):
    """The hidden states of a recurrent network have its layers first."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM], layers: int) -> None:
        super().__init__()
        self.recurrent = kind(8, 8, layers, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.recurrent(x)[1]
        return hidden[0] if isinstance(hidden, tuple) else hidden


class Table(nn.Module):
    """Returns a constant beside its result."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)
        self.table = nn.Parameter(torch.randn(rows, 8))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.linear(x), self.table * 2


class Count(nn.Module):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


class FirstCall(nn.Module):
    """Keeps what its first call saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.seen is None:
            self.seen = x.mean()
        return x * self.seen


class History(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.lengths.append(x.shape[1])
        return x * len(self.lengths)


class WrittenBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += 1
        return x + self.total


class WrittenWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.linear.weight.mul_(0.5)
        return self.linear(x)


STATEFUL = {
    Count: "calls",
    FirstCall: "seen",
    History: "lengths",
    WrittenBuffer: "total",
    WrittenWeight: "linear.weight",
}


class OnlyNotes(nn.Module):
    """Writes what nothing reads: harmless."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.shape: tuple[int, ...] = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.shape = tuple(x.shape)
        return self.linear(x)


class WritesInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x += 1
        x[:, 0] = 0
        return x * 2


class Cells(nn.Module):
    """Recurrent cells that begin at zeros: their first products do not depend on the input."""

    def __init__(self, batch: int | None = None) -> None:
        super().__init__()
        self.batch = batch
        self.gru, self.lstm, self.rnn = nn.GRUCell(8, 8), nn.LSTMCell(8, 8), nn.RNNCell(8, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.zeros(self.batch or x.shape[0], 8)
        state, plain = (h, h), h
        for step in x.unbind(1):
            h = self.gru(step, h)
            state = self.lstm(step, state)
            plain = self.rnn(step, plain)
        return h + state[0], plain


class Dropout(nn.Module):
    """Drops even in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class Inner(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(x, 0.5)


class Seeded(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return x + torch.rand_like(x)


class OwnGenerator(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0))


class DropsInAttention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(x, x, x, dropout_p=0.3)


class TrainingBatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = InnerBatchNorm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.transpose(1, 2))


class InnerBatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)


class SwitchesItself(nn.Module):
    """Puts its batch norm back into training mode when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inner.train()
        return self.inner(x.transpose(1, 2))


class InstanceNorm(nn.Module):
    """Normalises each item by itself: fine."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.InstanceNorm1d(5), nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(x))


class HalfInside(nn.Module):
    """Rounds to half precision inside: in float64 its results leap, and no item touches another."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).half().float()


class MaskedMean(nn.Module):
    """Its outputs hold the least float, beside which every difference is small."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(0)).masked_fill(x[..., :1] > 1, torch.finfo(x.dtype).min)


class LoudChannels(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x - x.mean(0), x.sigmoid() * 1e6], -1)


class WinnerTakesAll(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.flatten(1).norm(dim=-1)
        return x * (size >= size.max())[:, None, None]


class Duplicates(nn.Module):
    """The last microbatch of a run is filled up with copies."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return x + ((torch.cdist(flat, flat) < 1e-4).sum(1) > 1)[:, None, None]


class SharedLimit(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.abs().amax().clamp(min=16)


class CoarseMean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.bfloat16()
        return h - 0.03 * h.mean(0)


class Crowded(nn.Module):
    """An expert takes a part of all positions, first come first served; as a rule it has room for all that come."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 2)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(0, 1)
        chosen = nn.functional.one_hot(self.gate(flat).argmax(-1), 2)
        room = (chosen.cumsum(0) * chosen).sum(-1) <= 0.7 * len(flat)
        made = sum(chosen[:, index, None] * expert(flat) for index, expert in enumerate(self.experts))
        return x + (made * room[:, None]).view_as(x)


RARELY_MIXING = (MaskedMean, LoudChannels, WinnerTakesAll, Duplicates, SharedLimit, CoarseMean, Crowded)
"""Only for some items, or where a coarse comparison sees nothing."""


class Packed(nn.Module):
    """Positions of the whole microbatch attend to those of the same document."""

    def forward(self, x: torch.Tensor, document: torch.Tensor) -> torch.Tensor:
        flat, ids = x.flatten(0, 1), document.flatten()
        scores = (flat @ flat.mT).masked_fill(ids[:, None] != ids, float("-inf"))
        return (scores.softmax(-1) @ flat).view_as(x)


class MaskedOutput(nn.Module):
    """Marks what is padded by the least float: fine."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.linear(self.linear(x))
        return h.masked_fill(x[..., :1] > 1, torch.finfo(h.dtype).min) + (x[..., 1:2] > 1) * -1e30


class DropoutAlias(nn.Module):
    """In eval mode dropout returns its argument: what is written into one is in both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(8, 8), nn.Linear(8, 8), nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        self.drop(h).add_(1)
        h[:, 1:3].zero_()
        return self.second(h)


@functools.lru_cache
def _angles(length: int) -> torch.Tensor:
    return torch.arange(length)[:, None] / 10.0


_scales: dict[int, torch.Tensor] = {}


class CachedTables(nn.Module):
    """Keeps what it computes outside of itself: fine."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        if length not in _scales:
            _scales[length] = torch.arange(length).add(1.0)[:, None]
        return self.linear(self.linear(x + _angles(length)) * _scales[length])


class TwoOfAName(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, object]:
        return {"a": {"b": x * 2}, "a.b": x * 3}


class RollByFour(nn.Module):
    """Shows only in microbatches that are larger than the golden items are many."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.roll(4, 0)
