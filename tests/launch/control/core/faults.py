"""Faults that a simulated cluster may meet, each a function of the cluster; and a random run of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from simulated import Cluster, Node, rules_of

from edgelaunch.control.core.leader import BACK_OFF_S, GRACE_S, MOST_WAIT_S, PARTING_S
from edgelaunch.control.core.membership import Leave, Suspicion

__all__ = ["FAULTS", "bound_s", "calm", "random_run"]


def some(cluster: Cluster, *, leader: bool = False) -> Node | None:
    nodes = [node for node in cluster.nodes if node.alive and (leader or node.rank)]
    return cluster.random.choice(nodes) if nodes else None


def kill(cluster: Cluster) -> None:
    node = some(cluster)
    if node is not None:
        cluster.end(node)


def terminate(cluster: Cluster) -> None:
    """SIGTERM: the rank leaves, and says so."""
    node = some(cluster)
    if node is not None and not node.stopped:
        cluster._append(node, Leave(rank=node.rank, incarnation=node.state.incarnation, signal="SIGTERM"))
        cluster.end(node)


def stop(cluster: Cluster) -> None:
    """SIGSTOP, and SIGCONT after a while that may be shorter or longer than the time of detection."""
    node = some(cluster, leader=True)
    if node is None or node.stopped:
        return
    node.stopped = True
    away_s = cluster.rules.detect_s * cluster.random.choice((0.2, 0.8, 1.5, 3.0))
    if node.rank == 0:
        trouble(cluster, away_s)
    cluster.at(away_s, resume, cluster, node)


def resume(cluster: Cluster, node: Node) -> None:
    if node.stopped and node.alive:
        node.stopped = False
        cluster._schedule(node, 0.0)


def trouble(cluster: Cluster, away_s: float) -> None:
    """Rank 0 may seem to be gone."""
    cluster.leader_trouble = max(cluster.leader_trouble, cluster.now + away_s + 2 * cluster.rules.detect_s)


def cut(cluster: Cluster) -> None:
    ranks = cluster.random.sample(range(cluster.rules.num_ranks), 2)
    cluster.cut.setdefault(frozenset(ranks), cluster.now)


def heal(cluster: Cluster) -> None:
    if cluster.cut:
        pair = cluster.random.choice(sorted(cluster.cut, key=sorted))
        del cluster.cut[pair]
        if 0 in pair:
            trouble(cluster, 0.0)


def cut_and_heal(cluster: Cluster) -> None:
    cut(cluster)
    away_s = cluster.rules.detect_s * cluster.random.choice((0.3, 1.0, 2.5))
    cluster.at(away_s, heal, cluster)


def connection_breaks(cluster: Cluster) -> None:
    """Of an epoch, as one of its ends sees it, while both ranks are there."""
    node = some(cluster, leader=True)
    if node is not None and node.epoch:
        lost = cluster.random.choice([-1, *(rank for rank in range(cluster.rules.num_ranks) if rank != node.rank)])
        cluster._broken(node, node.epoch, lost)


def drop_news(cluster: Cluster) -> None:
    """What a rank says next never comes: the place that was given out for it stays empty."""
    node = some(cluster)
    if node is not None:
        node.loses_next = True


def drop_unread(cluster: Cluster) -> None:
    """All that is not read yet never comes."""
    for place in range(cluster.num_read, len(cluster.news)):
        cluster.news[place] = None


def double_news(cluster: Cluster) -> None:
    """Something that was said, perhaps long ago, is said again."""
    said = [item for item in cluster.news if item is not None]
    if said:
        cluster.news.append(cluster.random.choice(said))


def reorder_news(cluster: Cluster) -> None:
    unread = list(range(cluster.num_read, len(cluster.news)))
    if len(unread) > 1:
        first, second = cluster.random.sample(unread, 2)
        cluster.news[first], cluster.news[second] = cluster.news[second], cluster.news[first]
    else:
        double_news(cluster)


def delay(cluster: Cluster) -> None:
    """A rank's writes come late for a while."""
    node = some(cluster)
    if node is not None:
        node.lagging_s = cluster.rules.detect_s * cluster.random.choice((0.1, 0.4, 1.2))
        cluster.at(cluster.rules.detect_s, no_delay, node)


def no_delay(node: Node) -> None:
    node.lagging_s = 0.0


def stale_announcement(cluster: Cluster) -> None:
    """An earlier announcement is written back over the latest."""
    if len(cluster.announced) > 1:
        cluster.keys["announcement"] = cluster.random.choice(cluster.announced[:-1])


def hidden_announcement(cluster: Cluster) -> None:
    """The next one is overwritten by the one before it, before anybody has read it."""
    cluster.hides_next_announcement = True


def stale_beat(cluster: Cluster) -> None:
    """A heartbeat is written back, or lies about an epoch that is to come."""
    node = some(cluster)
    if node is not None:
        key = f"beat/{node.state.incarnation}"
        beat: Any = cluster.keys.get(key)
        if beat is not None:
            cluster.keys[key] = replace(beat, count=max(0, beat.count - 3), left=max(0, beat.left - 1))


def stale_suspicion(cluster: Cluster) -> None:
    """Of an epoch that is over."""
    if cluster.announced:
        number = max(0, cluster.announced[-1].number - cluster.random.randint(1, 3))
        rank = cluster.random.randrange(cluster.rules.num_ranks)
        cluster.news.append(Suspicion(rank=rank, number=number, lost=cluster.random.randrange(3), reason="old"))


def clock_jumps(cluster: Cluster) -> None:
    node = some(cluster, leader=True)
    if node is not None:
        jump_s = cluster.rules.detect_s * cluster.random.choice((0.4, 1.1, 5.0))
        node.offset += jump_s
        if node.rank == 0:
            trouble(cluster, 0.0)


def twin(cluster: Cluster) -> None:
    """A rank is started a second time beside itself."""
    rank = cluster.random.randrange(1, cluster.rules.num_ranks)
    if len(cluster.holders(rank)) == 1:
        cluster.twins += 1
        cluster._started(rank)


def rejoin_late(cluster: Cluster) -> None:
    """A rank is killed, and nobody starts it again for a while."""
    node = some(cluster)
    if node is not None:
        before, cluster.restarts = cluster.restarts, False
        cluster.end(node)
        cluster.restarts = before
        cluster.at(cluster.rules.detect_s * cluster.random.choice((0.5, 2.0, 4.0)), cluster._restart, node.rank)


FAULTS: Sequence[Callable[[Cluster], None]] = (
    kill, terminate, stop, stop, cut_and_heal, cut_and_heal, cut, heal, connection_breaks, drop_news, drop_unread,
    double_news, reorder_news, delay, stale_announcement, hidden_announcement, stale_beat, stale_suspicion,
    clock_jumps, twin, rejoin_late,
)  # fmt: skip


AT_THE_END = (hidden_announcement, drop_unread, double_news, stale_beat, twin, reorder_news)
"""While ranks end: those that end no process."""


def calm(cluster: Cluster) -> None:
    """No more faults: links carry, processes run, and each rank has one."""
    cluster.cut.clear()
    cluster.hides_next_announcement = False
    for node in list(cluster.nodes):
        resume(cluster, node)
        node.lagging_s, node.loses_next = 0.0, False
    for rank in range(1, cluster.rules.num_ranks):
        cluster._restart(rank)
    trouble(cluster, cluster.rules.detect_s)
    cluster.restarts = True


def bound_s(cluster: Cluster) -> float:
    """From the last fault to the next result, at most.

    A silent process is found after the time of detection; an empty place in the news holds up the rest as long, and a
    message that was lost there is said again as long after; then come the grace for those that leave, the longest wait
    before another attempt, and the time after which a rank that comes and goes is gone back to. A process that ended
    before rank 0 knew that it had its shard is given the time of `timeout`, unless its successor sees that it is gone.
    """
    rules = cluster.rules
    loading_s = 0.0 if cluster.same_machine else rules.timeout_s
    return 4 * rules.detect_s + GRACE_S + MOST_WAIT_S + BACK_OFF_S + loading_s


def random_run(seed: int, num_faults: int = 20, trace: Callable[[str], None] | None = None) -> Cluster:
    """A run from its seed: how many ranks, with or without spare routes, which faults when."""
    num_ranks = 2 + seed % 3
    cluster = Cluster(seed, rules_of(num_ranks, spares=seed % 2 == 0), trace=trace)
    random = cluster.random
    # half of the runs have four kinds of faults only, and so meet each of them, and its pairs, more often
    kinds = FAULTS if random.random() < 0.5 else random.sample(FAULTS, 4)
    cluster.settle(30.0)
    for _ in range(num_faults):
        if cluster.failure is not None:
            break
        fault = random.choice(kinds)
        if trace is not None:
            trace(f"{cluster.now:7.2f} -- {fault.__name__}")
        cluster.faults_since_result += 1
        fault(cluster)
        cluster.run(random.choice((0.0, 0.05, 0.3, 1.0, 2.5)))
    if cluster.failure is not None:
        return cluster
    calm(cluster)
    cluster.settled_s = cluster.settle(bound_s(cluster))
    begin = cluster.now
    while cluster.failure is None and cluster.announced[-1].without is not None:
        within_s = bound_s(cluster) + BACK_OFF_S * num_faults
        cluster.check(
            cluster.now - begin < within_s,
            f"all ranks are there, and the plan itself is not run again in {within_s:.1f} s",
        )
        cluster.run(0.5)
    if cluster.failure is None:
        cluster.draining = True
        if random.random() < 0.7:  # faults at the end too, of those that end no process
            for fault in random.sample(AT_THE_END, 2):
                fault(cluster)
        begin = cluster.now
        while not cluster.finished and cluster.failure is None:
            within_s = bound_s(cluster) + PARTING_S
            cluster.check(
                cluster.now - begin < within_s, f"the run did not end within {within_s:.1f} s of its last item"
            )
            cluster.run(0.5)
    return cluster
