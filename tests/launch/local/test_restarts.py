"""Which ranks of this machine are started again."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from launch_plans import Written

from edgecompile.contract.plan import Plan
from edgelaunch.common.failures import Failure, FailureKind
from edgelaunch.common.identity import rank_environment
from edgelaunch.local.restarts import Restarts
from edgelaunch.process.stopping import ToldToStop


@pytest.fixture
def plan(two_stages: Written) -> Plan:
    return replace(two_stages.plan, runtime=replace(two_stages.plan.runtime, rejoin_s=10.0))


def test_only_ranks_that_were_killed_or_lost_are_started_again(plan: Plan) -> None:
    restarts = Restarts(plan, 2)
    lost = Failure(rank=0, kind=FailureKind.LOST, message="")
    own = Failure(rank=1, kind=FailureKind.USER, message="")
    assert restarts.reason(1, -11, None) is None
    assert restarts.reason(1, 2, own) is None
    told = Failure.stopped(1, ToldToStop(signal.SIGTERM))
    assert Restarts(plan, 1).reason(1, 143, told) == "was told to stop (SIGTERM), and left"
    assert restarts.reason(0, -9, None) is None
    assert restarts.reason(1, 2, lost) == "lost contact with rank 0"
    assert restarts.reason(1, -9, None) == "was killed by SIGKILL"
    assert restarts.reason(1, -9, None) is None
    ends = replace(plan, runtime=replace(plan.runtime, rejoin_s=0.0))
    assert Restarts(ends, 2).reason(1, -9, None) is None


def test_a_restarter_of_one_rank_says_nothing_of_ranks(plan: Plan) -> None:
    environ = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "here"}
    assert rank_environment(plan, environ) == {}
    assert rank_environment(plan, {**environ, "WORLD_SIZE": "2"})["RANK"] == "0"
