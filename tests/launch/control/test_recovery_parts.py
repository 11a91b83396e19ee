"""Recovery by its parts: who is there, what rank 0 decides, what is told of links."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from launch_plans import Written, floats, with_contingencies
from recovery_core import LATE, Coordinator, Form, Halt, Roster

from edgecompile.contract.plan import Plan
from edgelaunch.common.failures import Failure, FailureKind
from edgelaunch.common.plan_parts import links_of, links_watched
from edgelaunch.control.core.leader import GRACE_S, MAX_ATTEMPTS, MOST_WAIT_S
from edgelaunch.control.core.membership import (
    DONE,
    HALT,
    RUN,
    Announcement,
    Awaited,
    Beat,
    Hello,
    Holder,
    Leave,
    Process,
    StoreSnapshot,
    Suspicion,
    read_news,
)
from edgelaunch.control.process_checks import has_ended, own_process
from edgelaunch.process.processes import start_time

SHA = "0" * 64


@pytest.fixture
def plan(two_stages: Written) -> Plan:
    return replace(two_stages.plan, runtime=replace(two_stages.plan.runtime, detect_s=4.0, rejoin_s=10.0))


def hello(incarnation: str, rank: int = 1, sha256: str = SHA) -> Hello:
    return Hello(rank=rank, incarnation=incarnation, sha256=sha256, process=Process("board", 7, "1"))


def beat(incarnation: str, count: int, left: int = 0, ready: bool = True, silent: tuple[str, ...] = ()) -> Beat:
    link = f"link-{incarnation}"
    return Beat(incarnation=incarnation, count=count, left=left, ready=ready, link=link, silent=silent)


def test_what_is_told_reads_back() -> None:
    announcement = Announcement(number=3, phase=RUN, without="pi", members={0: "", 2: "ab"}, first=7)
    assert Announcement.from_json(announcement.to_json()) == announcement
    assert Announcement.from_json(announcement.to_json()).phase is RUN
    for awaited in (Awaited(), Awaited(absent=(1, 2), loading=(3,), first=True, most_s=60.0)):
        assert Awaited.from_json(awaited.to_json()) == awaited
    for failure in (Failure(rank=1, kind=kind, message="is gone") for kind in FailureKind):
        assert Failure.from_json(failure.to_json()) == failure
        assert Failure.from_json(failure.to_json()).kind is failure.kind
    for said in (
        beat("ab", 3, 2),
        beat("ab", 3, silent=("x", "y")),
        Beat(incarnation="a", count=1, left=0, ready=True),
    ):
        assert Beat.from_text(said.to_text()) == said
    for news in (
        hello("ab"),
        Suspicion(rank=1, number=2, lost=3, reason="closed"),
        Leave(rank=1, incarnation="ab", signal="SIGTERM"),
        StoreSnapshot(rank=2),
    ):
        assert read_news(news.to_json()) == news
    holder = Holder(incarnation="ab", process=Process("board", 7, "1"))
    assert Holder.from_json(holder.to_json()) == holder


def test_what_was_said_before_is_not_said_again() -> None:
    """Whoever reaches the store can write back what bears this run's seal: only what is newer counts."""
    said = [Announcement(number=number, phase=phase, without=None, members={}, first=0)
            for number, phase in ((1, RUN), (1, HALT), (2, RUN), (2, DONE))]  # fmt: skip
    for index, announcement in enumerate(said):
        assert announcement.is_after(None)
        assert [announcement.is_after(other) for other in said] == [other < index for other in range(len(said))]
    assert beat("a", 2).is_after(beat("a", 1))
    assert not beat("a", 1).is_after(beat("a", 1))
    assert not beat("a", 1).is_after(beat("a", 2))


# --- who is there -------------------------------------------------------------------------------------------------


def test_a_silent_rank_is_lost_and_its_late_beats_do_not_count(plan: Plan) -> None:
    roster = Roster(plan, SHA)
    roster.take_hello(hello("a"), 0.0)
    roster.take_beat(1, beat("a", 1), 1.0)
    roster.look(4.9)
    assert roster.take_losses() == []
    roster.look(5.1)
    (loss,) = roster.take_losses()
    assert (loss.rank, loss.reason, loss.silent_process) == (1, "stopped answering 4.1 s ago", 7)
    roster.take_beat(1, beat("a", 2), 5.2)
    assert roster.states() == {}
    assert roster.verdicts == {"a": ""}
    roster.take_hello(hello("b"), 6.0)
    roster.take_beat(1, beat("a", 3), 6.1)
    assert roster.states()[1].beat is None


def test_a_rank_that_loads_its_shard_may_be_silent_for_longer(plan: Plan) -> None:
    roster = Roster(plan, SHA)
    roster.take_hello(hello("a"), 0.0)
    roster.take_beat(1, beat("a", 1, ready=False), 0.0)
    roster.look(plan.runtime.timeout_s - 1)
    assert 1 in roster.states()


def test_a_twin_is_turned_away_and_a_successor_is_not(plan: Plan) -> None:
    roster = Roster(plan, SHA)
    roster.take_hello(hello("a"), 0.0)
    roster.take_hello(hello("twin"), 1.0)
    for count in (1, 2):
        roster.take_beat(1, beat("a", count), 1.0 + count)
    assert roster.verdicts == {"twin": "rank 1 (host-1) is already running: start each rank once"}
    roster.take_hello(hello("next"), 4.0)
    roster.look(6.9)  # a loaded machine's rank is heard late: it keeps its place for the plan's own time of detection
    assert roster.states()[1].incarnation == "a"
    roster.look(7.1)
    assert roster.states()[1].incarnation == "next"


def test_the_successor_of_a_process_that_is_known_to_have_ended_need_not_wait(plan: Plan) -> None:
    roster = Roster(plan, SHA)
    roster.take_hello(hello("a"), 0.0)
    roster.take_beat(1, beat("a", 1), 0.0)
    roster.take_hello(hello("next"), 0.5)
    assert roster.holders == {"next": Holder(incarnation="a", process=Process("board", 7, "1"))}
    roster.take_leave(Leave(rank=1, incarnation="somebody else"))
    assert roster.states()[1].incarnation == "a"
    roster.take_leave(Leave(rank=1, incarnation="a"))
    assert roster.states()[1].incarnation == "next"
    (loss,) = roster.take_losses()
    assert (loss.reason, loss.silent_process) == ("is gone: its process has ended", None)
    roster.take_hello(hello("a"), 1.0)  # written back by somebody: it does not come again
    assert roster.holders.keys() == {"next"}
    roster.look(1.0)
    assert roster.states()[1].incarnation == "next"


def test_a_process_is_known_to_have_ended_only_where_that_can_be_seen() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    started = start_time(child.pid)
    assert started is not None
    there = replace(own_process(), number=child.pid, started=started)
    assert not has_ended(there)
    assert not has_ended(own_process())
    assert has_ended(replace(there, started="1"))  # its number belongs to another process now
    child.communicate()
    assert has_ended(there)
    for elsewhere in (replace(there, machine="another board"), replace(there, machine="")):
        assert not has_ended(elsewhere)


def test_who_comes_after_the_last_result_is_told_so(plan: Plan) -> None:
    roster = Roster(plan, SHA)
    roster.take_hello(hello("a"), 0.0)
    assert roster.close() == {}
    roster.take_hello(hello("late"), 1.0)
    assert roster.verdicts == {"late": LATE}
    assert roster.states()[1].incarnation == "a"


def test_a_process_with_another_plan_is_turned_away(plan: Plan) -> None:
    roster = Roster(plan, SHA)
    roster.take_hello(hello("a", sha256="1" * 64), 0.0)
    assert "rank 1 (host-1) has another plan than rank 0" in roster.verdicts["a"]
    roster.take_hello(hello("b", rank=9), 0.0)
    assert "the plan has no rank 9" in roster.verdicts["b"]
    assert roster.states() == {}


# --- what rank 0 decides ------------------------------------------------------------------------------------------


class Board:
    """A roster and a coordinator, with a clock of their own."""

    def __init__(self, plan: Plan) -> None:
        self.roster = Roster(plan, SHA)
        self.said: list[str] = []
        self.silent: list[int] = []
        self.turned_away: dict[int, str] = {}
        self.coordinator = Coordinator(
            plan, self.roster, self.said.append, lambda rank, process: self.silent.append(process), self.turned_away
        )
        self.now = self.coordinator._begin
        self.number = 0

    def step(self, seconds: float = 0.0, num_items: int = 0) -> Any:
        self.now += seconds
        action = self.coordinator.step(self.now, num_items)
        if isinstance(action, Form):
            self.number += 1
            self.coordinator.formed(
                Announcement(number=self.number, phase=RUN, without=action.without, members=action.members, first=0)
            )
        return action

    def come(self, incarnation: str, rank: int = 1) -> None:
        self.roster.take_hello(hello(incarnation, rank), self.now)
        self.roster.take_beat(rank, beat(incarnation, 1), self.now)

    def suspect(self) -> None:
        self.roster.suspect(Suspicion(rank=0, number=self.number, lost=1, reason="closed"))


def test_a_broken_connection_and_no_sign_of_life_is_a_loss(plan: Plan) -> None:
    board = Board(plan)
    assert board.step() is None
    board.come("a")
    assert board.step() == Form(None, {0: "", 1: "a"})
    board.suspect()
    assert board.step() == Halt()
    assert board.step(GRACE_S / 2) is None
    assert board.step(GRACE_S, 1204) is None
    assert board.said == ["rank 1 (host-1, units 1-1) is gone: it closed its connection, after item 1,204"]
    assert board.silent == []
    board.come("b")
    assert board.step() == Form(None, {0: "", 1: "b"})
    assert board.said[-1] == "all ranks are present: continuing as planned"


def test_a_broken_connection_of_a_rank_that_is_there_costs_one_epoch(plan: Plan) -> None:
    board = Board(plan)
    board.come("a")
    board.step()
    for count in range(MAX_ATTEMPTS + 1):
        board.suspect()
        assert board.step() == Halt()
        board.roster.take_beat(1, beat("a", 2 + count, left=board.number), board.now)
        action = board.step(MOST_WAIT_S)  # the later, the longer nothing came
        if count < MAX_ATTEMPTS:
            assert action == Form(None, {0: "", 1: "a"})
    assert isinstance(action, Failure)
    assert "no result came in 10 attempts" in action.message


def test_a_rank_that_stays_away_ends_the_run(plan: Plan) -> None:
    board = Board(plan)
    board.come("a")
    board.step()
    board.roster.look(board.now + 5)
    assert board.step(5) == Halt()
    assert board.silent == [7]
    assert board.step() is None
    assert board.step(9) is None
    failure = board.step(2, 3)
    assert failure.kind is FailureKind.LOST
    assert failure.message == (
        "rank 1 (host-1, units 1-1) stopped answering 5.0 s ago, after item 3: it did not come back within 10 s"
    )


def test_missing_ranks_at_the_start(plan: Plan) -> None:
    board = Board(plan)
    assert board.step(plan.runtime.timeout_s - 1) is None
    assert board.coordinator.waits_for() == ("rank 1 (host-1) to join", 20.0)
    assert "rank 1 (host-1) did not join within 20 s: start edgelaunch" in board.step(2).message
    board.turned_away[1] = "rank 1 (host-1) has a different secret"
    assert board.step().message.endswith("did not join within 20 s: rank 1 (host-1) has a different secret")


def test_a_rank_that_is_told_to_stop_is_lost_at_once_and_no_more_than_that(plan: Plan) -> None:
    board = Board(plan)
    board.come("a")
    board.step()
    assert board.coordinator.waits_for() == ("", None)
    board.roster.take_leave(Leave(rank=1, incarnation="a", signal="SIGTERM"))
    assert board.step(0, 8) == Halt()
    assert board.said == ["rank 1 (host-1, units 1-1) was told to stop (SIGTERM), and left, after item 8"]
    assert board.silent == []  # nobody is to end it
    assert board.step() is None
    assert board.coordinator.waits_for() == ("rank 1 (host-1) to come back", 10.0)
    board.roster.take_hello(hello("b"), board.now)
    assert board.step() is None
    assert board.coordinator.waits_for() == ("rank 1 (host-1) to load its shard", None)
    board.roster.take_beat(1, beat("b", 1), board.now)
    assert board.step() == Form(None, {0: "", 1: "b"})
    board.roster.take_leave(Leave(rank=1, incarnation="b", signal="SIGTERM"))
    board.step()
    board.step()
    failure = board.step(11, 8)
    assert failure.message.endswith("(SIGTERM), and left, after item 8: it did not come back within 10 s")


# --- links ------------------------------------------------------------------------------------------------------------


class Linked(Board):
    """Three ranks, of which 1 and 2 say whom they do not hear."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.count = 1
        for rank, incarnation in ((1, "a"), (2, "b")):
            self.come(incarnation, rank)
        assert self.step() == Form(None, {0: "", 1: "a", 2: "b"})

    def hear(self, one: tuple[str, ...] = (), two: tuple[str, ...] = (), *, left: int = 0) -> None:
        """Both ranks' next beats."""
        self.count += 1
        self.roster.take_beat(1, beat("a", self.count, left, silent=one), self.now)
        self.roster.take_beat(2, beat("b", self.count, left, silent=two), self.now)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return floats(tmp_path_factory.mktemp("chain"), 3, rejoin_s=10.0).plan


@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """With a plan for the loss of each rank."""
    return with_contingencies(floats(tmp_path_factory.mktemp("spare"), 3, rejoin_s=10.0)).plan


def test_the_links_of_a_plan_and_those_that_are_watched(three: Plan, spare: Plan) -> None:
    ring = {frozenset(pair) for pair in ((0, 1), (1, 2), (0, 2))}
    assert links_of(three) == ring
    four = replace(three, stages=(*three.stages, replace(three.stages[2], stage=3, rank=3)), hosts=three.hosts * 2)
    assert links_of(four) == {frozenset(pair) for pair in ((0, 1), (1, 2), (2, 3), (0, 3))}
    assert links_watched(four, 1) == {0, 2}
    skip = replace(spare.contingencies[0], lost="host-2", stages=(*four.stages[:2], replace(four.stages[3], stage=2)))
    assert links_watched(replace(four, contingencies=(skip,)), 1) == {0, 2, 3}


@pytest.mark.parametrize("said", [(("link-b",), ()), ((), ("link-a",)), (("link-b",), ("link-a",))])
def test_a_cut_link_ends_the_epoch_and_its_heal_begins_the_next(three: Plan, said: Any) -> None:
    board = Linked(three)
    assert board.step(1.0) is None
    board.hear(*said)
    assert board.step(0.1, 1204) == Halt()
    link = "the link between rank 1 (host-1) and rank 2 (host-2)"
    assert board.said == [f"{link} is cut: no data came through for 2.2 s, after item 1,204"]
    board.hear(*said, left=1)
    assert board.step(0.1, 1204) is None
    board.hear(left=1)
    assert board.step(3.0, 1204) == Form(None, {0: "", 1: "a", 2: "b"})
    assert board.said[1:] == [f"{link} is up again, 3.1 s later", "all ranks are present: continuing as planned"]
    assert board.step(1.0, 1204) is None


def test_a_link_that_stays_cut_ends_the_run_and_is_named(three: Plan) -> None:
    board = Linked(three)
    board.hear(("link-b",))
    assert board.step(0.1) == Halt()
    board.hear(("link-b",), left=1)
    assert board.step(9.0, 3) is None
    failure = board.step(1.1, 3)
    assert (failure.kind, failure.rank) == (FailureKind.LOST, 2)
    assert failure.message == (
        "the link between rank 1 (host-1) and rank 2 (host-2) is cut: no data came through for 2.2 s, after item 3: "
        "it did not heal within 10 s: repair the network between these two"
    )


def test_a_plan_that_does_without_one_end_goes_on_until_the_heal(spare: Plan) -> None:
    board = Linked(spare)
    board.hear(("link-b",), ("link-a",))
    assert board.step(0.1) == Halt()
    board.hear(("link-b",), ("link-a",), left=1)
    assert board.step(0.1, 7) == Form("host-1", {0: "", 1: "a", 2: "b"})
    assert board.step(5.0, 9) is None  # the link is of no use to this plan
    board.hear(left=1)
    assert board.step(0.1, 11) == Halt()
    board.hear(left=2)
    assert board.step(0.1, 11) == Form(None, {0: "", 1: "a", 2: "b"})


def test_a_rank_that_is_gone_is_no_cut_link(three: Plan) -> None:
    board = Linked(three)
    board.now += 2.5
    board.count += 1
    board.roster.take_beat(1, beat("a", board.count, silent=("link-b",)), board.now)
    assert board.step() is None  # rank 2 has not shown itself since its link is silent
    board.roster.take_sign(2, "link-b", board.now, 0.0)
    assert board.step() == Halt()


def test_a_cut_from_rank_0_is_told_from_a_rank_that_is_gone_by_what_a_third_says(three: Plan) -> None:
    for third_hears in (True, False):
        board = Linked(three)
        board.now += 2.4
        board.roster.own_link, board.roster.own_silent = "link-0", ("link-a",)
        for _ in range(2):
            board.count += 1
            silent = () if third_hears else ("link-a",)
            board.roster.take_beat(2, beat("b", board.count, silent=silent), board.now)
            action = board.step(1.0)
        if third_hears:
            assert action == Halt()
            assert board.said[0].startswith("the link between rank 0 (host-0) and rank 1 (host-1) is cut")
        else:
            board.roster.look(board.now)
            assert board.step() == Halt()
            assert board.said == ["rank 1 (host-1, units 1-1) stopped answering 4.4 s ago"]


def test_what_was_said_of_an_earlier_process_does_not_count(three: Plan) -> None:
    board = Linked(three)
    board.hear(("link-before",), ("link-other",))
    assert board.step() is None
    assert board.said == []


def test_a_rank_whose_link_lives_may_be_slow_in_the_store(plan: Plan) -> None:
    roster = Roster(plan, SHA)
    roster.take_hello(hello("a"), 0.0)
    roster.take_beat(1, beat("a", 1), 0.0)
    for second in range(20):
        roster.take_sign(1, "link-a", float(second), 0.0)
        roster.look(second + 0.5)
    assert 1 in roster.states()
    roster.take_sign(1, "link-a", 20.0, 0.0)
    roster.look(20.5)  # five times the time of detection: its way to the store is cut
    assert roster.take_losses()[0].reason == "stopped answering 20.5 s ago"
