"""Courses of a simulated cluster that random faults do not come to."""

from __future__ import annotations

from dataclasses import replace

from faults import bound_s, trouble
from simulated import Cluster, Node, rules_of

from edgelaunch.common.detection import STORE_PATIENCE
from edgelaunch.control.core.run_events import LeaderSilent

__all__ = ["hung_leader", "long_load"]


def hung_leader() -> Cluster:
    """Rank 0's threads hang while its store answers and its links show signs of life: the others end, and say so."""
    cluster = Cluster(3, rules_of(3, spares=False), restarts=False)
    cluster.settle(30.0)
    cluster.leader.hung = True
    trouble(cluster, 1000.0)
    cluster.run((STORE_PATIENCE + 1) * cluster.rules.detect_s)
    assert sorted(rank for rank, _ in cluster.ended) == [1, 2]
    assert all(isinstance(cause, LeaderSilent) for _, cause in cluster.ended)
    return cluster


def _is_known(cluster: Cluster, node: Node) -> bool:
    """Whether it has its rank, and a heartbeat has said that it loads."""
    member = cluster.leader.state.roster.holders[node.rank]
    return (
        member is not None
        and member.incarnation == node.state.incarnation
        and member.beat is not None
        and not member.ready
    )


def long_load() -> Cluster:
    """A rank that loads its shard may be silent for longer than one that has it: as long as runtime.timeout."""
    cluster = Cluster(4, rules_of(3, spares=False))
    cluster.settle(30.0)
    (node,) = cluster.holders(1)
    cluster.end(node)
    while (node := next(iter(cluster.holders(1)), None)) is None or not _is_known(cluster, node):
        cluster.run(0.02)
    cluster.lost.clear()
    node.stopped = True
    node.state = replace(node.state, ready=False)
    cluster.run(cluster.rules.timeout_s / 2)
    assert cluster.rules.timeout_s / 2 > 2 * cluster.rules.detect_s
    assert cluster.lost == []
    node.stopped = False
    cluster._schedule(node, 0.0)
    cluster.settle(bound_s(cluster))
    return cluster
