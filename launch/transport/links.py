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
from edgelaunch.transport.counters import Series
from edgelaunch.transport.message_buffers import Layout, Slot

__all__ = ["Consumer", "GlooGroup", "LocalLink", "Peer", "Producer", "ReceiveLink", "SendLink", "SlotQueue"]

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
    """The first piece's; the others count up from it."""
    fail: Callable[[BaseException], None]
    """Called from the link's thread with the exception that ended it."""


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

    def __init__(self, peer: Peer, layout: Layout, num_buffers: int, busy: Series | None = None) -> None:
        """`busy`: the counter to continue with, where the link follows another one."""
        self._peer = peer
        self._free, self._filled = SlotQueue(), SlotQueue()
        for _ in range(num_buffers):
            self._free.put(Slot(layout))
        self.busy = busy if busy is not None else Series()
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
        end = slot.read_header().end
        begin_ns = perf_counter_ns()
        pieces = slot.pieces[:1] if end else slot.pieces
        try:
            works = [peer.group.send([piece], peer.place, peer.tag + index) for index, piece in enumerate(pieces)]
            for work in works:
                work.wait(FOREVER)
        except RuntimeError as error:
            raise PeerLostError(self._peer.rank, str(error)) from error
        if not end:
            self.busy.add(perf_counter_ns() - begin_ns)
            self._free.put(slot)
        return not end


class ReceiveLink:
    """From another rank: the receives of all free slots are posted ahead, which saves a round trip a message."""

    def __init__(
        self, peer: Peer, layout: Layout, num_buffers: int, first: int = 0, busy: Series | None = None
    ) -> None:
        """`first`: the sequence number that the first message must have; the others count up from it. `busy`: as of
        SendLink."""
        self._peer = peer
        self._layout = layout
        self._first = first
        self._posted: queue.SimpleQueue[tuple[Slot, list[dist.Work]] | None] = queue.SimpleQueue()
        self._filled = SlotQueue()
        self.busy = busy if busy is not None else Series()
        """From a message's first piece to its last, nanoseconds; 0 where it is one piece."""
        for _ in range(num_buffers):
            self.release(Slot(layout))
        self.thread = threading.Thread(target=self._run, name=f"receive from rank {peer.rank}", daemon=True)
        self.thread.start()

    def share_timed(self) -> float:
        """The share of a message's bytes that `busy` saw arriving: all but the first piece."""
        return 1.0 - float(self._layout.pieces[0][1]) / float(self._layout.num_bytes)

    def get(self) -> Slot:
        return self._filled.take()

    def release(self, slot: Slot) -> None:
        """Posts the slot's receives. Called by one thread only, since the order of posting is the order of messages."""
        peer = self._peer
        try:
            works = [peer.group.recv([piece], peer.place, peer.tag + index) for index, piece in enumerate(slot.pieces)]
        except RuntimeError as error:
            raise PeerLostError(self._peer.rank, str(error)) from error
        self._posted.put((slot, works))

    def abandon(self) -> None:
        self._filled.abandon()
        self._posted.put(None)

    def _run(self) -> None:
        try:
            sequence = self._first
            while (entry := self._posted.get()) is not None and self._receive(*entry, sequence):
                sequence += 1
        except BaseException as error:
            self._peer.fail(error)

    def _receive(self, slot: Slot, works: list[dist.Work], sequence: int) -> bool:
        try:
            works[0].wait(FOREVER)
            header = slot.read_header()
            assert header.plan_id == self._layout.plan_id, f"a message of another plan came from rank {self._peer.rank}"
            assert header.sequence == sequence, f"message {header.sequence} came in place of {sequence}"
            if not header.end:
                begin_ns = perf_counter_ns()
                for work in works[1:]:
                    work.wait(FOREVER)
                self.busy.add(perf_counter_ns() - begin_ns)
        except RuntimeError as error:
            raise PeerLostError(self._peer.rank, str(error)) from error
        self._filled.put(slot)
        return not header.end
