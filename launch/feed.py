"""The two ends of the pipeline, on the data host: items into microbatches, and results out of them again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import torch

from edgelaunch.items import Entry, Flush, Item, Results
from edgelaunch.links import Consumer, Producer
from edgelaunch.messages import END, Slot
from edgelaunch.timing import Latencies, Series

__all__ = ["Collector", "Feeder", "UnderWay"]


@dataclass
class UnderWay:
    """What is known of a microbatch's items until their results are there."""

    entries: list[Entry] = field(default_factory=list)
    due_ns: list[int] = field(default_factory=list)
    """When each item was due, or fed; time.perf_counter_ns()."""


class Feeder:
    """Fills microbatches from items and publishes them; the last of a stream is padded by repeating its last item."""

    def __init__(self, microbatch: int, link: Producer) -> None:
        self._microbatch, self._link = microbatch, link
        self.in_flight: deque[UnderWay] = deque()
        """The microbatches that are under way, in order; as many as the pipeline has buffers."""
        self.busy = Series()
        """Reading and preparing one microbatch, nanoseconds."""
        self.begin_ns = 0
        self._sequence = 0

    def run(self, items: Iterator[Item | Flush]) -> None:
        slot: Slot | None = None
        batch = UnderWay()
        self.begin_ns = begin_ns = perf_counter_ns()
        for item in items:
            if isinstance(item, Item):
                due_ns = perf_counter_ns() if item.due_ns is None else item.due_ns
                if slot is None:
                    prepared_ns = perf_counter_ns() - begin_ns
                    slot = self._link.acquire()
                    begin_ns = perf_counter_ns() - prepared_ns
                _fill(slot, len(batch.entries), item.arrays)
                batch.entries.append(item.entry)
                batch.due_ns.append(due_ns)
            if slot is not None and (len(batch.entries) == self._microbatch or isinstance(item, Flush)):
                self._publish(slot, batch)
                self.busy.add(perf_counter_ns() - begin_ns)
                slot, batch, begin_ns = None, UnderWay(), perf_counter_ns()
        if slot is not None:
            self._publish(slot, batch)
        slot = self._link.acquire()
        slot.write_header(self._sequence, 0, END)
        self._link.publish(slot)

    def _publish(self, slot: Slot, batch: UnderWay) -> None:
        num_valid = len(batch.entries)
        for tensor in slot.tensors:
            tensor[num_valid:] = tensor[num_valid - 1]
        slot.write_header(self._sequence, num_valid)
        self._sequence += 1
        self.in_flight.append(batch)
        self._link.publish(slot)


def _fill(slot: Slot, index: int, arrays: Any) -> None:
    for spec, tensor in zip(slot.layout.specs, slot.tensors, strict=True):
        value = arrays[spec.name]
        tensor[index].copy_(value if isinstance(value, torch.Tensor) else torch.from_numpy(value))


class Collector:
    """Hands each item's result on, in order, and drops the padding."""

    def __init__(self, link: Consumer, in_flight: deque[UnderWay], results: Results) -> None:
        self._link, self._in_flight, self._results = link, in_flight, results
        self.busy = Series()
        """Writing one microbatch's results, nanoseconds."""
        self.arrivals = Series()
        """Time between two microbatches' results, nanoseconds."""
        self.latencies = Latencies()
        """From when an item was due, or fed, to its microbatch's result; golden items are not counted."""
        self.first_ns = self.last_ns = 0
        self.num_items = 0

    def run(self) -> None:
        while True:
            slot = self._link.get()
            header = slot.read_header()
            if header.end:
                break
            self._mark(perf_counter_ns())
            batch = self._in_flight.popleft()
            entries = batch.entries
            assert header.num_valid == len(entries), f"{header.num_valid} results came for {len(entries)} items"
            if entries[0].stream != "golden":
                for due_ns in batch.due_ns:
                    self.latencies.add(self.last_ns - due_ns)
            named = slot.named()
            for index, entry in enumerate(entries):
                self._results.add(entry, {name: tensor[index] for name, tensor in named.items()})
            self.num_items += len(entries)
            self._link.release(slot)
            self.busy.add(perf_counter_ns() - self.last_ns)
        assert not self._in_flight, f"{len(self._in_flight)} microbatches have no result"
        self._results.finish()

    def _mark(self, now_ns: int) -> None:
        if self.first_ns:
            self.arrivals.add(now_ns - self.last_ns)
        self.first_ns = self.first_ns or now_ns
        self.last_ns = now_ns
