"""The light connection of a link, and what is made of its silence: in this process, over loopback."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgelaunch.store.seal import Seal
from edgelaunch.transport import liveness_socket as light_module
from edgelaunch.transport.link_watch import LinkWatch, Pulse
from edgelaunch.transport.liveness_socket import Heard

SILENCE_S = 0.33
SEAL = Seal(b"secret", b"n" * 16)


# --- one link, without a clock ----------------------------------------------------------------------------------------


def test_a_link_is_silent_only_while_a_question_has_no_answer() -> None:
    pulse = Pulse(2.0)
    pulse.ask(0.0)
    assert not pulse.is_over(2.0)
    assert pulse.is_over(2.1)
    pulse.hear(Heard(1.9, 0.2), 2.1)
    assert not pulse.is_over(100.0)  # answered, and nobody has asked since
    pulse.ask(100.0)
    pulse.hear(Heard(99.0, 0.2), 102.5)  # from before the question
    assert pulse.is_over(102.5)
    pulse.rest()
    assert not pulse.is_over(200.0)


def test_a_link_whose_answers_take_long_is_given_longer_for_a_while() -> None:
    pulse = Pulse(2.0)
    pulse.ask(0.0)
    pulse.hear(Heard(1.5, 3.0), 1.5)  # a byte behind a tensor at 100 kbit/s
    pulse.ask(2.0)
    assert not pulse.is_over(7.9)
    assert pulse.is_over(8.1)
    pulse.hear(Heard(8.0, 0.2), 8.0)
    pulse.ask(9.0)
    assert not pulse.is_over(14.0)
    pulse.hear(Heard(70.0, 0.2), 70.0)  # a minute later it is as fast as any
    pulse.ask(71.0)
    assert pulse.is_over(73.1)


# --- two ranks --------------------------------------------------------------------------------------------------------


class Pair:
    """Ranks 1 and 2 of a run, each with its watch; what ended a thread is an error of the test."""

    def __init__(self, seals: tuple[Seal | None, Seal | None] = (SEAL, SEAL)) -> None:
        self.errors: list[BaseException] = []
        self.watches = [
            LinkWatch(rank, [other], "127.0.0.1", SILENCE_S, seal, store_port=1, fail=self.errors.append)
            for (rank, other), seal in zip(((1, 2), (2, 1)), seals, strict=True)
        ]

    def introduce(self, place: str | None = None) -> None:
        self.watches[0].learn(2, place or self.watches[1].place())

    def stop(self) -> None:
        for watch in self.watches:
            watch.stop()
            watch._thread.join(5.0)
        assert self.errors == []


@pytest.fixture
def pair() -> Iterator[Pair]:
    found = Pair()
    yield found
    found.stop()


def until(condition: Callable[[], Any], deadline_s: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_both_ends_find_each_other_and_sign(pair: Pair) -> None:
    assert pair.watches[0].wanted() == [2]
    assert pair.watches[1].wanted() == []  # the lower rank connects
    pair.introduce()
    for watch, other in zip(pair.watches, pair.watches[::-1], strict=True):
        until(lambda watch=watch, other=other: watch.last_sign(other.own.rank) is not None)
        sign = watch.last_sign(other.own.rank)
        assert sign is not None
        assert sign.identity == other.own.identity
        until(lambda watch=watch, other=other, at=sign.at: watch.last_sign(other.own.rank).at > at)
        assert watch.silent() == ()
    assert pair.watches[0].wanted() == []


@pytest.mark.slow
@pytest.mark.parametrize("seals", [(SEAL, Seal(b"other", b"n" * 16)), (SEAL, None), (None, SEAL)])
def test_who_does_not_know_the_secret_is_no_end_of_a_link(seals: tuple[Seal | None, Seal | None]) -> None:
    pair = Pair(seals)
    try:
        pair.introduce()
        # its machine answers, but that is not the rank: the link is there only once that has proved who it is
        time.sleep(4 * SILENCE_S)
        assert [watch.last_sign(3 - watch.own.rank) for watch in pair.watches] == [None, None]
        assert pair.watches[0].wanted() == [2]
    finally:
        pair.stop()


def test_strangers_disturb_no_link(pair: Pair) -> None:
    pair.introduce()
    until(lambda: pair.watches[1].last_sign(1))
    port = int(pair.watches[1].place().split()[1])
    with contextlib.ExitStack() as stack:
        for number in range(40):
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            if number % 2:
                stranger.sendall(b"edgelink" + bytes(number * 4))
        sign = pair.watches[1].last_sign(1)
        assert sign is not None
        until(lambda: pair.watches[1].last_sign(1).at > sign.at + 2 * SILENCE_S)  # type: ignore[union-attr]
    assert pair.watches[1].silent() == ()
    assert len(pair.watches[1]._strangers) <= 16


def test_another_process_takes_the_place_of_one_that_ended(pair: Pair) -> None:
    pair.introduce()
    until(lambda: pair.watches[0].last_sign(2))
    pair.watches[1].stop()
    pair.watches[1]._thread.join(5.0)
    until(lambda: pair.watches[0].silent() == (pair.watches[1].own.identity,))
    pair.watches[1] = LinkWatch(2, [1], "127.0.0.1", SILENCE_S, SEAL, store_port=1, fail=pair.errors.append)
    pair.introduce()
    until(lambda: pair.watches[0].last_sign(2).identity == pair.watches[1].own.identity)  # type: ignore[union-attr]
    until(lambda: pair.watches[0].silent() == ())


needs_kernel = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says when a connection heard something")


@pytest.mark.slow
@needs_kernel
def test_a_process_that_stands_still_has_a_link(pair: Pair) -> None:
    """As one that computes for long, or is stopped: its kernel answers; heartbeats find what is wrong with it."""
    pair.introduce()
    until(lambda: pair.watches[0].last_sign(2) and pair.watches[1].last_sign(1))
    go_on = threading.Event()
    pair.watches[1]._look = lambda link, now: go_on.wait(20.0)  # type: ignore[assignment, return-value]
    time.sleep(8 * SILENCE_S)
    sign = pair.watches[0].last_sign(2)
    assert sign is not None
    assert time.monotonic() - sign.at > 4 * SILENCE_S
    assert pair.watches[0].silent() == ()
    del pair.watches[1]._look
    go_on.set()
    until(lambda: pair.watches[0].last_sign(2).at > sign.at)  # type: ignore[union-attr]
    assert pair.watches[1].silent() == ()  # who stood still asks again before it judges


@pytest.mark.slow
@needs_kernel
def test_a_process_that_stands_still_before_it_has_proved_anything_has_a_link(pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pair.introduce(f"{'0' * 16} {server.getsockname()[1]} 127.0.0.1")
        time.sleep(8 * SILENCE_S)
        assert pair.watches[0].silent() == ()
        assert pair.watches[0].last_sign(2) is None


# --- a cut ------------------------------------------------------------------------------------------------------------


class TransferContext:
    """What lies between two ranks: passes all on, until it is cut one way or both."""

    def __init__(self, port: int) -> None:
        self._port, self.open = port, [True, True]
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                first, _ = self._server.accept()
                second = socket.create_connection(("127.0.0.1", self._port))
                for number, (source, sink) in enumerate(((first, second), (second, first))):
                    threading.Thread(target=self._pass_on, args=(number, source, sink), daemon=True).start()

    def _pass_on(self, number: int, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError), source, sink:
            while data := source.recv(1000):
                if self.open[number]:
                    sink.sendall(data)

    def close(self) -> None:
        self._server.close()


@pytest.mark.slow
@pytest.mark.parametrize("ways", [(0,), (1,), (0, 1)])
def test_a_cut_is_noticed_at_an_end_and_so_is_its_heal(
    pair: Pair, ways: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the way here is another process's kernel that answers for what it swallows: only what the ranks wrote counts
    monkeypatch.setattr(light_module, "kernel_of", lambda connection: None)
    changes: list[tuple[str, ...]] = []
    pair.watches[0].changed = lambda: changes.append(pair.watches[0].silent())
    identity, port, _ = pair.watches[1].place().split()
    way = TransferContext(int(port))
    try:
        pair.introduce(f"{identity} {way.port} 127.0.0.1")
        until(lambda: pair.watches[0].last_sign(2) and pair.watches[1].last_sign(1))
        assert changes == []
        for number in ways:
            way.open[number] = False
        until(lambda: any(watch.silent() for watch in pair.watches))
        if 1 in ways:
            until(lambda: changes == [(identity,)])
        way.open[:] = [True, True]
        until(lambda: not any(watch.silent() for watch in pair.watches))
        sign = pair.watches[0].last_sign(2)
        assert sign is not None
        until(lambda: pair.watches[0].last_sign(2).at > sign.at)  # type: ignore[union-attr]
    finally:
        way.close()
