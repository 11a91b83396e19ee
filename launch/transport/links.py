"""Bounded message queues: within this process, to another rank, from another rank.

Each has a fixed number of slots. A producer acquires one, fills it and publishes it; a consumer gets one and releases
it when nothing reads its tensors any longer. A full pipe makes its producer wait: backpressure reaches the feeder.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from time import perf_counter_ns
from typing import Protocol

import torch
import torch.distributed as dist

from edgelaunch.common.failures import Abandoned, PeerLostError
from edgelaunch.transport.counters import Transfers
from edgelaunch.transport.message_buffers import Layout, Slot

__all__ = [
    "Boundary",
    "Consumer",
    "GlooGroup",
    "LocalLink",
    "Peer",
    "Producer",
    "ReceiveLink",
    "SendLink",
    "SlotQueue",
]

FOREVER = timedelta(days=365)
"""A quiet stream is not a failure, so no operation times out; heartbeats find a rank that stopped."""


class Producer(Protocol):
    def acquire(self) -> Slot: ...
    def publish(self, slot: Slot) -> None: ...


class Consumer(Protocol):
    def get(self) -> Slot: ...
    def release(self, slot: Slot) -> None: ...


class GlooGroup(Protocol):
    """The part of a process group that links use; torch's stubs leave it out."""

    def send(self, tensors: list[torch.Tensor], peer: int, tag: int, /) -> dist.Work: ...
    def recv(self, tensors: list[torch.Tensor], peer: int, tag: int, /) -> dist.Work: ...


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The other end of a link."""

    group: GlooGroup
    rank: int
    """Its rank in the plan, for messages."""
    place: int
    """Its number in the group."""
    tag: int
    """Those of the link's pieces count up from it."""
    fail: Callable[[BaseException], None]
    """Called from the link's thread with the exception that ended it."""


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """What both ends of a link know of its messages.

    Each piece of each of the receiver's slots has a tag of its own, since the receives of pieces that a message had no
    use for stay posted: they are the ones for the next message in that slot.
    """

    layout: Layout
    num_buffers_in: int
    """The receiver's slots, which messages take in turns."""
    num_buffers_out: int
    first: int = 0
    """The sequence number of the first message; the others count up from it."""

    @property
    def num_tags(self) -> int:
        return self.num_buffers_in * len(self.layout.largest.pieces)

    def tags(self, sequence: int) -> range:
        """Of a message's pieces, to be added to the peer's."""
        count = len(self.layout.largest.pieces)
        begin = (sequence - self.first) % self.num_buffers_in * count
        return range(begin, begin + count)


class SlotQueue:
    """A queue that can be given up: whoever waits in it, now or later, gets Abandoned."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()

    def put(self, slot: Slot) -> None:
        self._queue.put(slot)

    def take(self) -> Slot:
        slot = self._queue.get()
        if slot is None:
            self._queue.put(None)
            raise Abandoned
        return slot

    def abandon(self) -> None:
        self._queue.put(None)


class LocalLink:
    """Between two threads of one rank, when both ends of a boundary are on it."""

    def __init__(self, layout: Layout, num_buffers: int) -> None:
        self._free, self._filled = SlotQueue(), SlotQueue()
        for _ in range(num_buffers):
            self._free.put(Slot(layout))

    def acquire(self) -> Slot:
        return self._free.take()

    def publish(self, slot: Slot) -> None:
        self._filled.put(slot)

    def get(self) -> Slot:
        return self._filled.take()

    def release(self, slot: Slot) -> None:
        self._free.put(slot)

    def abandon(self) -> None:
        self._free.abandon()
        self._filled.abandon()


class SendLink:
    """To another rank: a thread sends what is published, in order."""

    def __init__(self, peer: Peer, boundary: Boundary, busy: Transfers | None = None) -> None:
        """`busy`: the counter to continue with, where the link follows another one."""
        self._peer, self._boundary = peer, boundary
        self._free, self._filled = SlotQueue(), SlotQueue()
        for _ in range(boundary.num_buffers_out):
            self._free.put(Slot(boundary.layout))
        self.busy = busy if busy is not None else Transfers()
        """From handing a message to gloo until the kernel has it, waiting for the receiver included, nanoseconds."""
        self.thread = threading.Thread(target=self._run, name=f"send to rank {peer.rank}", daemon=True)
        self.thread.start()

    def acquire(self) -> Slot:
        return self._free.take()

    def publish(self, slot: Slot) -> None:
        self._filled.put(slot)

    def abandon(self) -> None:
        self._free.abandon()
        self._filled.abandon()

    def _run(self) -> None:
        try:
            while self._send(self._filled.take()):
                pass
        except Abandoned:
            pass
        except BaseException as error:
            self._peer.fail(error)

    def _send(self, slot: Slot) -> bool:
        peer = self._peer
        header = slot.read_header()
        begin_ns = perf_counter_ns()
        pieces = slot.pieces[:1] if header.end else slot.pieces
        tags = self._boundary.tags(header.sequence)
        try:
            works = [
                peer.group.send([piece], peer.place, peer.tag + tag) for piece, tag in zip(pieces, tags, strict=False)
            ]
            for work in works:
                work.wait(FOREVER)
        except RuntimeError as error:
            raise PeerLostError(self._peer.rank, str(error)) from error
        if not header.end:
            num_bytes = slot.num_bytes
            self.busy.add_message(perf_counter_ns() - begin_ns, num_bytes, num_bytes)
            self._free.put(slot)
        return not header.end


@dataclass
class _Posted:
    """A slot of a receiver and the receives of its pieces."""

    slot: Slot
    place: int
    """Its number."""
    works: list[dist.Work]
    num_taken: int
    """The first pieces, whose receives the last message completed."""


class ReceiveLink:
    """From another rank: the receives of all free slots are posted ahead, which saves a round trip a message."""

    def __init__(self, peer: Peer, boundary: Boundary, busy: Transfers | None = None) -> None:
        """`busy`: as of SendLink."""
        self._peer, self._boundary = peer, boundary
        self._posted: queue.SimpleQueue[_Posted | None] = queue.SimpleQueue()
        self._filled = SlotQueue()
        self.busy = busy if busy is not None else Transfers()
        """From a message's first piece to its last, nanoseconds; 0 where it is one piece."""
        self._slots: dict[int, _Posted] = {}
        for place in range(boundary.num_buffers_in):
            slot = Slot(boundary.layout)
            self._slots[id(slot)] = _Posted(slot, place, [], len(slot.all_pieces))
            self.release(slot)
        self.thread = threading.Thread(target=self._run, name=f"receive from rank {peer.rank}", daemon=True)
        self.thread.start()

    def get(self) -> Slot:
        return self._filled.take()

    def release(self, slot: Slot) -> None:
        """Posts the slot's receives. Called by one thread only, since the order of posting is the order of messages."""
        peer, posted = self._peer, self._slots[id(slot)]
        tags = self._boundary.tags(self._boundary.first + posted.place)
        pieces = zip(slot.all_pieces[: posted.num_taken], tags, strict=False)
        try:
            works = [peer.group.recv([piece], peer.place, peer.tag + tag) for piece, tag in pieces]
        except RuntimeError as error:
            raise PeerLostError(self._peer.rank, str(error)) from error
        posted.works[: posted.num_taken] = works
        self._posted.put(posted)

    def abandon(self) -> None:
        self._filled.abandon()
        self._posted.put(None)

    def _run(self) -> None:
        try:
            sequence = self._boundary.first
            while (posted := self._posted.get()) is not None and self._receive(posted, sequence):
                sequence += 1
        except BaseException as error:
            self._peer.fail(error)

    def _receive(self, posted: _Posted, sequence: int) -> bool:
        slot, layout, rank = posted.slot, self._boundary.layout, self._peer.rank
        try:
            posted.works[0].wait(FOREVER)
            header = slot.read_header()
            assert header.plan_id == layout.plan_id, f"a message of another plan came from rank {rank}"
            assert header.sequence == sequence, f"message {header.sequence} came in place of {sequence}"
            if not header.end:
                begin_ns = perf_counter_ns()
                misfit = layout.misfit(header)
                assert misfit is None, f"message {sequence} of rank {rank} has {misfit}"
                slot.resize(header.sizes)
                posted.num_taken = len(slot.pieces)
                for work in posted.works[1 : posted.num_taken]:
                    work.wait(FOREVER)
                timed_bytes = slot.num_bytes - len(slot.pieces[0])
                self.busy.add_message(perf_counter_ns() - begin_ns, slot.num_bytes, timed_bytes)
        except RuntimeError as error:
            raise PeerLostError(self._peer.rank, str(error)) from error
        self._filled.put(slot)
        return not header.end
