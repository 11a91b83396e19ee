"""Measures bandwidth and latency to all other ranks over the runtime's own transport.

One pair at a time. Latency is half the median round trip of small messages, bandwidth the rate of transfers that grow
until one takes a while; both without the waiting that first messages bring.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import combinations
from time import perf_counter
from typing import TypeVar

import torch
import torch.distributed as dist

from edgecompile.execution.message_layout import PIECE_BYTES, piece_sizes
from edgelaunch.common.failures import PeerLostError, rank_name
from edgelaunch.common.rank_figures import LinkCount
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.common.rank_summary import RankSummary
from edgelaunch.link_test.hosts_option import Figures
from edgelaunch.pipeline.rank import EpochRole, Rank
from edgelaunch.transport.counters import StageClock
from edgelaunch.transport.links import FOREVER, GlooGroup

__all__ = ["LinkWork"]

T = TypeVar("T")

SMALL_BYTES = 64
NUM_ROUND_TRIPS = 100
FEWEST_ROUND_TRIPS = 50
ROUND_TRIPS_S = 2.0
"""After so long 50 round trips do."""
WARM_UP = 5
FIRST_BYTES = 64 << 10
GROWTH = 4
MOST_BYTES = 1 << 30
REPEATS = 3
WINDOW = 4
"""Pieces under way at once, as many as two full buffers of a small boundary."""
POLL_S = 0.2
PING, PONG, SIZE, READY, DATA, DONE = range(1, 7)


class Wire:
    """One end of a pair: sends to the other end and receives from it, waiting for each message."""

    def __init__(self, group: GlooGroup, place: int, peer: int) -> None:
        """`place`: the peer's number in the group."""
        self._group, self._place, self._peer = group, place, peer

    def send(self, tensor: torch.Tensor, tag: int) -> None:
        self.wait(self.begin_send(tensor, tag))

    def receive(self, tensor: torch.Tensor, tag: int) -> None:
        self.wait(self.begin_receive(tensor, tag))

    def begin_send(self, tensor: torch.Tensor, tag: int) -> dist.Work:
        return self._guarded(lambda: self._group.send([tensor], self._place, tag))

    def begin_receive(self, tensor: torch.Tensor, tag: int) -> dist.Work:
        return self._guarded(lambda: self._group.recv([tensor], self._place, tag))

    def wait(self, work: dist.Work) -> None:
        self._guarded(lambda: work.wait(FOREVER))

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except RuntimeError as error:
            raise PeerLostError(self._peer, str(error)) from error


# --- one pair: the first end leads, the second answers ---------------------------------------------------------------


def lead_round_trips(wire: Wire) -> float:
    """Seconds of a round trip of small messages, the median; the answer's receive is posted before the question."""
    message, answer = torch.zeros(SMALL_BYTES, dtype=torch.uint8), torch.zeros(SMALL_BYTES, dtype=torch.uint8)
    times: list[float] = []
    begin = perf_counter()
    more = True
    while more:
        late = perf_counter() - begin > ROUND_TRIPS_S
        more = len(times) < WARM_UP + (FEWEST_ROUND_TRIPS if late else NUM_ROUND_TRIPS)
        message[0] = int(more)
        pong = wire.begin_receive(answer, PONG)
        start = perf_counter()
        wire.send(message, PING)
        wire.wait(pong)
        times.append(perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def answer_round_trips(wire: Wire) -> None:
    messages = [torch.zeros(SMALL_BYTES, dtype=torch.uint8) for _ in range(2)]
    answer = torch.zeros(SMALL_BYTES, dtype=torch.uint8)
    ping = wire.begin_receive(messages[0], PING)
    more = True
    while more:
        wire.wait(ping)
        more = bool(messages[0][0])
        if more:
            messages.reverse()
            ping = wire.begin_receive(messages[0], PING)
        wire.send(answer, PONG)


def send_growing(wire: Wire, round_trip_s: float, least_s: float) -> float:
    """Bytes a second: transfers grow until one takes `least_s`; of that size the median of three counts."""
    pieces = [torch.zeros(PIECE_BYTES, dtype=torch.uint8) for _ in range(WINDOW)]
    num_bytes = FIRST_BYTES
    send_transfer(wire, pieces, num_bytes)
    while True:
        elapsed_s = send_transfer(wire, pieces, num_bytes)
        if elapsed_s >= least_s or num_bytes >= MOST_BYTES:
            break
        num_bytes = min(MOST_BYTES, num_bytes * GROWTH)
    times = [elapsed_s] + [send_transfer(wire, pieces, num_bytes) for _ in range(REPEATS - 1)]
    wire.send(torch.zeros(1, dtype=torch.int64), SIZE)
    elapsed_s = statistics.median(times)
    # the last piece's way and the confirmation's way back are latency
    return num_bytes / max(elapsed_s - round_trip_s, elapsed_s / 2)


def send_transfer(wire: Wire, pieces: list[torch.Tensor], num_bytes: int) -> float:
    """Seconds until the receiver has confirmed that all of it is there."""
    done = wire.begin_receive(torch.zeros(1, dtype=torch.uint8), DONE)
    ready = wire.begin_receive(torch.zeros(1, dtype=torch.uint8), READY)
    wire.send(torch.tensor([num_bytes]), SIZE)
    wire.wait(ready)
    begin = perf_counter()
    under_way: deque[dist.Work] = deque()
    for number, size in enumerate(piece_sizes(num_bytes)):
        if len(under_way) == WINDOW:
            wire.wait(under_way.popleft())
        under_way.append(wire.begin_send(pieces[number % WINDOW][:size], DATA))
    for work in under_way:
        wire.wait(work)
    wire.wait(done)
    return perf_counter() - begin


def receive_growing(wire: Wire) -> None:
    pieces = [torch.zeros(PIECE_BYTES, dtype=torch.uint8) for _ in range(WINDOW)]
    size = torch.zeros(1, dtype=torch.int64)
    mark = torch.zeros(1, dtype=torch.uint8)
    while True:
        wire.receive(size, SIZE)
        sizes = list(piece_sizes(int(size)))
        if not sizes:
            return
        posted: deque[dist.Work] = deque()
        for number, length in enumerate(sizes):
            if len(posted) == WINDOW:
                wire.wait(posted.popleft())
            posted.append(wire.begin_receive(pieces[number % WINDOW][:length], DATA))
            if number + 1 == min(WINDOW, len(sizes)):
                wire.send(mark, READY)
        for work in posted:
            wire.wait(work)
        wire.send(mark, DONE)


# --- all pairs -------------------------------------------------------------------------------------------------------


class LinkEpoch:
    """Measures instead of computing, once the ranks are connected."""

    def __init__(self, work: LinkWork, role: EpochRole) -> None:
        self._work, self._role, self._rank = work, role, work.options.rank

    def run(self, rank: Rank) -> None:
        rank.connect(other for other in self._role.group if other != self._rank)
        pairs = list(combinations(self._role.group, 2))
        for number, pair in enumerate(pairs):
            if self._rank in pair:
                self._await(rank, self._turn(number))
                self._measure(rank, pair, f"({number + 1} of {len(pairs)})")
                if self._rank == pair[0]:
                    rank.board.put(self._turn(number + 1), "1")
            if not self._rank:
                self._await(rank, self._turn(number + 1))
                self._gather(rank, pair)
        self._await(rank, self._turn(len(pairs)))
        assert self._rank or len(self._work.found) == 2 * len(pairs), "not all figures are there at the end"

    def abandon(self) -> None:
        """It waits in the connections alone, which are given up too."""

    def summary(self) -> RankSummary:
        return RankSummary()

    def received(self) -> dict[int, LinkCount]:
        return {}

    def _gather(self, rank: Rank, pair: tuple[int, int]) -> None:
        for way in (pair, pair[::-1]):
            text = rank.board.get(self._figures_of(*way))
            assert text is not None, f"the figures of {way} are not there after their turn"
            self._work.found[way] = Figures(**json.loads(text))

    def _turn(self, number: int) -> str:
        return f"turn/{self._role.number}/{number}"

    def _figures_of(self, source: int, destination: int) -> str:
        return f"link/{self._role.number}/{source}/{destination}"

    def _await(self, rank: Rank, key: str) -> None:
        while not key.endswith("/0") and rank.board.get(key) is None:
            rank.check()
            time.sleep(POLL_S)

    def _measure(self, rank: Rank, pair: tuple[int, int], progress: str) -> None:
        first, second = pair
        leads = self._rank == first
        wire = Wire(rank.epoch.group(second if leads else first), int(leads), second if leads else first)
        if leads:
            name = rank_name(self._role.plan, second)
            rank.options.log(f"measuring the link to {name} and back {progress}")
        for source, destination in (pair, pair[::-1]):
            if self._rank == source:
                round_trip_s = lead_round_trips(wire)
                rate = send_growing(wire, round_trip_s, self._work.least_s)
                figures = Figures(bandwidth_bytes_per_s=rate, latency_s=round_trip_s / 2)
                rank.board.put(self._figures_of(source, destination), json.dumps(asdict(figures)))
                if not leads:
                    wire.send(torch.zeros(1, dtype=torch.uint8), DONE)
            else:
                answer_round_trips(wire)
                receive_growing(wire)
                if leads:  # the other end's figures are on the board before the next pair's turn
                    wire.receive(torch.zeros(1, dtype=torch.uint8), DONE)


class LinkWork:
    """The work of a rank that measures with the others."""

    def __init__(self, options: RankOptions, least_s: float) -> None:
        """`least_s`: how long a transfer takes at least. All links are wanted: the loss of a rank ends the run."""
        runtime = replace(options.plan.runtime, rejoin_s=0.0)
        self.options = replace(options, plan=replace(options.plan, contingencies=(), runtime=runtime))
        self.least_s = least_s
        self.found: dict[tuple[int, int], Figures] = {}
        """On rank 0, those of the pairs that are done: by source and destination."""
        self.clocks: dict[tuple[int, int], StageClock] = {}

    def prepare(self, set_ready: Callable[[bool], None]) -> None:
        """No shard is needed."""

    def in_epoch(self, role: EpochRole) -> LinkEpoch:
        return LinkEpoch(self, role)
