"""Small modules made at random from parts: most treat each item by itself, some mix items, keep state or are random.

A module is described by plain data, so that Hypothesis can draw and shrink it and a config can hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

LENGTH, WIDTH = 6, 8
"""An item is (LENGTH, WIDTH) float32."""

Step = Callable[["RandomModule", int, torch.Tensor], torch.Tensor]


def _lstm_time_first_done_right(model: RandomModule, place: int, h: torch.Tensor) -> torch.Tensor:
    return model.part(place)(h.transpose(0, 1))[0].transpose(0, 1)


def _cells(model: RandomModule, place: int, h: torch.Tensor) -> torch.Tensor:
    state = torch.zeros(len(h), WIDTH)
    states = []
    for step in h.unbind(1):
        state = model.part(place)(step, state)
        states.append(state)
    return torch.stack(states, 1)


def _writes_slices(model: RandomModule, place: int, h: torch.Tensor) -> torch.Tensor:
    h = h.clone()
    h[:, 0] = 1.0
    h[:, 2:4] *= 0.5
    h += 0.25
    return h.clamp_(-2, 2)


def _ids(model: RandomModule, place: int, h: torch.Tensor) -> torch.Tensor:
    return h + 0.1 * model.part(place)((h * 3).round().long().clamp(0, 9)).mean(-2)


def _masked_attention(model: RandomModule, place: int, h: torch.Tensor) -> torch.Tensor:
    mask = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
    return ((h @ h.transpose(1, 2)) / 4 + mask).softmax(-1) @ h


def _padding(model: RandomModule, place: int, h: torch.Tensor) -> torch.Tensor:
    kept = (h.mean(-1) > -1)[:, None, :].expand(-1, LENGTH, -1)
    scores = (h @ h.transpose(1, 2)).masked_fill(~kept, torch.finfo(h.dtype).min)
    return h + scores.softmax(-1) @ model.part(place)(h)


def _last_step(model: RandomModule, place: int, h: torch.Tensor) -> torch.Tensor:
    return h + model.part(place)(h)[:, -1].unsqueeze(1)


def _inner_slice(model: RandomModule, place: int, h: torch.Tensor) -> torch.Tensor:
    return torch.cat([h[:, :1], model.part(place)(h)[:, 1:-1], h[:, -1:]], 1)


def _zero_rows(model: RandomModule, place: int, h: torch.Tensor) -> torch.Tensor:
    return torch.cat([h[:, 1:], torch.zeros(len(h), 1, WIDTH)], 1)


def _halves(model: RandomModule, place: int, h: torch.Tensor) -> torch.Tensor:
    left, right = h.chunk(2, -1)
    return torch.cat([right.sigmoid() * left, right], -1)


PURE: dict[str, tuple[Callable[[], nn.Module] | None, Step]] = {
    "linear": (lambda: nn.Linear(WIDTH, WIDTH), lambda m, i, h: m.part(i)(h)),
    "relu": (lambda: nn.ReLU(inplace=True), lambda m, i, h: m.part(i)(h + 0.1)),
    "gelu": (nn.GELU, lambda m, i, h: m.part(i)(h)),
    "dropout": (lambda: nn.Dropout(0.5), lambda m, i, h: m.part(i)(h)),
    "layer_norm": (lambda: nn.LayerNorm(WIDTH), lambda m, i, h: m.part(i)(h)),
    "batch_norm": (lambda: nn.BatchNorm1d(WIDTH), lambda m, i, h: m.part(i)(h.transpose(1, 2)).transpose(1, 2)),
    "instance_norm": (lambda: nn.InstanceNorm1d(LENGTH), lambda m, i, h: m.part(i)(h)),
    "convolution": (
        lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1), lambda m, i, h: m.part(i)(h.transpose(1, 2)).transpose(1, 2),
    ),
    "attention": (lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True), lambda m, i, h: h + m.part(i)(h, h, h)[0]),
    "lstm": (lambda: nn.LSTM(WIDTH, WIDTH, batch_first=True), lambda m, i, h: m.part(i)(h)[0]),
    "time_first_done_right": (lambda: nn.GRU(WIDTH, WIDTH), _lstm_time_first_done_right),
    "gru_cells": (lambda: nn.GRUCell(WIDTH, WIDTH), _cells),
    "rnn_cells": (lambda: nn.RNNCell(WIDTH, WIDTH), _cells),
    "writes_slices": (None, _writes_slices),
    "ids": (lambda: nn.Embedding(10, WIDTH), _ids),
    "causal": (None, _masked_attention),
    "padding": (lambda: nn.Linear(WIDTH, WIDTH), _padding),
    "last_step": (lambda: nn.Linear(WIDTH, WIDTH), _last_step),
    "inner_slice": (lambda: nn.Linear(WIDTH, WIDTH), _inner_slice),
    "zero_rows": (None, _zero_rows),
    "halves": (None, _halves),
    "flip_steps": (None, lambda m, i, h: h.flip(1) * 0.5 + h),
    "running_sum": (None, lambda m, i, h: h.cumsum(1) / LENGTH),
    "positions": (None, lambda m, i, h: h + torch.arange(LENGTH)[:, None] / 10),
    "double": (None, lambda m, i, h: (h.double() * 1.5).float()),
    "half": (None, lambda m, i, h: h.half().float()),
    "table": (lambda: nn.Linear(WIDTH, WIDTH), lambda m, i, h: h + m.part(i).weight[:LENGTH]),
    "skip": (lambda: nn.Linear(WIDTH, WIDTH), lambda m, i, h: h + torch.tanh(m.part(i)(h))),
    "scalar": (None, lambda m, i, h: h * torch.tensor(1.25)),
}  # fmt: skip


def _counts(model: RandomModule, place: int, h: torch.Tensor) -> torch.Tensor:
    model.calls += 1
    return h * model.calls


def _writes_buffer(model: RandomModule, place: int, h: torch.Tensor) -> torch.Tensor:
    model.written += 1
    return h + model.written


MIXING: dict[str, tuple[Callable[[], nn.Module] | None, Step]] = {
    "mean_of_items": (None, lambda m, i, h: h - h.mean(0)),
    "softmax_over_items": (None, lambda m, i, h: h + h.softmax(0)),
    "items_before": (None, lambda m, i, h: h.cumsum(0)),
    "roll": (None, lambda m, i, h: h + 0.5 * h.roll(1, 0)),
    "place": (None, lambda m, i, h: h * (1 + torch.arange(len(h))[:, None, None])),
    "number": (None, lambda m, i, h: h / len(h)),
    "batch_statistics": (
        lambda: nn.BatchNorm1d(WIDTH, track_running_stats=False),
        lambda m, i, h: m.part(i)(h.transpose(1, 2)).transpose(1, 2),
    ),
    "time_first": (lambda: nn.LSTM(WIDTH, WIDTH), lambda m, i, h: m.part(i)(h)[0]),
}
UNFIT: dict[str, tuple[Callable[[], nn.Module] | None, Step]] = {
    "counts": (None, _counts),
    "writes_buffer": (None, _writes_buffer),
    "random": (None, lambda m, i, h: h + torch.rand_like(h)),
    "drops": (None, lambda m, i, h: functional.dropout(h, 0.5)),
}
PARTS = {**PURE, **MIXING, **UNFIT}

OUTPUTS: dict[str, Callable[[torch.Tensor], object]] = {
    "states": lambda h: h,
    "pooled": lambda h: h.mean(1),
    "last": lambda h: h[:, -1],
    "labels": lambda h: {"scores": h.sum(1), "label": h.sum(1).argmax(-1)},
    "pair": lambda h: (h[:, 0], (h > 0, h.amax((1, 2)))),
}


class RandomModule(nn.Module):
    """The parts in order, then one of OUTPUTS."""

    def __init__(self, parts: Sequence[str], output: str) -> None:
        super().__init__()
        self.names, self.output, self.calls = tuple(parts), output, 0
        made = {str(place): PARTS[name][0] for place, name in enumerate(parts)}
        self.parts = nn.ModuleDict({place: make() for place, make in made.items() if make is not None})
        self.register_buffer("written", torch.zeros(()))

    def part(self, place: int) -> nn.Module:
        return self.parts[str(place)]

    def forward(self, x: torch.Tensor) -> object:
        for place, name in enumerate(self.names):
            x = PARTS[name][1](self, place, x)
        return OUTPUTS[self.output](x)
