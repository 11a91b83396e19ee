"""Monitors the links: each pair of ranks that a plan may connect has a light connection of its own.

Heartbeats say which ranks are there: they all go to rank 0, and so know nothing of the way between two others. A cut
between those leaves gloo waiting without a word, since a quiet link is not a failure. Hence, for each link:

- A connection that carries one byte a tick (`light`), apart from the tensors: it waits behind no message in a socket.
- A link is silent if a byte was sent and has no acknowledgement for most of the time of detection, which is
  `runtime.detect` or what the queues of a slow link take. Kernels acknowledge: a peer that computes, loads its
  shard or is stopped still has a link. An acknowledgement proves both directions, so a cut of one direction shows at
  both ends.
- Slow is not dead. In the network itself a byte may well wait behind tensors, for seconds at 100 kbit/s. Where it does,
  round trips are long before they are too long: TCP's own measure of how late an answer may be, doubled, counts where
  that is more. And where the tensors themselves make progress, the link is not cut either.
- A process that itself stood still asks again before it judges.
- The end with the lower number connects, over and over while there is no connection: that is how a heal is found,
  sooner than by TCP's own ever longer waiting.

Each end tells rank 0 with its heartbeats, which bear the run's seal, whom it does not hear. Rank 0 decides (in
`control.core`): it believes one end, if both ends' processes are alive, since a link to a board without power is not
what is broken. The epoch ends, and the next one begins once a plan's links all carry: the same plan after the heal, or
one that does without one of the two ends. What was under way is sent again, as after any loss.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgelaunch.common.detection import silence_s
from edgelaunch.common.failures import NamedRankError, rank_name
from edgelaunch.common.plan_parts import links_watched
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.store.seal import Seal
from edgelaunch.transport.liveness_socket import IDENTITY_BYTES, Heard, LivenessConnection, Party, Refused
from edgelaunch.transport.process_group import local_address
from edgelaunch.transport.tcp_info import kernel_of, own_connections, plain

__all__ = ["LinkWatch", "Pulse"]

TICKS = 5
"""In the time after which a link is silent."""
LEAST_TICK_S, MOST_TICK_S = 0.05, 1.0
LONGEST_ATTEMPT_S = 8.0
"""To connect: TCP asks at once, after 1, 3 and 7 s."""
LONGEST_HANDSHAKE_S = 20.0
ACCEPT_PAUSE_S = 0.02
"""After a connection that could not be taken, for want of file descriptors for instance."""
LATE, SLOW_FOR_S = 2.0, 60.0
"""On a link where answers took long within the last minute, behind tensors for instance, twice as long is not a cut."""
MOST_STRANGERS = 16
"""Connections that have not proved who they are."""


def tick_s(silence_s: float) -> float:
    return min(MOST_TICK_S, max(LEAST_TICK_S, silence_s / TICKS))


class Pulse:
    """When an answer came over one link, and for how long none has. Reads no clock."""

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._asked: float | None = None
        """When the first question was sent that has no answer yet."""
        self._slowest, self._slowest_at = 0.0, 0.0
        self.silent = False

    @property
    def more_s(self) -> float:
        """So much longer may an answer take here than on a fast link."""
        return max(0.0, LATE * self._slowest - self._silence_s)

    def ask(self, now: float) -> None:
        """Something was sent, or tried to be."""
        if self._asked is None:
            self._asked = now

    def hear(self, heard: Heard, now: float) -> None:
        """What is known of answers."""
        if heard.at is None or self._asked is None or heard.at < self._asked:
            return
        self._asked = None
        if heard.late_s >= self._slowest or now - self._slowest_at > SLOW_FOR_S:
            self._slowest, self._slowest_at = heard.late_s, now

    def rest(self) -> None:
        """Nothing is asked for the time being, or no answer could have been received."""
        self._asked = None

    def waited_s(self, now: float) -> float:
        return 0.0 if self._asked is None else now - self._asked

    def is_over(self, now: float) -> bool:
        return self.waited_s(now) > self._silence_s + self.more_s


@dataclass(frozen=True)
class Sign:
    """What a process itself wrote over its link, at last."""

    identity: str
    at: float
    """time.monotonic()."""
    more_s: float
    """So much longer may the next one take than on a fast link."""


@dataclass
class _Link:
    rank: int
    pulse: Pulse
    connects: bool
    peer: Party | None = None
    """The process at the other end that was last heard of."""
    address: tuple[str, int] | None = None
    light: LivenessConnection | None = None
    moved_bytes: int | None = None
    """What the ends have exchanged over other connections; None while nothing is asked."""
    num_attempts: int = 0
    """To connect, since there was a connection."""


class LinkWatch:
    """Watches this rank's links in a thread of its own, which makes no call to the store: that may hang."""

    def __init__(
        self,
        rank: int,
        peers: Iterable[int],
        address: str,
        silence_s: float,
        seal: Seal | None,
        *,
        store_port: int,
        fail: Callable[[BaseException], None],
    ) -> None:
        """`peers`: the ranks at the other ends. `address`: this machine's. After `silence_s` without an answer a link
        is silent. `store_port`: connections of this port, which every rank has to rank 0, say nothing of a link. `fail`
        is called with what ended the thread.

        Raises OSError where it cannot listen on the address.
        """
        self.own = Party(rank, secrets.token_hex(IDENTITY_BYTES // 2))
        self.changed: Callable[[], None] = lambda: None
        """Called from the thread, once `silent` says something else."""
        self._store_port, self._fail = store_port, fail
        self._address, self._seal = address, seal
        self._tick_s, self._silence_s = tick_s(silence_s), silence_s
        self._links = {peer: _Link(peer, Pulse(self._silence_s), rank < peer) for peer in sorted(peers)}
        self._strangers: list[LivenessConnection] = []
        self._learned: deque[tuple[int, str]] = deque()
        self._signs: dict[int, Sign] = {}
        self._silent: tuple[str, ...] = ()
        self._looked = time.monotonic()
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family, backlog=64)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, options: RankOptions, seal: Seal | None, fail: Callable[[BaseException], None]) -> LinkWatch:
        """Raises UserError where it cannot listen on this machine's address."""
        plan, rank, endpoint = options.plan, options.rank, options.endpoint
        address = local_address(plan.hosts[rank].address, endpoint.address)
        peers = links_watched(plan, rank)
        try:
            return cls(rank, peers, address, silence_s(plan), seal, store_port=endpoint.port, fail=fail)
        except OSError as error:
            raise NamedRankError(
                f"{rank_name(plan, rank)} cannot listen on {address} ({error.strerror}): give hosts.members its address"
            ) from None

    # --- any thread's side -------------------------------------------------------------------------------------------

    def place(self) -> str:
        """Where others connect to, to be published under the seal."""
        return f"{self.own.identity} {self._listener.getsockname()[1]} {self._address}"

    def learn(self, rank: int, place: str) -> None:
        """What a rank has published of itself."""
        self._learned.append((rank, place))

    def wanted(self) -> list[int]:
        """The ranks whose place is asked for."""
        return [link.rank for link in self._links.values()
                if link.connects and (link.light is None or not link.light.established)]  # fmt: skip

    def silent(self) -> tuple[str, ...]:
        """The processes, by their identity, whose links to this rank do not carry."""
        return self._silent

    def last_sign(self, rank: int) -> Sign | None:
        """Of the process that has a rank."""
        return self._signs.get(rank)

    def stop(self) -> None:
        self._stop.set()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        next_tick = time.monotonic()
        try:
            while not self._stop.is_set():
                for key, _ in self._selector.select(max(0.0, next_tick - time.monotonic())):
                    if key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._serve(key.data)
                if (now := time.monotonic()) >= next_tick:
                    self._tick(now)
                    next_tick = now + self._tick_s
        except BaseException as error:
            self._fail(error)
        finally:
            for light in [*self._strangers, *(link.light for link in self._links.values() if link.light is not None)]:
                light.close()
            self._listener.close()
            self._selector.close()

    def _tick(self, now: float) -> None:
        while self._learned:
            self._take(*self._learned.popleft())
        if now - self._looked > self._silence_s:  # this machine may have stood still
            for link in self._links.values():
                link.pulse.rest()
        self._looked = now
        for link in self._links.values():
            self._look(link, now)
        for light in [light for light in self._strangers if now - light.began > LONGEST_HANDSHAKE_S]:
            self._forget(light)
        links = self._links.values()
        silent = tuple(link.peer.identity for link in links if link.pulse.silent and link.peer is not None)
        if silent != self._silent:
            self._silent = silent
            self.changed()

    def _take(self, rank: int, place: str) -> None:
        link, words = self._links.get(rank), place.split()
        if link is None or len(words) != 3 or len(words[0]) != IDENTITY_BYTES or not words[1].isdecimal():
            return
        identity, port, address = words
        if link.peer is None or link.peer.identity != identity:
            self._drop(link)
            link.peer, link.address = Party(rank, identity), (address, int(port))
            link.pulse.rest()
            link.pulse.silent = False

    def _look(self, link: _Link, now: float) -> None:
        """One tick of one link."""
        if link.light is not None:
            link.pulse.hear(link.light.heard(), now)
        if link.light is None or link.pulse.waited_s(now) < self._silence_s / 2:
            link.moved_bytes = None
        else:
            before, link.moved_bytes = link.moved_bytes, self._moved_bytes(link.light)
            if before is not None and link.moved_bytes > before:
                link.pulse.hear(Heard(now, 0.0), now)
        if link.pulse.is_over(now):
            link.pulse.silent = True
            if link.light is not None and link.light.established:
                self._drop(link)
        elif link.light is not None and link.light.established:
            link.pulse.silent, link.num_attempts = False, 0
        if link.light is not None and self._has_failed(link, link.light, now):
            self._drop(link)
        if link.light is None and link.connects and link.address is not None and link.peer is not None:
            self._connect(link, link.address, link.peer)
        elif link.light is None and link.peer is not None:
            link.pulse.ask(now)  # the other end connects again, if it can
        if link.light is not None and link.light.established:
            link.pulse.ask(now)
            try:
                link.light.sign()
            except OSError:
                self._drop(link)

    def _has_failed(self, link: _Link, light: LivenessConnection, now: float) -> bool:
        """A fresh attempt comes through sooner than TCP's next one; but on a slow link an answer takes its time."""
        patience_s = min(LONGEST_ATTEMPT_S, self._silence_s * 2 ** min(10, link.num_attempts - 2))
        return not light.established and now - max(light.began, light.heard().at or 0.0) > patience_s

    def _moved_bytes(self, light: LivenessConnection) -> int:
        """Over all other connections of this process with that machine, tensors for instance."""
        with contextlib.suppress(OSError):
            here, there = light.connection.getsockname(), light.connection.getpeername()
            seen = [kernel_of(connection) for connection, address, ports in own_connections()
                    if address == plain(there[0]) and self._store_port not in ports
                    and ports != {here[1], there[1]}]  # fmt: skip
            return sum(kernel.acked_bytes + kernel.received_bytes for kernel in seen if kernel is not None)
        return 0

    def _connect(self, link: _Link, address: tuple[str, int], peer: Party) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            return  # no file descriptor is left: nothing can be asked
        connection.setblocking(False)
        link.pulse.ask(time.monotonic())
        link.num_attempts += 1
        try:
            code = connection.connect_ex(address)
        except (OSError, OverflowError):
            code = errno.EINVAL
        if code not in (0, errno.EINPROGRESS):
            connection.close()  # no route: asked, and not heard
            return
        link.light = LivenessConnection(connection, self.own, peer, self._seal)
        self._selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, link.light)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            time.sleep(ACCEPT_PAUSE_S)
            return
        if len(self._strangers) >= MOST_STRANGERS:
            self._forget(self._strangers[0])
        light = LivenessConnection(connection, self.own, None, self._seal)
        self._strangers.append(light)
        self._selector.register(connection, selectors.EVENT_READ, light)

    def _serve(self, light: LivenessConnection) -> None:
        """Something came, or a connection that was asked for is there, or is not."""
        was_established = light.established
        try:
            if light.connects and not was_established:
                light.greet()
                self._selector.modify(light.connection, selectors.EVENT_READ, light)
            light.read()
        except (OSError, Refused, ValueError):
            link = self._link_of(light)
            if link is None:
                self._forget(light)
            else:
                self._drop(link)
            return
        if light.peer is None or not light.established:
            return
        if not was_established and not light.connects:
            self._welcome(light, light.peer)
        link = self._links.get(light.peer.rank)
        if link is not None and link.light is light and light.last_sign is not None:
            self._signs[link.rank] = Sign(light.peer.identity, light.last_sign, link.pulse.more_s)

    def _welcome(self, light: LivenessConnection, peer: Party) -> None:
        """A rank has connected, and proved that it is one."""
        self._strangers.remove(light)
        link = self._links.get(peer.rank)
        if link is None or link.connects:
            self._close(light)
            return
        self._drop(link)
        link.light, link.peer = light, peer
        link.pulse.rest()
        link.pulse.silent = False

    def _link_of(self, light: LivenessConnection) -> _Link | None:
        return next((link for link in self._links.values() if link.light is light), None)

    def _drop(self, link: _Link) -> None:
        if link.light is not None:
            self._close(link.light)
            link.light = None

    def _forget(self, light: LivenessConnection) -> None:
        if light in self._strangers:
            self._strangers.remove(light)
        self._close(light)

    def _close(self, light: LivenessConnection) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(light.connection)
        light.close()
