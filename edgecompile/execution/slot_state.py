"""The keys and values that a rank keeps: for each call of attention of its stage, room for every slot's tokens.

Room is anonymous memory that the system gives page by page when it is first written, so that a slot takes what its
sequence has written and not what it may; a slot that begins again keeps its pages. A rank also knows of which sequence
a slot holds what, and how much: a step that needs more than is there says so, and the data host sends the sequence
again. What is kept in bf16 is rounded when it is written, keys after their rotation, and single tokens attend to it as
chunks of them do: a sequence that is sent again goes on as before.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from edgecompile.contract.closed_sets import Cache
from edgecompile.contract.generation import StateSpec
from edgecompile.execution.attention import Rotation, masked_attention, rounded_attention
from edgecompile.execution.fusion.native_code import native, native_runs

__all__ = ["SlotState", "Step", "is_lost", "layer_without_state", "lost", "slot_value"]


def slot_value(serial: int, slot: int, num_slots: int) -> int:
    """What a row of a message says of its sequence, counted over the run, and of the slot that this one has."""
    return serial * num_slots + slot


def lost(value: int) -> int:
    """The same row, of which a rank does not hold what came before."""
    return value if value < 0 else -1 - value


def is_lost(value: int) -> bool:
    return value < 0


def layer_without_state(layer: int) -> str:
    return f"the plan's generation.state has no layer {layer} among the units of this stage: compile again"


@dataclass(frozen=True)
class _Row:
    slot: int
    start: int
    count: int
    whole: bool


class SlotState:
    """Of one stage, as long as the process has it."""

    def __init__(self, specs: Sequence[StateSpec], slots: int, context: int, device: str = "cpu") -> None:
        self.num_slots, self.context, self._device = slots, context, device
        self._rooms = {spec.layer: _Room(spec, slots, context, device) for spec in specs}
        self._holds: list[tuple[int, int]] = [(-1, 0)] * slots
        """Of each slot: the sequence that it holds, and how many of its tokens."""

    def step(self, slots: torch.Tensor, positions: torch.Tensor) -> Step:
        """The state as a message reads and writes it.

        Args:
            slots: (rows,) int64, changed in place: what is not held becomes `lost`.
            positions: (rows, tokens) int64.
        """
        starts = positions[:, 0].tolist()
        counts = (positions >= 0).sum(1).tolist()
        rows = []
        for index, value in enumerate(slots.tolist()):
            whole = value >= 0 and self._take(value, starts[index], counts[index])
            if not whole:
                slots[index] = lost(value)
            slot = (value if value >= 0 else -1 - value) % self.num_slots
            rows.append(_Row(slot, starts[index], counts[index], whole))
        return Step(rows, positions.to(self._device), self._rooms)

    def _take(self, value: int, start: int, count: int) -> bool:
        """Whether all before `start` is there; the tokens from there on are then noted as held."""
        serial, slot = divmod(value, self.num_slots)
        owner, filled = self._holds[slot]
        if start == 0:
            owner, filled = serial, 0
        if owner != serial or start > filled:
            return False
        self._holds[slot] = serial, max(filled, start + count)
        return True


class _Room:
    """For one call of attention: every slot's tokens."""

    def __init__(self, spec: StateSpec, slots: int, context: int, device: str) -> None:
        self.half = spec.dtype == Cache.BF16.value
        dtype = torch.bfloat16 if self.half else torch.float32
        self.keys, self.values = (
            _zeros((slots, spec.groups, context, size), dtype, device) for size in (spec.key_size, spec.value_size)
        )
        self.native: Any = None
        if device == "cpu" and native is not None:
            kind = native.HalfRoom if self.half else native.Room
            self.native = kind(self.keys.data_ptr(), self.values.data_ptr(), slots, spec.groups, context,
                               spec.key_size, spec.value_size)  # fmt: skip


class Step:
    """One message's rows: what they write, and what they see."""

    def __init__(self, rows: Sequence[_Row], positions: torch.Tensor, rooms: Mapping[int, _Room]) -> None:
        self._rows, self._rooms = rows, rooms
        self._end = max(row.start + row.count for row in rows)
        self._alone = len(rows) == 1
        slots = [row.slot for row in rows]
        self._first = slots[0]
        self._together = slots == list(range(slots[0], slots[0] + len(rows)))
        self._tokens = positions.shape[1]
        self._whole = all(row.whole for row in rows)
        self._decoding = self._tokens == 1 and self._whole and not self._alone
        self._singles: Any = None
        self._chunks: Any = None
        some = next(iter(rooms.values()), None)
        if some is not None and some.native is not None:
            if some.half:
                self._chunks = native.Chunks([(row.slot, max(row.start, 0), row.count, row.whole) for row in rows])
            elif self._tokens == 1 and torch.get_num_threads() == 1:
                self._singles = native.Rows([(row.slot, max(row.start, 0), row.whole) for row in rows])
        self._positions = positions.clamp(min=0)
        self._index = torch.tensor(slots, dtype=torch.int64, device=positions.device)
        self._masks: dict[tuple[int, int], torch.Tensor] = {}
        self._seen: dict[int, tuple[int, torch.Tensor | None]] = {}

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, scale: float, window: int, softcap: float,
        sinks: torch.Tensor | None, rotation: Rotation | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """As attention.attend, over all that the rows' slots hold."""
        if layer not in self._rooms:
            raise KeyError(layer_without_state(layer))
        room = self._rooms[layer]
        if self._singles is not None and room.native is not None and q.dtype is k.dtype is v.dtype is torch.float32:
            return _attend_singles(room.native, self._singles, q, k, v, scale, window, softcap, sinks, rotation)
        if self._chunks is not None and q.dtype is k.dtype is v.dtype is torch.float32:
            return _attend_chunks(room.native, self._chunks, q, k, v, scale, window, softcap, sinks, rotation)
        if rotation is not None:
            q, k = _rotated(rotation, q), _rotated(rotation, k)
        keys, values = room.keys, room.values
        self._write(keys, k)
        self._write(values, v)
        begin, seen = self._sight(window)
        old_keys, old_values = self._read(keys, begin), self._read(values, begin)
        if room.half:
            return rounded_attention(q, old_keys, old_values, seen, scale, softcap, sinks)
        if softcap or sinks is not None or keys.shape[-1] != values.shape[-1]:
            return masked_attention(q, old_keys, old_values, seen, scale, softcap, sinks)
        rows, heads, tokens, size = q.shape
        each = heads // keys.shape[1]
        # heads that share keys are further tokens: nothing of the keys is copied
        query = q.reshape(rows, keys.shape[1], each * tokens, size)
        mask = self._mask(window, each, seen)
        result = functional.scaled_dot_product_attention(query, old_keys, old_values, attn_mask=mask, scale=scale)
        return result.reshape(rows, heads, tokens, size).transpose(1, 2).contiguous()

    def _mask(self, window: int, each: int, seen: torch.Tensor | None) -> torch.Tensor | None:
        """What is added to the scores, for `each` heads behind each other."""
        if seen is None:
            return None
        if (window, each) not in self._masks:
            mask = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -math.inf)
            self._masks[window, each] = mask if self._tokens == 1 else mask.repeat(1, 1, each, 1)
        return self._masks[window, each]

    def _write(self, room: torch.Tensor, new: torch.Tensor) -> None:
        if self._decoding:
            room[self._index, :, self._positions[:, 0]] = new[:, :, 0].to(room.dtype)
            return
        for index, row in enumerate(self._rows):
            if row.whole:
                room[row.slot, :, row.start : row.start + row.count] = new[index, :, : row.count]

    def _read(self, room: torch.Tensor, begin: int) -> torch.Tensor:
        if self._together:
            return room[self._first : self._first + len(self._rows), :, begin : self._end]
        return room[:, :, begin : self._end].index_select(0, self._index)

    def _sight(self, window: int) -> tuple[int, torch.Tensor | None]:
        """The first token that any row sees, and which of those from there on each token sees; None: all."""
        if window not in self._seen:
            self._seen[window] = self._look(window)
        return self._seen[window]

    def _look(self, window: int) -> tuple[int, torch.Tensor | None]:
        begin = max(0, min(row.start for row in self._rows) - window + 1) if window else 0
        if self._alone and self._tokens == 1:
            return begin, None
        places = torch.arange(begin, self._end, device=self._positions.device)
        ahead = self._positions.unsqueeze(-1) - places
        seen = ahead >= 0
        if window:
            seen = seen & (ahead < window)
            # what stands behind a row's last token has no position: it sees whatever is there first
            seen[..., 0] |= ~seen.any(-1)
        return begin, seen.unsqueeze(1)


def _attend_singles(
    room: Any, rows: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int,
    softcap: float, sinks: torch.Tensor | None, rotation: Rotation | None,
) -> torch.Tensor:  # fmt: skip
    """As attention.attend, for one token a row, in one call: of torch's operators it takes two dozen."""
    num_rows, heads, _, size = q.shape
    cos, sin, cos_row, sin_row = 0, 0, 0, 0
    if rotation is not None:
        if _by_halves(rotation, (num_rows, 1, 1, size)):
            cos, sin = rotation.cos.data_ptr(), rotation.sin.data_ptr()
            cos_row, sin_row = rotation.cos.stride(0), rotation.sin.stride(0)
        else:
            q, k = rotation(q), rotation(k)
    q, k, v = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (q, k, v))
    sinks = sinks if sinks is None else sinks.to(torch.float32).contiguous()
    result = q.new_empty(num_rows, 1, heads, v.shape[-1])
    room.attend(
        rows, q.data_ptr(), q.stride(0), q.stride(1), k.data_ptr(), k.stride(0), k.stride(1), v.data_ptr(), v.stride(0),
        v.stride(1), result.data_ptr(), heads, scale, window, softcap, 0 if sinks is None else sinks.data_ptr(),
        cos, cos_row, sin, sin_row,
    )  # fmt: skip
    return result


def _attend_chunks(
    room: Any, chunks: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int,
    softcap: float, sinks: torch.Tensor | None, rotation: Rotation | None,
) -> torch.Tensor:  # fmt: skip
    """As attention.attend, over what is kept in bf16."""
    rows, heads, tokens, size = q.shape
    cos, sin = (0, 0, 0), (0, 0, 0)
    if rotation is not None:
        if _by_halves(rotation, (rows, 1, tokens, size)):
            cos, sin = ((x.data_ptr(), x.stride(0), x.stride(2)) for x in (rotation.cos, rotation.sin))
        else:
            q, k = rotation(q), rotation(k)
    q, k, v = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (q, k, v))
    sinks = sinks if sinks is None else sinks.to(torch.float32).contiguous()
    result = q.new_empty(rows, tokens, heads, v.shape[-1])
    room.attend(
        chunks, tokens, q.data_ptr(), q.stride()[:3], k.data_ptr(), k.stride()[:3], v.data_ptr(), v.stride()[:3],
        result.data_ptr(), heads, scale, window, softcap, 0 if sinks is None else sinks.data_ptr(), *cos, *sin,
        torch.get_num_threads(),
    )  # fmt: skip
    return result


def _rotated(rotation: Rotation, x: torch.Tensor) -> torch.Tensor:
    rows, _, tokens, size = x.shape
    cos, sin = rotation.cos, rotation.sin
    if not native_runs(x, cos, sin) or x.stride(-1) != 1 or not _by_halves(rotation, (rows, 1, tokens, size)):
        return rotation(x)
    result = x.new_empty(x.shape)
    strides, heads = x.stride(), x.shape[1]
    native.rotate(
        x.data_ptr(), (rows, heads, tokens, size), (strides[0], strides[1], strides[2]), cos.data_ptr(), cos.stride(0),
        cos.stride(2), sin.data_ptr(), sin.stride(0), sin.stride(2), result.data_ptr(),
    )  # fmt: skip
    return result


def _by_halves(rotation: Rotation, wanted: tuple[int, ...]) -> bool:
    """Whether it is one that native code knows; `wanted`: the shape of its angles."""
    return wanted[-1] == 2 * rotation.half and all(
        tensor.shape == wanted and tensor.stride(-1) == 1 and tensor.dtype is torch.float32
        for tensor in (rotation.cos, rotation.sin)
    )


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    num = 1
    for extent in shape:
        num *= extent
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, dtype.itemsize * num), dtype=dtype).view(shape)
