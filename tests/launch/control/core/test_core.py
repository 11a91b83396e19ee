"""The core itself: pure functions that import nothing of what they decide about."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from scenarios import hung_leader, long_load
from simulated import Cluster, rules_of

import edgelaunch.control.core
from edgelaunch.common.failures import Failure, FailureKind
from edgelaunch.common.reports import KillRequest, read_report
from edgelaunch.control.core import follower, leader
from edgelaunch.control.core.follower_events import HolderGone, LinkBroke, OwnTick, Say
from edgelaunch.control.core.leader_events import Announce, HelloCame, StreamEnded, Tick
from edgelaunch.control.core.leader_state import LeaderState, Phase
from edgelaunch.control.core.membership import RUN, Announcement, Hello, Leave, Process, Suspicion, Verdict
from edgelaunch.control.core.roster import MOST_SPENT, Roster
from edgelaunch.store.list_reader import ListReader

OPEN = ("__future__", "collections.abc", "dataclasses", "enum", "json", "typing", "edgecompile.contract.plan",
        "edgelaunch.common.detection", "edgelaunch.common.plan_parts", "edgelaunch.control.core")  # fmt: skip


def hello(incarnation: str, rank: int = 1) -> Hello:
    return Hello(rank=rank, incarnation=incarnation, sha256="plan", process=Process("board", 7, "1"))


def test_the_core_imports_no_thread_store_torch_clock_or_randomness() -> None:
    for path in Path(edgelaunch.control.core.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name is not None
                assert any(name == allowed or name.startswith(f"{allowed}.") for allowed in OPEN), (path, name)


def test_a_step_is_a_function_of_state_and_event() -> None:
    state = LeaderState.of(rules_of(3, spares=True), 0.0)
    first, actions = leader.step(state, HelloCame(1.0, hello("a")))
    assert leader.step(state, HelloCame(1.0, hello("a"))) == (first, actions)
    assert state == LeaderState.of(rules_of(3, spares=True), 0.0)
    assert first != state
    assert hash(first) == hash(leader.step(state, HelloCame(1.0, hello("a")))[0])


def test_a_member_that_is_heard_again_at_the_end_does_not_come_too_late() -> None:
    roster = Roster.of(rules_of(2, spares=False)).take_hello(hello("a"), 0.0).close()
    assert roster.take_hello(hello("a"), 1.0) is roster
    assert [answer.verdict for answer in roster.take_hello(hello("b"), 1.0).answers] == [Verdict.LATE]


def test_processes_that_had_a_rank_are_not_remembered_for_ever() -> None:
    roster = Roster.of(rules_of(2, spares=False)).close()
    for number in range(MOST_SPENT + 50):
        roster = roster.take_hello(hello(f"i{number}"), 0.0)
    assert len(roster.spent) == MOST_SPENT


def test_what_may_have_been_lost_is_said_again() -> None:
    rules = rules_of(2, spares=False)
    state = follower.FollowerState.of(rules, 1, "a", Process(), 0.0)
    assert follower.step(state, OwnTick(rules.detect_s / 2))[1] == ()
    (again,) = follower.step(state, OwnTick(rules.detect_s))[1]
    assert isinstance(again, Say)
    assert isinstance(again.message, Hello)
    state, _ = follower.step(state, HolderGone("b"))
    said = [action.message for action in follower.step(state, OwnTick(rules.detect_s))[1] if isinstance(action, Say)]
    assert said == [again.message, Leave(rank=1, incarnation="b")]
    announcement = Announcement(number=1, phase=RUN, without=None, members={0: "", 1: "a"}, first=0)
    state = follower.FollowerState.of(rules, 1, "a", Process(), 0.0)
    inside = type(state)(**{**{name: getattr(state, name) for name in state.__slots__}, "heard": announcement,
                            "acted": announcement, "number": 1, "inside": True})  # fmt: skip
    inside, _ = follower.step(inside, LinkBroke(0.0, 1, 0, "closed"))
    (complaint,) = follower.step(inside, OwnTick(rules.beat_s))[1]
    assert isinstance(complaint, Say)
    assert complaint.message == Suspicion(rank=1, number=1, lost=0, reason="closed")
    cluster = Cluster(3, rules)
    cluster.settle(30.0)
    leading = cluster.leader.state
    assert leader.step(leading, Tick(leading.said + rules.beat_s, cluster.num_results))[1] == (Announce(),)


def test_a_run_that_is_over_decides_no_more() -> None:
    cluster = Cluster(3, rules_of(2, spares=False))
    cluster.settle(30.0)
    cluster.draining = True
    cluster.run(20.0)
    assert cluster.finished
    state = cluster.leader.state
    assert state.phase is Phase.OVER
    assert leader.step(state, Tick(state.said + 1000.0, 0)) == (state, ())
    assert leader.step(state, StreamEnded(state.said + 1000.0)) == (state, ())


def test_ranks_end_where_rank_0_hangs_and_its_store_does_not() -> None:
    hung_leader()


def test_a_rank_that_loads_has_time() -> None:
    long_load()


def test_reports_to_a_parent_read_back() -> None:
    for report in (KillRequest(rank=2, process=77), Failure(rank=1, kind=FailureKind.LOST, message="is gone")):
        assert read_report(report.to_json()) == report
    told = read_report(Failure(rank=1, kind=FailureKind.LOST, message="is gone").to_json())
    assert isinstance(told, Failure)
    assert told.kind is FailureKind.LOST  # an equal string is another object
    assert json.loads(KillRequest(rank=2, process=77).to_json()) == {"kill": {"rank": 2, "process": 77}}


class Lists:
    """A list in the store, some of whose texts never came."""

    def __init__(self, *texts: str | None) -> None:
        self.texts = list(texts)

    def num_appended(self, name: str) -> int:
        return len(self.texts)

    def take(self, name: str, number: int) -> str | None:
        return self.texts[number - 1]


def test_texts_that_never_come_are_waited_for_at_the_same_time() -> None:
    lists = Lists("a", None, None, None, "b")
    reader = ListReader(lists, "news", 5.0)
    assert list(reader.new(0.0)) == ["a"]
    lists.texts += [None, "c"]
    assert list(reader.new(4.0)) == []
    assert list(reader.new(5.0)) == ["", "", "", "b"]
    assert list(reader.new(8.9)) == []
    assert list(reader.new(9.0)) == ["", "c"]
    assert list(reader.new(20.0)) == []


def test_a_stranger_who_announces_many_texts_holds_nobody_up_for_long() -> None:
    reader = ListReader(Lists(*[None] * 2500), "news", 5.0)
    assert list(reader.new(0.0)) == []
    assert [len(list(reader.new(5.0))) for _ in range(4)] == [1000, 1000, 500, 0]


def test_what_was_filled_late_is_read() -> None:
    lists = Lists(None, "b")
    reader = ListReader(lists, "news", 5.0)
    assert list(reader.new(0.0)) == []
    lists.texts[0] = "a"
    assert list(reader.new(1.0)) == ["a", "b"]


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_verdict_is_its_own_text(verdict: Verdict) -> None:
    assert Verdict(verdict.value) is verdict
