"""A pipeline played through the plain way: one process for each thread, stores of tokens, fluid sharing found by
bisection. Slow, and written without the native core in view, to compare it with."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

Process = Generator[Any, None, None]


@dataclass
class Pipeline:
    compute_s: list[float]
    transfer_s: list[float]
    latency_s: list[float]
    local: list[bool]
    shared: list[dict[int, float]] = field(default_factory=list)
    buffers_in: int = 1
    buffers_out: int = 1
    ready_s: list[float] = field(default_factory=list)
    factor: Callable[[int, int, int, float], float] = lambda seed, stage, microbatch, sigma: 1.0
    """Of a stage's time; called with the two fields below too."""
    seed: int = 0
    sigma: float = 0.0


class Store:
    def __init__(self, tokens: int = 0) -> None:
        self.tokens = tokens
        self.waiting: deque[Process] = deque()


class World:
    def __init__(self, pipeline: Pipeline, count: int) -> None:
        self.pipeline, self.count = pipeline, count
        self.now = 0.0
        self._queue: list[tuple[float, int, Process]] = []
        self._number = 0
        stages = len(pipeline.compute_s)
        self.fed: list[float] = []
        self.results: list[float] = []
        self.busy = [0.0] * stages
        self.starved = [0.0] * stages
        self.blocked = [0.0] * stages
        self.sending = [0.0] * (stages + 1)
        edges = range(stages + 1)
        self.slots = [Store(pipeline.buffers_in + 1 if pipeline.local[b] else pipeline.buffers_out) for b in edges]
        self.credits = [Store(pipeline.buffers_in) for _ in edges]
        self.outbox = [Store() for _ in edges]
        self.filled = [Store() for _ in edges]
        self.fluids = [Fluid(self, shares) for shares in pipeline.shared]

    def run(self) -> World:
        stages = len(self.pipeline.compute_s)
        for process in (self.feeder(), self.collector(), *(self.stage(s) for s in range(stages)),
                        *(self.sender(b) for b in range(stages + 1) if not self.pipeline.local[b])):  # fmt: skip
            self.later(0.0, process)
        while self._queue and len(self.results) < self.count:
            self.now, _, process = heapq.heappop(self._queue)
            self.go(process)
        return self

    # --- the machinery: a process yields a delay, or a store to take a token from ---------------------------------

    def later(self, delay: float, process: Process) -> None:
        self._number += 1
        heapq.heappush(self._queue, (self.now + delay, self._number, process))

    def go(self, process: Process) -> None:
        for wish in process:
            if isinstance(wish, Store):
                if wish.tokens == 0:
                    wish.waiting.append(process)
                    return
                wish.tokens -= 1
            else:
                self.later(wish, process)
                return

    def put(self, store: Store, delay: float = 0.0) -> None:
        if delay > 0:
            self.later(delay, self._put_later(store))
        elif store.waiting:
            self.later(0.0, store.waiting.popleft())
        else:
            store.tokens += 1

    def _put_later(self, store: Store) -> Process:
        yield from ()
        self.put(store)

    # --- the threads -----------------------------------------------------------------------------------------------

    def feeder(self) -> Process:
        for microbatch in range(self.count):
            if self.pipeline.ready_s and self.pipeline.ready_s[microbatch] > self.now:
                yield self.pipeline.ready_s[microbatch] - self.now
            yield self.slots[0]
            self.fed.append(self.now)
            self.publish(0)

    def publish(self, boundary: int) -> None:
        self.put((self.filled if self.pipeline.local[boundary] else self.outbox)[boundary])

    def release(self, boundary: int) -> None:
        if self.pipeline.local[boundary]:
            self.put(self.slots[boundary])
        else:
            self.put(self.credits[boundary], self.pipeline.latency_s[boundary])

    def sender(self, boundary: int) -> Process:
        fluid = next((fluid for fluid in self.fluids if boundary in fluid.shares), None)
        while True:
            yield self.outbox[boundary]
            yield self.credits[boundary]
            start = self.now
            if fluid is None:
                yield self.pipeline.transfer_s[boundary]
            else:
                yield fluid.enter(boundary, self.pipeline.transfer_s[boundary])
            self.sending[boundary] += self.now - start
            self.put(self.slots[boundary])
            self.put(self.filled[boundary], self.pipeline.latency_s[boundary])

    def stage(self, number: int) -> Process:
        for microbatch in range(self.count):
            idle = self.now
            yield self.filled[number]
            start = self.now
            factor = self.pipeline.factor(self.pipeline.seed, number, microbatch, self.pipeline.sigma)
            yield self.pipeline.compute_s[number] * factor
            end = self.now
            yield self.slots[number + 1]
            self.starved[number] += start - idle
            self.busy[number] += end - start
            self.blocked[number] += self.now - end
            self.publish(number + 1)
            self.release(number)

    def collector(self) -> Process:
        last = len(self.pipeline.compute_s)
        while True:
            yield self.filled[last]
            self.results.append(self.now)
            self.release(last)


class Fluid:
    """Messages as fluids through one resource: all rise to the same level of it, none above its own share."""

    def __init__(self, world: World, shares: dict[int, float]) -> None:
        self.world, self.shares = world, shares
        self.left: dict[int, float] = {}
        self.done: dict[int, Store] = {}
        self.then = 0.0
        self.version = 0

    def enter(self, boundary: int, alone_s: float) -> Store:
        self.advance()
        self.left[boundary] = alone_s
        self.done[boundary] = Store()
        self.plan()
        return self.done[boundary]

    def speeds(self) -> dict[int, float]:
        low, high = 0.0, 1.0
        if sum(self.shares[b] for b in self.left) > 1.0:
            for _ in range(60):
                level = (low + high) / 2
                if sum(min(level, self.shares[b]) for b in self.left) > 1.0:
                    high = level
                else:
                    low = level
        return {b: min(high, self.shares[b]) / self.shares[b] for b in self.left}

    def advance(self) -> None:
        for boundary, speed in self.speeds().items():
            self.left[boundary] -= speed * (self.world.now - self.then)
        self.then = self.world.now

    def plan(self) -> None:
        self.version += 1
        if self.left:
            ends = {b: max(0.0, self.left[b]) / speed for b, speed in self.speeds().items()}
            first = min(ends, key=lambda b: ends[b])
            self.world.later(ends[first], self.finish(first, self.version))

    def finish(self, boundary: int, version: int) -> Process:
        yield from ()
        if version == self.version:
            self.advance()
            del self.left[boundary]
            self.world.put(self.done.pop(boundary))
            self.plan()
