"""Messages that vary in size: where their tensors lie, what of them is sent, and what a header may say."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from edgecompile.contract.plan import Dim, TensorSpec
from edgelaunch.common.varying import Sizes
from edgelaunch.transport.links import Boundary, Peer, ReceiveLink, SendLink
from edgelaunch.transport.message_buffers import END, HEADER, MOST_KEPT, Layout, Slot

DIMS = {"batch": Dim(min=1, max=4), "length": Dim(min=2, max=1000)}
SPECS = (
    TensorSpec(name="hidden", shape=(4, 1000, 300), dtype="float32", dims=("batch", "length", None)),
    TensorSpec(name="flat", shape=(4000,), dtype="int64", dims=("batch*length",)),
    TensorSpec(name="fixed", shape=(3,), dtype="bool"),
)
PLAN_ID = b"p" * 16
LARGE, SMALL, MIDDLE = (4, 1000), (1, 2), (3, 400)


def fill(slot: Slot, sizes: Sizes, value: int) -> None:
    slot.resize(sizes)
    for tensor in slot.tensors:
        tensor.fill_(value)


def test_tensors_lie_compactly_at_every_size() -> None:
    slot = Slot(Layout(SPECS, PLAN_ID, DIMS))
    largest = slot.buffer.numel()
    assert slot.sizes == LARGE
    fill(slot, SMALL, 1)
    assert [tuple(tensor.shape) for tensor in slot.tensors] == [(1, 2, 300), (2,), (3,)]
    assert slot.num_bytes == sum(piece.numel() for piece in slot.pieces) == 64 + 2432 + 64 + 64
    assert slot.buffer.numel() == largest == sum(piece.numel() for piece in slot.all_pieces)
    slot.write_header(5, 1)
    assert slot.read_header().sizes == SMALL
    for sizes in (MIDDLE, SMALL, LARGE):
        slot.resize(sizes)
        ends = [piece.data_ptr() for piece in slot.pieces]
        assert ends == [piece.data_ptr() for piece in slot.all_pieces[: len(ends)]]


def test_more_sizes_than_are_kept() -> None:
    slot = Slot(Layout(SPECS[:2], PLAN_ID, DIMS))
    for number in range(2 * MOST_KEPT):
        batch, length = 1 + number % 4, 2 + number
        slot.resize((batch, length))
        assert [tuple(tensor.shape) for tensor in slot.tensors] == [(batch, length, 300), (batch * length,)]
        assert slot.num_bytes == slot.layout.at((batch, length)).num_bytes
        slot.tensors[1].fill_(number)
        assert slot.buffer[slot.num_bytes - 64 :].any() or not number
    assert len(slot._kept) <= MOST_KEPT


@pytest.mark.parametrize(
    ("sizes", "num_valid", "said"),
    [
        ((4, 1000), 4, None),
        ((1, 2), 1, None),
        ((5, 2), 1, "batch 5, the plan has 1 to 4"),
        ((0, 2), 0, "batch 0"),
        ((1, 1), 1, "length 1, the plan has 2 to 1000"),
        ((1, (1 << 32) - 1), 1, "length 4294967295"),
        ((2, 10), 3, "3 items in a message of"),
        ((2, 10), 0, "0 items"),
    ],
)
def test_sizes_that_a_header_may_have(sizes: Sizes, num_valid: int, said: str | None) -> None:
    slot = Slot(Layout(SPECS, PLAN_ID, DIMS))
    HEADER.pack_into(slot._header, 0, PLAN_ID, 0, num_valid, 0, *sizes, *(0,) * 6)
    misfit = slot.layout.misfit(slot.read_header())
    assert misfit is None if said is None else said in str(misfit)


# --- over gloo ------------------------------------------------------------------------------------------------------


@pytest.fixture
def groups() -> Iterator[list[Any]]:
    """Both ends of a pair, in this process."""
    gloo: Any = dist.ProcessGroupGloo
    store, made = dist.HashStore(), [None, None]

    def connect(rank: int) -> None:
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname="127.0.0.1")]
        options._timeout = timedelta(seconds=20)
        options._threads = 1
        made[rank] = gloo(store, rank, 2, options)

    threads = [threading.Thread(target=connect, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return made


def ends_of(groups: list[Any], first: int = 0) -> tuple[SendLink, ReceiveLink, queue.SimpleQueue[BaseException]]:
    failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    boundary = Boundary(layout=Layout(SPECS, PLAN_ID, DIMS), num_buffers_in=2, num_buffers_out=2, first=first)
    peers = [Peer(group=groups[rank], rank=1 - rank, place=1 - rank, tag=7, fail=failures.put) for rank in range(2)]
    return SendLink(peers[0], boundary), ReceiveLink(peers[1], boundary), failures


def test_pieces_that_are_not_sent_are_those_of_the_next_message_in_their_slot(groups: list[Any]) -> None:
    sizes = [LARGE, SMALL, SMALL, LARGE, SMALL, MIDDLE, SMALL, LARGE, LARGE, SMALL, MIDDLE, LARGE, LARGE]
    send, receive, failures = ends_of(groups, first=40)

    def produce() -> None:
        for number, size in enumerate(sizes):
            slot = send.acquire()
            fill(slot, size, number % 2 + number)
            slot.tensors[2].fill_(number % 2)
            slot.write_header(40 + number, size[0])
            send.publish(slot)
        slot = send.acquire()
        slot.write_header(40 + len(sizes), 0, END)
        send.publish(slot)

    thread = threading.Thread(target=produce)
    thread.start()
    num_bytes = 0
    for number, size in enumerate(sizes):
        slot = receive.get()
        assert (slot.sizes, slot.read_header().sequence) == (size, 40 + number)
        for tensor, spec in zip(slot.tensors, SPECS, strict=True):
            assert tuple(tensor.shape) == spec.shape_at(dict(zip(DIMS, size, strict=True)))
            expected = number % 2 if spec.dtype == "bool" else number % 2 + number
            assert bool((tensor == expected).all()), f"message {number}: {spec.name}"
        num_bytes += slot.num_bytes
        receive.release(slot)
    assert receive.get().read_header().end
    thread.join(10)
    assert failures.empty()
    assert (receive.busy.num_bytes, receive.busy.count) == (num_bytes, len(sizes))
    assert num_bytes == sum(Layout(SPECS, PLAN_ID, DIMS).at(size).num_bytes for size in sizes)
    send.thread.join(10)
    assert send.busy.num_bytes == num_bytes


def test_a_header_with_impossible_sizes_ends_the_link_alone(groups: list[Any]) -> None:
    send, receive, failures = ends_of(groups)
    slot = send.acquire()
    fill(slot, SMALL, 0)
    HEADER.pack_into(slot._header, 0, PLAN_ID, 0, 1, 0, 1, 1 << 31, *(0,) * 6)
    send.publish(slot)
    error = failures.get(timeout=10)
    assert isinstance(error, AssertionError)
    assert "message 0 of rank 0 has length 2147483648, the plan has 2 to 1000" in str(error)
    receive.thread.join(10)
    assert not receive.thread.is_alive()
    send.abandon()
