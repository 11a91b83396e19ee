"""Simulated clusters under random faults: what must hold holds after every step, and results come again."""

from __future__ import annotations

import pytest
from faults import FAULTS, bound_s, calm, random_run
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from simulated import Cluster, Violation, rules_of

NUM_RUNS, CHUNKS = 2000, 8


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_runs(chunk: int) -> None:
    """20 faults each; the seed of one that fails is in its message: `random_run(seed, trace=print)` shows it."""
    for seed in range(chunk, NUM_RUNS, CHUNKS):
        cluster = random_run(seed)
        assert cluster.finished, (seed, cluster.failure)


@pytest.mark.slow
def test_a_few_random_runs() -> None:
    """Of other seeds: so that `make check` has some."""
    for seed in range(NUM_RUNS, NUM_RUNS + 40):
        assert random_run(seed).finished, seed


def test_a_seed_gives_the_same_run_again() -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        random_run(11, trace=trace.append)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 100


def test_faults_do_something() -> None:
    """Each kind of fault, alone and often, ends epochs, or is told apart from what would."""
    ended = {}
    for fault in set(FAULTS):
        cluster = Cluster(7, rules_of(3, spares=True))
        cluster.settle(30.0)
        for _ in range(6):
            fault(cluster)
            cluster.run(5.0)
        calm(cluster)
        cluster.settle(bound_s(cluster))
        ended[fault.__name__] = len({item.number for item in cluster.announced}) - 1
    harmless = {"heal", "twin", "clock_jumps", "drop_news", "drop_unread", "double_news", "reorder_news", "delay",
                "stale_announcement", "hidden_announcement", "stale_beat", "stale_suspicion"}  # fmt: skip
    assert {name for name, count in ended.items() if count == 0} <= harmless
    assert all(ended[name] >= 2 for name in ("kill", "cut_and_heal", "connection_breaks", "rejoin_late")), ended


def test_a_violation_names_its_seed() -> None:
    with pytest.raises(Violation, match=r"seed 5, 0\.00 s: nothing holds"):
        Cluster(5, rules_of(2, spares=False)).check(False, "nothing holds")


class AnyFaults(RuleBasedStateMachine):
    """Hypothesis chooses the faults and the times between them, and makes what fails short."""

    cluster: Cluster

    @initialize(seed=st.integers(0, 999), num_ranks=st.integers(2, 4), spares=st.booleans())
    def begin(self, seed: int, num_ranks: int, spares: bool) -> None:
        self.cluster = Cluster(seed, rules_of(num_ranks, spares))
        self.cluster.settle(30.0)

    @rule(fault=st.sampled_from(FAULTS), seconds=st.floats(0, 3, allow_nan=False))
    @precondition(lambda self: self.cluster.failure is None)
    def meet(self, fault: object, seconds: float) -> None:
        self.cluster.faults_since_result += 1
        fault(self.cluster)  # type: ignore[operator]
        self.cluster.run(seconds)

    @rule()
    @precondition(lambda self: self.cluster.failure is None)
    def rest(self) -> None:
        """The faults stop for now: results come again."""
        calm(self.cluster)
        self.cluster.settle(bound_s(self.cluster))

    def teardown(self) -> None:
        if hasattr(self, "cluster") and self.cluster.failure is None:
            calm(self.cluster)
            self.cluster.settle(bound_s(self.cluster))


@pytest.mark.slow
def test_faults_that_hypothesis_chooses() -> None:
    run_state_machine_as_test(
        AnyFaults,
        settings=settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True, database=None,
                          suppress_health_check=list(HealthCheck)),
    )  # fmt: skip
