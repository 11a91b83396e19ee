"""Keys and values in bf16: chunks attend as single tokens do, native code as torch's operators, both near float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from edgecompile.contract.generation import StateSpec
from edgecompile.execution import slot_state
from edgecompile.execution.attention import Rotation, attend, kept_in_bf16
from edgecompile.execution.slot_state import SlotState, slot_value

SLOTS, LENGTH = 3, 70
SIZES = (1, 16, 5, 33, 2, 64)


@dataclass(frozen=True)
class Shape:
    groups: int = 2
    each: int = 3
    key_size: int = 64
    value_size: int = 64
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    half: int = 32
    """Of the rotation; 0: there is none."""


SHAPES = {
    "plain": Shape(), "one_head": Shape(groups=1, each=1, key_size=8, value_size=8, half=0),
    "window": Shape(window=11), "softcap": Shape(softcap=3.0), "sinks": Shape(sinks=True, window=20),
    "unlike_sizes": Shape(key_size=40, value_size=24, half=20), "odd_rotation": Shape(half=16),
}  # fmt: skip


class Sequences:
    """What attention is given of three sequences, and what it makes of them."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        random = torch.Generator().manual_seed(4)

        def numbers(heads: int, size: int) -> torch.Tensor:
            # as queries, keys and values are cut from a joined product
            return torch.randn(SLOTS, LENGTH, heads, size + 2, generator=random)[..., :size].transpose(1, 2)

        heads = shape.groups * shape.each
        self.q, self.k = numbers(heads, shape.key_size), numbers(shape.groups, shape.key_size)
        self.v = numbers(shape.groups, shape.value_size)
        angles = torch.rand(SLOTS, 1, LENGTH, shape.key_size, generator=random) * 6
        self.cos, self.sin = angles.cos(), angles.sin()
        self.sinks = torch.randn(heads, generator=random) if shape.sinks else None

    def spec(self, dtype: str) -> StateSpec:
        shape = self.shape
        return StateSpec(unit=0, layer=0, groups=shape.groups, key_size=shape.key_size, value_size=shape.value_size,
                         window=shape.window, dtype=dtype)  # fmt: skip

    def attended(self, dtype: str, sizes: tuple[int, ...] = SIZES) -> torch.Tensor:
        """(slots, length, heads, value size): slots take turns at chunks of unlike sizes, at unlike positions."""
        state = SlotState([self.spec(dtype)], SLOTS, LENGTH)
        held, found = [0] * SLOTS, [list[torch.Tensor]() for _ in range(SLOTS)]
        turn = 0
        while min(held) < LENGTH:
            counts = {slot: min(sizes[(turn + slot) % len(sizes)], LENGTH - held[slot]) for slot in (2, 0, 1)}
            counts = {slot: count for slot, count in counts.items() if count and (turn + slot) % 4}
            if counts:
                result = self._send(state, held, counts)
                for row, (slot, count) in enumerate(counts.items()):
                    found[slot].append(result[row, :count])
                    held[slot] += count
            turn += 1
        return torch.stack([torch.cat(parts) for parts in found])

    def _send(self, state: SlotState, held: list[int], counts: dict[int, int]) -> torch.Tensor:
        places = torch.full((len(counts), max(counts.values())), -1)
        for row, (slot, count) in enumerate(counts.items()):
            places[row, :count] = torch.arange(held[slot], held[slot] + count)
        step = state.step(torch.tensor([slot_value(1, slot, SLOTS) for slot in counts]), places)
        rows, at = torch.tensor(list(counts)).unsqueeze(1), places.clamp(min=0)
        q, k, v, cos, sin = (x.transpose(1, 2)[rows, at].transpose(1, 2) for x in self.given)
        rotation = Rotation(cos, sin, self.shape.half) if self.shape.half else None
        result = step.attend(q, k, v, 0, 0.2, self.shape.window, self.shape.softcap, self.sinks, rotation)
        assert result.isfinite().all()
        return result

    @property
    def given(self) -> tuple[torch.Tensor, ...]:
        return self.q, self.k, self.v, self.cos, self.sin


@pytest.fixture(params=SHAPES)
def sequences(request: pytest.FixtureRequest) -> Sequences:
    return Sequences(SHAPES[request.param])


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check_alike(one: torch.Tensor, other: torch.Tensor) -> None:
    """But for the order of sums, and for a share among thousands that is rounded the other way because of it."""
    difference = (one - other).abs()
    assert float(difference.mean()) < 1e-5 * float(other.abs().mean())
    assert float(difference.max()) < 4e-3 * float(other.abs().max())


@pytest.mark.usefixtures("one_thread")
def test_chunks_attend_as_single_tokens_do(sequences: Sequences) -> None:
    chunks, singles = sequences.attended("bf16"), sequences.attended("bf16", (1,))
    check_alike(chunks, singles)
    if "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):  # as attend_bf16.hpp promises
        assert torch.equal(chunks, singles)


def test_several_threads_attend_as_one_does(sequences: Sequences) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = sequences.attended("bf16", (LENGTH,))
        torch.set_num_threads(1)
        check_alike(found, sequences.attended("bf16", (LENGTH,)))
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_torch_computes_what_native_code_does(sequences: Sequences, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sequences.attended("bf16")
    monkeypatch.setattr(slot_state, "native", None)
    monkeypatch.setattr(slot_state, "native_runs", lambda *_: False)
    check_alike(sequences.attended("bf16"), found)
    check_alike(sequences.attended("bf16", (1,)), found)


def test_what_is_rounded_stays_near(sequences: Sequences) -> None:
    found, exact = sequences.attended("bf16"), sequences.attended("fp32")
    error = float((found - exact).square().mean() / exact.square().mean()) ** 0.5
    assert 1e-4 < error < 1e-2


def test_a_whole_sequence_without_state_is_rounded_alike(sequences: Sequences) -> None:
    shape = sequences.shape
    if shape.half:
        rotation = Rotation(sequences.cos, sequences.sin, shape.half)
        q, k = rotation(sequences.q), rotation(sequences.k)
    else:
        q, k = sequences.q, sequences.k
    positions, slots = torch.arange(LENGTH).repeat(SLOTS, 1), torch.arange(SLOTS)
    with kept_in_bf16(on=True):
        found = attend(q, k, sequences.v, positions, slots, 0, 0.2, shape.window, shape.softcap, sequences.sinks)
    check_alike(found, sequences.attended("bf16"))
    exact = attend(q, k, sequences.v, positions, slots, 0, 0.2, shape.window, shape.softcap, sequences.sinks)
    torch.testing.assert_close(exact, sequences.attended("fp32"), rtol=1e-4, atol=1e-5)


def test_room_takes_half_of_what_float32_does() -> None:
    sequences = Sequences(Shape())
    rooms = {dtype: SlotState([sequences.spec(dtype)], SLOTS, LENGTH)._rooms[0] for dtype in ("fp32", "bf16")}
    sizes = {dtype: room.keys.nbytes + room.values.nbytes for dtype, room in rooms.items()}
    assert sizes == {dtype: SLOTS * LENGTH * sequences.spec(dtype).token_bytes for dtype in rooms}
    assert sizes["fp32"] == 2 * sizes["bf16"]


def test_rows_beyond_the_room_are_refused_and_not_written() -> None:
    state = SlotState([Sequences(Shape()).spec("bf16")], 1, 8)
    one = torch.zeros(1, 2, 4, 64)
    step = state.step(torch.tensor([slot_value(1, 0, 1)]), torch.arange(4).unsqueeze(0))
    step.attend(one, one, one, 0, 1.0, 0, 0.0, None)
    beyond = state.step(torch.tensor([slot_value(1, 0, 1)]), torch.arange(4, 13).unsqueeze(0))
    more = torch.zeros(1, 2, 9, 64)
    with pytest.raises(IndexError, match="beyond the room"):
        beyond.attend(more, more, more, 0, 1.0, 0, 0.0, None)
