"""How ranks join: proofs that are of this run and no other, versions that fit, and what is said while they wait."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import launch_plans
import numpy as np
import pytest
import torch
from launch_harness import Running, free_port, wait_all
from launch_meeting import Meeting, stranger_at
from launch_plans import Written
from torch._C._distributed_c10d import PrefixStore

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.execution import message_layout
from edgelaunch.common import software
from edgelaunch.common.failures import Failure, FailureBox, FailureKind
from edgelaunch.common.identity import Endpoint
from edgelaunch.common.items import Entry, Item, Source
from edgelaunch.common.rank_log import RankLog
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.common.rank_summary import Durations, LinkSummary, RankSummary, StageSummary
from edgelaunch.common.software import Software
from edgelaunch.composition import pipeline_rank
from edgelaunch.control.core import membership
from edgelaunch.control.core.membership import DONE, Announcement, Verdict
from edgelaunch.control.heartbeats import Watch
from edgelaunch.control.supervisor import Supervisor
from edgelaunch.doctor import check_joining
from edgelaunch.doctor.findings import FAILS, NOTE, OK, Finding
from edgelaunch.doctor.rank_checks import examine
from edgelaunch.pipeline.feed import StreamEnds
from edgelaunch.process import waiting
from edgelaunch.process.waiting import Waiting
from edgelaunch.store import joining, meeting
from edgelaunch.store.meeting import Board
from edgelaunch.store.seal import Seal
from edgelaunch.transport import message_buffers as messages
from edgelaunch.transport import shard_transfer
from edgelaunch.transport.link_watch import LinkWatch

SECRET = b"correct horse battery staple"
OTHER = b"incorrect horse battery staple"
NUM_ITEMS = 10


def test_ranks_with_another_secret_are_turned_away_and_named(two_stages: Written) -> None:
    plan = two_stages.plan
    with Meeting(plan, SECRET) as meeting:
        assert meeting.join(SECRET).seal is not None
        assert meeting.remarks == []
        with pytest.raises(UserError, match="is not rank 0's"):
            meeting.join(OTHER)
        with pytest.raises(UserError, match="asks for a shared secret"):
            meeting.join(None)
        assert meeting.door.turned_away == {1: "rank 1 (host-1) did not present the secret"}
        meeting.join(SECRET)
        assert meeting.door.turned_away == {}
    assert meeting.remarks == [
        "rank 1 (host-1) has a different secret: rejected",
        "rank 1 (host-1) did not present the secret: rejected",
    ]
    with Meeting(plan, None) as meeting:
        with pytest.raises(UserError, match="without the secret"):
            meeting.join(SECRET)
        assert meeting.join(None).seal is None


def test_requests_that_are_none_are_passed_over(two_stages: Written) -> None:
    with Meeting(two_stages.plan, SECRET) as meeting:
        texts = [b"", b"\xff", b"{}", b"zz {}", b' {"rank": "1"}', b' {"rank": 1, "nonce": "00"}', b" [[[", b"00 7"]
        for text in texts:
            meeting.stranger.set(f"join/{meeting.stranger.add('join', 1)}", text)
        assert meeting.join(SECRET).seal is not None
        assert meeting.remarks == []


def test_rank_0_that_does_not_answer(two_stages: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Meeting(two_stages.plan, SECRET)
    with pytest.raises(UserError, match=r"rank 0 \(host-0\) did not join within 0.1 s: start edgelaunch"):
        silent.join(SECRET, timeout_s=0.1)
    for old in (b"open", bytes(range(100, 148)), b"\xff" * 48):
        silent.stranger.set(joining.GREETING, old)
        with pytest.raises(UserError, match="older edgecompile: install the same version"):
            silent.join(SECRET, timeout_s=0.1)


# --- what was recorded ------------------------------------------------------------------------------------------------


class Results:
    def __init__(self) -> None:
        self.given: list[np.ndarray] = []
        self.finished = False

    def add(self, entry: Entry, outputs: Any) -> None:
        self.given.append(outputs["y"].numpy().copy())

    def finish(self) -> None:
        self.finished = True


@dataclasses.dataclass
class Process:
    """A rank in a thread of this process."""

    runner: Supervisor
    ended: list[Failure | None]
    thread: threading.Thread

    def wait(self) -> Failure | None:
        self.thread.join(30)
        self.runner.abandon()
        assert self.ended, "the rank has not ended"
        return self.ended[0]


def start(
    written: Written, port: int, rank: int, items: np.ndarray, results: Results, log: Any = lambda text: None
) -> Process:
    options = RankOptions(
        plan=written.plan, folder=written.path.parent, plan_sha256=file_sha256(written.path), rank=rank,
        endpoint=Endpoint(address="127.0.0.1", port=port), threads=1, device="cpu",
        log=RankLog(written.plan, rank, tell=lambda text, **more: log(text)),
        secret=SECRET,
    )  # fmt: skip
    ends = None
    if rank == 0:
        rows = (Item(Entry(index=index), {"x": torch.from_numpy(row)}) for index, row in enumerate(items))
        source = Source(items=rows, num_items=len(items), what="items")
        ends = lambda plan: StreamEnds(plan, source, results)  # noqa: E731
    runner = pipeline_rank(options, ends)
    ended: list[Failure | None] = []

    def work() -> None:
        runner.start()
        ended.append(runner.wait())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return Process(runner, ended, thread)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """All that is written into a store that is opened now, by its key, the last value."""
    kept: dict[str, bytes] = {}

    class Recorder(PrefixStore):
        def set(self, key: str, value: Any) -> None:
            kept[key] = value.encode() if isinstance(value, str) else bytes(value)
            super().set(key, value)

        def add(self, key: str, amount: int) -> int:
            number = super().add(key, amount)
            kept[key] = str(number).encode()
            return number

        def compare_set(self, key: str, expected: str, value: str) -> Any:
            kept[key] = value.encode()
            return super().compare_set(key, expected, value)

    monkeypatch.setattr(meeting, "PrefixStore", Recorder)
    return kept


def test_a_recorded_run_is_worth_nothing_in_the_next(
    two_stages: Written, records: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger who recorded every entry of a run writes all of them back before a rank joins."""
    items = np.random.default_rng(0).random((NUM_ITEMS, 4), dtype=np.float32)
    port, results = free_port(), Results()
    ranks = [start(two_stages, port, rank, items, results) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [None, None]
    assert results.finished
    recorded = dict(records)
    kinds = {key.partition("/")[0] for key in recorded}
    assert {joining.GREETING, "join", "welcome", "announcement", "beat", "news", "bye", "ready", "summary"} <= kinds
    assert any(kind.startswith("epoch-") for kind in kinds)
    failure = Failure(rank=1, kind=FailureKind.USER, message="of an earlier run").to_json().encode()
    recorded["failure"] = Seal(SECRET, b"n" * 16).seal("failure", failure).hex().encode()

    monkeypatch.setattr(meeting, "PrefixStore", PrefixStore)
    port, results = free_port(), Results()
    leader = start(two_stages, port, 0, items, results)
    deadline = time.monotonic() + 20
    while leader.runner._watch is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stranger = stranger_at(port)
    for key, value in recorded.items():
        stranger.set(key, value)
    follower = start(two_stages, port, 1, items, results)
    while follower.runner._watch is None:
        assert time.monotonic() < deadline, follower.ended
        time.sleep(0.005)
    for key in (joining.GREETING, "failure"):  # another would hide what was just said, and so keep a run from ending
        stranger.set(key, recorded[key])
    assert [rank.wait() for rank in (leader, follower)] == [None, None]
    assert results.finished
    np.testing.assert_array_equal(np.array(results.given), 4 * items)


def test_an_answer_to_another_rank_is_no_answer(two_stages: Written) -> None:
    """A stranger sees a rank's nonce, and gives it the answer that another one got in this very run."""
    with Meeting(two_stages.plan, SECRET) as meeting:
        nonce = os.urandom(16)
        signed = joining.Signed.of(SECRET, "join", json.dumps({"rank": 1, "nonce": nonce.hex()}))
        meeting.board.plain().append("join", signed.text())
        while (answer := meeting.board.plain().get(f"welcome/{nonce.hex()}")) is None:
            time.sleep(0.005)
    silent = Meeting(two_stages.plan, SECRET)

    def relay() -> None:
        while (request := silent.board.plain().get("join/1")) is None:
            time.sleep(0.005)
        signed = joining.Signed.read(request)
        assert signed is not None
        silent.stranger.set(f"welcome/{signed.values()['nonce']}", answer)

    thread = threading.Thread(target=relay)
    thread.start()
    with pytest.raises(UserError, match="is not rank 0's"):
        silent.join(SECRET)
    thread.join()


def test_the_end_of_a_run_concerns_its_members_alone(two_stages: Written) -> None:
    """A rank that rank 0 does not count among those that are there ends neither well nor badly by an announcement."""
    with Meeting(two_stages.plan, SECRET) as meeting:
        boxes, watches = [FailureBox() for _ in range(2)], []
        failures: list[BaseException] = []
        for box in boxes:
            links = LinkWatch(1, [], "127.0.0.1", 1.0, None, store_port=1, fail=failures.append)
            watches.append(Watch(meeting.join(SECRET), two_stages.plan, 1, "0" * 64, box, links))
        done = Announcement(number=3, phase=DONE, without=None, members={0: "", 1: watches[0].incarnation}, first=0)
        meeting.board.put("announcement", done.to_json())
        deadline = time.monotonic() + 10
        while not boxes[0].finished or watches[1].announcement is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        assert not boxes[1].ended
        meeting.board.put(f"verdict/{watches[1].incarnation}", Verdict.LATE.value)
        while watches[1].verdict is None:
            assert time.monotonic() < deadline
            watches[1].beat_now()
            time.sleep(0.01)
        assert watches[1].verdict is Verdict.LATE
        watches[1].stop()
        watches[1]._thread.join(5)


# --- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [SECRET, None])
def test_another_protocol_is_said_on_both_sides(
    two_stages: Written, monkeypatch: pytest.MonkeyPatch, secret: bytes | None
) -> None:
    own = Software.own()
    theirs = dataclasses.replace(own, protocol=99, edgecompile="9.9")
    with Meeting(two_stages.plan, secret) as meeting:
        monkeypatch.setattr(Software, "own", staticmethod(lambda: theirs))
        with pytest.raises(UserError) as raised:
            meeting.join(secret)
    text = (f"rank 1 (host-1) has edgecompile 9.9 (protocol 99) and rank 0 (host-0) {own.edgecompile} "
            f"(protocol {own.protocol}): install the same version of edgecompile on both")  # fmt: skip
    assert str(raised.value) == text
    assert meeting.remarks == [f"rejected: {text}"]
    assert meeting.door.turned_away == {1: text}


def test_another_torch_is_no_obstacle_and_is_said(two_stages: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    with Meeting(two_stages.plan, SECRET) as meeting:
        own = Software.own()
        with monkeypatch.context() as patch:
            patch.setattr(Software, "own", staticmethod(lambda: dataclasses.replace(own, torch="2.6.0")))
            assert meeting.join(SECRET).seal is not None
        assert meeting.remarks == [f"rank 1 (host-1) has torch 2.6.0, and this rank torch {own.torch}"]


def fields_of(kind: Any) -> str:
    return f"{kind.__name__}({', '.join(field.name for field in dataclasses.fields(kind))})"


def test_what_ranks_say_to_each_other_is_the_protocol_that_it_says_it_is() -> None:
    """Whoever changes one of these raises PROTOCOL, and then this test."""
    said = [membership.Announcement, membership.Beat, membership.Hello, membership.Holder, membership.Leave,
            membership.Suspicion, membership.Awaited, Failure, RankSummary, StageSummary, LinkSummary,
            Durations, shard_transfer.Request, shard_transfer.Answer]  # fmt: skip
    assert (software.PROTOCOL, [fields_of(kind) for kind in said]) == (7, [
        "Announcement(number, phase, without, members, first)",
        "Beat(incarnation, count, left, ready, link, silent, load)",
        "Hello(rank, incarnation, sha256, process)",
        "Holder(incarnation, process)",
        "Leave(rank, incarnation, signal)",
        "Suspicion(rank, number, lost, reason)",
        "Awaited(absent, loading, first, most_s)",
        "Failure(rank, kind, message, trace, private, named, signal)",
        "RankSummary(machine, stage, send, receive)",
        "StageSummary(wait_input, compute, wait_output, pack, trace)",
        "LinkSummary(busy, num_bytes, share_timed)",
        "Durations(count, total_s, least_s, mean_s, median_s, max_s)",
        "Request(rank, token, files, offset)",
        "Answer(sizes, error)",
    ])  # fmt: skip
    layout = (messages.HEADER.format, message_layout.HEADER_BYTES, message_layout.ALIGN_BYTES,
              message_layout.FIRST_PIECE_BYTES, message_layout.PIECE_BYTES, messages.END)  # fmt: skip
    assert (software.PROTOCOL, layout) == (7, ("<16sQII8I", 64, 64, 64 << 10, 1 << 20, 1))


@pytest.mark.slow
def test_ranks_of_two_protocols(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path, timeout_s=4.0).path
    port = free_port()
    first = Running([plan, "--rank", 0, "--master", f"127.0.0.1:{port}"])
    words = [str(plan), "--rank", "1", "--master", f"127.0.0.1:{port}"]
    code = (f"import sys; sys.argv[1:] = {words!r}\n"
            "from edgelaunch.common import software; software.PROTOCOL = 99\n"
            "from edgelaunch.commands.launch_command import main; sys.exit(main())")  # fmt: skip
    second = Running(["-c", code], program=[sys.executable])
    ended = wait_all([first, second])
    ended[1].expect_error("rank 1 (host-1) has edgecompile", "(protocol 99)", "install the same version")
    ended[0].expect_error("rank 1 (host-1) did not join within 4 s", "(protocol 99)", "install the same version")
    assert "rank 0 (host-0): rejected: rank 1 (host-1) has edgecompile" in ended[0].err
    assert "rank 0 (host-0): waiting for rank 1 (host-1) to join (3 of 4 s)" in ended[0].err


def findings(written: Written, rank: int, port: int) -> dict[str, Finding]:
    endpoint = Endpoint(address="127.0.0.1", port=port)
    return {item.check: item for item in examine(written.plan, written.path.parent, (rank,), endpoint)}


def test_doctor_shows_versions(two_stages: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Software.own()
    assert findings(two_stages, 0, free_port())["edgecompile"].found == f"{own.edgecompile}, protocol {own.protocol}"
    with Meeting(two_stages.plan, SECRET) as meeting:
        port = meeting.endpoint.port
        same = findings(two_stages, 1, port)["versions"]
        assert (same.verdict, same.found) == (OK, f"rank 0 (host-0) has {own.describe()}")
        monkeypatch.setattr(Software, "own", staticmethod(lambda: dataclasses.replace(own, torch="2.6.0")))
        unlike = findings(two_stages, 1, port)["versions"]
        assert (unlike.verdict, unlike.found) == (NOTE, f"rank 0 (host-0) has torch {own.torch}, this rank torch 2.6.0")
        monkeypatch.setattr(Software, "own", staticmethod(lambda: dataclasses.replace(own, protocol=1)))
        assert findings(two_stages, 1, port)["versions"].verdict == FAILS


# --- while they wait --------------------------------------------------------------------------------------------------


def test_a_wait_is_told_seldom_and_with_its_length() -> None:
    said: list[str] = []
    wait = Waiting(said.append)
    for second in range(200):
        wait.tell("rank 2 (pi)", 300, now=1000.0 + second)
    assert said == [f"waiting for rank 2 (pi) ({second} of 300 s)" for second in (3, 10, 20, 30, 60, 120, 180)]
    wait.over()
    wait.tell("rank 1 (pi)", now=2000.0)
    wait.tell("rank 1 (pi)", now=2004.4)
    assert said[-1] == "waiting for rank 1 (pi) (4 s)"


def test_a_rank_says_where_it_looks_for_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_S", (0.1, 0.2))
    said: list[str] = []
    port = free_port()
    with pytest.raises(UserError, match=f"rank 0 did not answer at 127.0.0.1:{port}"):
        Board(Endpoint(address="127.0.0.1", port=port), serve=False, timeout_s=0.5, waiting=Waiting(said.append))
    assert said[0] == f"waiting for rank 0 at 127.0.0.1:{port} (0 of 0.5 s)"


def test_who_listens_and_says_nothing_is_no_rank_0(two_stages: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = Endpoint(address="127.0.0.1", port=silent.getsockname()[1])
        with pytest.raises(UserError, match="is not an edgelaunch rank 0: give --master"):
            Board(endpoint, serve=False, timeout_s=0.3)
        monkeypatch.setattr(check_joining, "REACH_S", 0.3)
        found = findings(two_stages, 1, endpoint.port)["versions"]
        assert (found.verdict, found.fix) == (FAILS, "give --master ADDRESS:PORT")


@contextlib.contextmanager
def ended(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.runner.abandon()


@pytest.mark.slow
def test_a_rank_says_whom_rank_0_waits_for(three_stages: Written) -> None:
    port, results, said = free_port(), Results(), [[], []]
    runs = [start(three_stages, port, rank, np.zeros((0, 4)), results, said[rank].append) for rank in range(2)]
    with ended(runs[0]), ended(runs[1]):
        deadline = time.monotonic() + 20
        while not all(any("rank 2 (host-2) to join" in line for line in lines) for lines in said):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
    waits = [line for line in said[0] if "waiting" in line]
    assert waits[0].startswith("waiting for rank 2 (host-2) to join (3 of")
