"""The two ends of the pipeline on the data host: items into microbatches, and results out of them.

Both live as long as the process; what they do for one epoch takes its number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import Any

import torch

from edgelaunch.common.items import Flush, Item, Results, Source
from edgelaunch.pipeline.in_flight import Batch, Flight
from edgelaunch.transport.counters import ItemRates, Latencies, Series
from edgelaunch.transport.links import Consumer, Producer
from edgelaunch.transport.message_buffers import END, Slot

__all__ = ["Collector", "Feeder", "StreamEnds"]


class Feeder:
    """Draws items and sends them in microbatches; the last of a stream is padded by repeating its last item."""

    def __init__(self, microbatch: int, flight: Flight) -> None:
        self._microbatch, self._flight = microbatch, flight
        self.busy = Series()
        """Drawing, preparing and packing one microbatch, nanoseconds."""
        self.begin_ns = 0

    def draw(self, items: Iterator[Item | Flush]) -> None:
        """In a thread that lives as long as the process."""
        self.begin_ns = begin_ns = perf_counter_ns()
        batch = Batch(0)
        for item in items:
            if isinstance(item, Item):
                batch.items.append(item)
                batch.due_ns.append(perf_counter_ns() if item.due_ns is None else item.due_ns)
            if batch.items and (len(batch.items) == self._microbatch or isinstance(item, Flush)):
                batch.drawn_ns = perf_counter_ns() - begin_ns
                self._flight.put(batch)
                batch, begin_ns = Batch(batch.number + 1), perf_counter_ns()
        if batch.items:
            self._flight.put(batch)
        self._flight.end()

    def send(self, epoch: int, link: Producer, first: int) -> None:
        """What is under way already, then what is drawn, then the end."""
        sequence = first
        for batch in self._flight.under_way(epoch):
            assert batch.number == sequence, f"message {batch.number} would be sent as {sequence}"
            self._send(batch, link)
            sequence += 1
        while (following := self._flight.take(epoch)) is not None:
            pack_ns = self._send(following, link)
            self.busy.add(following.drawn_ns + pack_ns)
            sequence = following.number + 1
        slot = link.acquire()
        slot.write_header(sequence, 0, END)
        link.publish(slot)

    def _send(self, batch: Batch, link: Producer) -> int:
        slot = link.acquire()
        begin_ns = perf_counter_ns()
        for index, item in enumerate(batch.items):
            _fill(slot, index, item.arrays)
        num_valid = len(batch.items)
        for tensor in slot.tensors:
            tensor[num_valid:] = tensor[num_valid - 1]
        slot.write_header(batch.number, num_valid)
        link.publish(slot)
        return perf_counter_ns() - begin_ns


def _fill(slot: Slot, index: int, arrays: Any) -> None:
    for spec, tensor in zip(slot.layout.specs, slot.tensors, strict=True):
        value = arrays[spec.name]
        tensor[index].copy_(value if isinstance(value, torch.Tensor) else torch.from_numpy(value))


class Collector:
    """Hands each item's result on, once and in order, and drops the padding."""

    def __init__(self, flight: Flight, results: Results) -> None:
        self._flight, self._results = flight, results
        self._handing_on = threading.Lock()
        """A thread of an earlier epoch may still hand on: whoever takes results may be slow."""
        self.busy = Series()
        """Writing one microbatch's results, nanoseconds."""
        self.arrivals = Series()
        """Time between two microbatches' results, nanoseconds."""
        self.latencies = Latencies()
        """From when an item was due, or drawn, to its microbatch's result; golden items are not counted."""
        self.rates = ItemRates()
        self.first_ns = self.last_ns = 0
        self.num_items = 0
        self._paused = False
        self._pauses_ns: list[int] = []

    def pause(self) -> None:
        """An epoch ended early: the time to the next result is a pause, and no arrival in steady state."""
        self._paused = self.num_items > 0

    def take_pauses(self) -> list[int]:
        """Those since the last call, nanoseconds from the last result before to the first after."""
        pauses, self._pauses_ns = self._pauses_ns, []
        return pauses

    def collect(self, epoch: int, link: Consumer) -> None:
        while True:
            slot = link.get()
            header = slot.read_header()
            if header.end:
                break
            with self._handing_on:
                batch = self._flight.arrive(epoch, header.sequence)
                assert header.num_valid == len(batch.items), f"{header.num_valid} results for {len(batch.items)} items"
                self._mark(perf_counter_ns())
                self._hand_on(batch, slot)
                self.busy.add(perf_counter_ns() - self.last_ns)
            link.release(slot)
        with self._handing_on:
            assert self._flight.empty(), "the stream ended, and microbatches have no result"
            self._results.finish()

    def _hand_on(self, batch: Batch, slot: Slot) -> None:
        if batch.items[0].entry.stream != "golden":
            for due_ns in batch.due_ns:
                self.latencies.add(self.last_ns - due_ns)
        named = slot.named()
        for index, item in enumerate(batch.items):
            self._results.add(item.entry, {name: tensor[index] for name, tensor in named.items()})
        self.num_items += len(batch.items)
        self.rates.add(len(batch.items), self.last_ns)

    def _mark(self, now_ns: int) -> None:
        if self._paused:
            self._paused = False
            self._pauses_ns.append(now_ns - self.last_ns)
        elif self.first_ns:
            self.arrivals.add(now_ns - self.last_ns)
        self.first_ns = self.first_ns or now_ns
        self.last_ns = now_ns


class StreamEnds:
    """The data host's ends of the pipeline, which outlive an epoch."""

    def __init__(self, microbatch: int, source: Source, results: Results) -> None:
        self._source = source
        self._flight = Flight()
        self.feeder = Feeder(microbatch, self._flight)
        self.collector = Collector(self._flight, results)

    def draw(self, may_begin: Callable[[], bool]) -> None:
        """In a thread that lives as long as the process; `may_begin` waits, False: the run is over before."""
        if may_begin():
            self.feeder.draw(self._source.items)
            self._flight.end()

    def begin(self, number: int) -> int:
        """An epoch begins; returns the sequence number of its first message."""
        return self._flight.switch(number)

    def halt(self) -> None:
        """The epoch ended early: nothing is sent and no result taken until the next one begins."""
        self._flight.switch(0)
        self.collector.pause()

    @property
    def num_items(self) -> int:
        """Whose results are there."""
        return self.collector.num_items

    def num_in_flight(self) -> int:
        """Items that were fed and have no result yet."""
        return self._flight.num_items()

    def abandon(self) -> None:
        self._flight.switch(0)
