"""The two ends of the pipeline on the data host: items into microbatches, and results out of them.

Both live as long as the process; what they do for one epoch takes its number.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import torch

from edgecompile.contract.plan import Plan
from edgelaunch.common.items import Entry, Flush, Item, Results, Source
from edgelaunch.common.varying import Varying, fill_row
from edgelaunch.pipeline.in_flight import Batch, Flight
from edgelaunch.pipeline.result_counters import CollectingEnd
from edgelaunch.pipeline.window import Waiting, Window
from edgelaunch.transport.counters import Series
from edgelaunch.transport.links import Consumer, Producer
from edgelaunch.transport.message_buffers import END, Slot

__all__ = ["Collector", "Feeder", "StreamEnds"]


class Feeder:
    """Draws items and sends them in microbatches.

    Where items differ in their extents, those of a message are chosen from a window. Otherwise messages are full but
    for the last of a stream and those before a pause: these have fewer items where the plan lets the batch vary, and
    repeat their last item where every message has the same size.
    """

    def __init__(self, microbatch: int, flight: Flight, varying: Varying) -> None:
        self._microbatch, self._flight, self._varying = microbatch, flight, varying
        self.busy = Series()
        """Drawing, preparing and packing one microbatch, nanoseconds."""
        self.begin_ns = 0
        self.useful = self.computed = 0
        """Positions, such as tokens, of items and of the messages that they were sent in; items where none vary."""

    def draw(self, items: Iterator[Item | Flush], window: Window | None) -> None:
        """In a thread that lives as long as the process."""
        self.begin_ns = perf_counter_ns()
        if window is not None:
            self._draw_into(items, window)
        else:
            self._draw_batches(items)

    def _draw_into(self, items: Iterator[Item | Flush], window: Window) -> None:
        begin_ns = perf_counter_ns()
        for item in items:
            if isinstance(item, Flush):
                self._flight.mark()
                continue
            now_ns = perf_counter_ns()
            due_ns = now_ns if item.due_ns is None else item.due_ns
            extents = self._varying.extents(item.arrays)
            self._flight.offer(Waiting(item, window.next_place, extents, due_ns, now_ns, now_ns - begin_ns))
            begin_ns = perf_counter_ns()

    def _draw_batches(self, items: Iterator[Item | Flush]) -> None:
        begin_ns = perf_counter_ns()
        batch = Batch(0)
        for item in items:
            if isinstance(item, Item):
                batch.items.append(item)
                batch.due_ns.append(perf_counter_ns() if item.due_ns is None else item.due_ns)
            if batch.items and (len(batch.items) == self._microbatch or isinstance(item, Flush)):
                batch.drawn_ns = perf_counter_ns() - begin_ns
                self._put(batch)
                batch, begin_ns = Batch(batch.number + 1), perf_counter_ns()
        if batch.items:
            self._put(batch)

    def _put(self, batch: Batch) -> None:
        batch.sizes = self._varying.sizes([()] * len(batch.items))
        self._flight.put(batch)

    def send(self, epoch: int, link: Producer, first: int) -> None:
        """What is under way already, then what is drawn, then the end."""
        sequence = first
        for batch in self._flight.under_way(epoch):
            assert batch.number == sequence, f"message {batch.number} would be sent as {sequence}"
            self._send(batch, link, link.acquire())
            sequence += 1
        while True:
            slot = link.acquire()  # before the items are chosen: more of them are there to choose from
            following = self._flight.take(epoch)
            if following is None:
                break
            pack_ns = self._send(following, link, slot)
            self.busy.add(following.drawn_ns + pack_ns)
            self.useful += sum(map(math.prod, following.extents)) if following.extents else len(following.items)
            self.computed += math.prod(following.sizes) if following.sizes else self._microbatch
            sequence = following.number + 1
        slot.write_header(sequence, 0, END)
        link.publish(slot)

    def _send(self, batch: Batch, link: Producer, slot: Slot) -> int:
        begin_ns = perf_counter_ns()
        slot.resize(batch.sizes)
        for index, item in enumerate(batch.items):
            self._fill(slot, index, item.arrays)
        num_valid = len(batch.items)
        for tensor in slot.tensors:
            if num_valid < len(tensor):
                tensor[num_valid:] = tensor[num_valid - 1]
        slot.write_header(batch.number, num_valid)
        link.publish(slot)
        return perf_counter_ns() - begin_ns

    def _fill(self, slot: Slot, index: int, arrays: Any) -> None:
        for spec, tensor in zip(slot.layout.specs, slot.tensors, strict=True):
            value = arrays[spec.name]
            value = value if isinstance(value, torch.Tensor) else torch.from_numpy(value)
            if slot.sizes:
                fill_row(tensor[index], value, self._varying.padding(spec.name))
            else:
                tensor[index].copy_(value)


@dataclass(frozen=True)
class _Early:
    """A result that came before those of items that were drawn before."""

    entry: Entry
    due_ns: int
    outputs: dict[str, torch.Tensor]


class Collector(CollectingEnd):
    """Hands each item's result on, once and in order, and drops the padding."""

    def __init__(self, flight: Flight, results: Results, varying: Varying) -> None:
        super().__init__()
        self._flight, self._results, self._varying = flight, results, varying
        self._early: dict[int, _Early] = {}
        """By the item's place. Bounded, since the window of items that messages are chosen from is."""
        self._next_place = 0
        self._handing_on = threading.Lock()
        """A thread of an earlier epoch may still hand on: whoever takes results may be slow."""

    def collect(self, epoch: int, link: Consumer) -> None:
        while True:
            slot = link.get()
            header = slot.read_header()
            if header.end:
                break
            with self._handing_on:
                batch = self._flight.arrive(epoch, header.sequence)
                assert header.num_valid == len(batch.items), f"{header.num_valid} results for {len(batch.items)} items"
                assert header.sizes == batch.sizes, f"results of {header.sizes} for a message of {batch.sizes}"
                self.mark(perf_counter_ns())
                self._hand_on(batch, slot)
                self.busy.add(perf_counter_ns() - self.last_ns)
            link.release(slot)
        with self._handing_on:
            assert self._flight.empty(), "the stream ended, and microbatches have no result"
            assert not self._early, "the stream ended, and items between others have no result"
            self._results.finish()

    def _hand_on(self, batch: Batch, slot: Slot) -> None:
        before, named = self.num_items, slot.named()
        places = batch.places or range(self._next_place, self._next_place + len(batch.items))
        for index, (place, item) in enumerate(zip(places, batch.items, strict=True)):
            outputs = {name: tensor[index] for name, tensor in named.items()}
            if batch.extents:
                specs, extents = slot.layout.specs, batch.extents[index]
                outputs = {spec.name: self._varying.cut(spec, outputs[spec.name], extents) for spec in specs}
            if place != self._next_place:
                kept = {name: tensor.clone() for name, tensor in outputs.items()}
                self._early[place] = _Early(item.entry, batch.due_ns[index], kept)
                continue
            self._give(item.entry, batch.due_ns[index], outputs)
            while self._early and (early := self._early.pop(self._next_place, None)) is not None:
                self._give(early.entry, early.due_ns, early.outputs)
        self.rates.add(self.num_items - before, self.last_ns)

    def _give(self, entry: Entry, due_ns: int, outputs: dict[str, torch.Tensor]) -> None:
        if entry.stream != "golden":
            self.latencies.add(self.last_ns - due_ns)
        self._results.add(entry, outputs)
        self._next_place += 1
        self.num_items += 1


class StreamEnds:
    """The data host's ends of the pipeline, which outlive an epoch."""

    def __init__(self, plan: Plan, source: Source, results: Results) -> None:
        self._source = source
        varying = Varying(plan)
        self._window = Window(plan) if varying.names else None
        self._flight = Flight(self._window)
        self.feeder = Feeder(plan.model.microbatch, self._flight, varying)
        self.collector = Collector(self._flight, results, varying)

    def draw(self, may_begin: Callable[[], bool]) -> None:
        """In a thread that lives as long as the process; `may_begin` waits, False: the run is over before."""
        if may_begin():
            self.feeder.draw(self._source.items, self._window)
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

    def num_messages(self) -> int:
        """That have no result yet."""
        return self._flight.num_messages()

    def abandon(self) -> None:
        self._flight.switch(0)
