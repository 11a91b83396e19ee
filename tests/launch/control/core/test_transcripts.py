"""Golden transcripts: what each rank hears and what it does, for one case each. Change one only if you know why.

`pytest tests/launch/control/core/test_transcripts.py --rewrite-transcripts` writes them again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pytest
from faults import bound_s, calm
from simulated import Cluster, Node, rules_of

from edgelaunch.control.core.leader_events import Announce
from edgelaunch.control.core.membership import Leave

FOLDER = Path(__file__).parent / "transcripts"
ALL_THERE_S = 12.0


def node(cluster: Cluster, rank: int) -> Node:
    return cluster.holders(rank)[0]


def nothing(cluster: Cluster) -> None:
    """All goes well."""


def killed(cluster: Cluster) -> None:
    cluster.end(node(cluster, 1))


def told_to_stop(cluster: Cluster) -> None:
    leaver = node(cluster, 1)
    leave = Leave(rank=1, incarnation=leaver.state.incarnation, signal="SIGTERM")
    cluster._append(leaver, leave)
    cluster.end(leaver)


def stopped(rank: int, seconds: float) -> Callable[[Cluster], None]:
    def stop(cluster: Cluster) -> None:
        stopped_node = node(cluster, rank)
        stopped_node.stopped = True
        faults.trouble(cluster, seconds if rank == 0 else 0.0)
        cluster.at(seconds, faults.resume, cluster, stopped_node)

    return stop


def cut(first: int, second: int, seconds: float) -> Callable[[Cluster], None]:
    def begin(cluster: Cluster) -> None:
        cluster.cut[frozenset((first, second))] = cluster.now
        faults.trouble(cluster, seconds if 0 in (first, second) else 0.0)
        cluster.at(seconds, cluster.cut.clear)

    return begin


def connection_closed(cluster: Cluster) -> None:
    broken = node(cluster, 1)
    cluster._broken(broken, broken.epoch, 2)


def complaint_lost(cluster: Cluster) -> None:
    node(cluster, 1).loses_next = True
    connection_closed(cluster)


def announcement_lost(cluster: Cluster) -> None:
    cluster.hides_next_announcement = True
    connection_closed(cluster)


def started_twice(cluster: Cluster) -> None:
    cluster.twins += 1
    cluster._started(1)


def asked_again(cluster: Cluster) -> None:
    """Somebody writes back what the rank said when it joined."""
    cluster.end(node(cluster, 1))
    cluster.news.append(cluster.news[0])


def old_announcement(cluster: Cluster) -> None:
    connection_closed(cluster)
    cluster.run(2.0)
    cluster.keys["announcement"] = cluster.announced[0]


def clock_jumps(cluster: Cluster) -> None:
    node(cluster, 1).offset += 30.0


def comes_and_goes(cluster: Cluster) -> None:
    for _ in range(3):
        told_to_stop(cluster)
        cluster.run(1.5)


def two_at_once(cluster: Cluster) -> None:
    cluster.end(node(cluster, 1))
    cluster.end(node(cluster, 2))


def lost_at_the_end(cluster: Cluster) -> None:
    cluster.draining = True
    cluster.restarts = False
    cluster.end(node(cluster, 1))


def stays_away(cluster: Cluster) -> None:
    cluster.restarts = False
    cluster.end(node(cluster, 1))


def stays_cut(cluster: Cluster) -> None:
    cluster.cut[frozenset((1, 2))] = cluster.now


CASES: dict[str, tuple[bool, float, Callable[[Cluster], None]]] = {
    "all-goes-well": (False, 500.0, nothing),
    "killed": (False, 500.0, killed),
    "killed-with-spare-routes": (True, 500.0, killed),
    "killed-two-at-once": (False, 500.0, two_at_once),
    "killed-and-stays-away": (False, 3.0, stays_away),
    "killed-at-the-end": (True, 500.0, lost_at_the_end),
    "told-to-stop": (False, 500.0, told_to_stop),
    "told-to-stop-again-and-again": (True, 500.0, comes_and_goes),
    "stopped-briefly": (False, 500.0, stopped(1, 1.0)),
    "stopped-for-long": (False, 500.0, stopped(1, 5.0)),
    "rank-0-stopped-briefly": (False, 500.0, stopped(0, 1.5)),
    "link-cut-and-healed": (False, 500.0, cut(1, 2, 4.0)),
    "link-cut-with-spare-routes": (True, 500.0, cut(1, 2, 4.0)),
    "link-cut-for-ever": (False, 3.0, stays_cut),
    "way-to-rank-0-cut": (False, 500.0, cut(0, 1, 4.0)),
    "connection-closed": (False, 500.0, connection_closed),
    "complaint-lost": (False, 500.0, complaint_lost),
    "announcement-lost": (False, 500.0, announcement_lost),
    "old-announcement-written-back": (False, 500.0, old_announcement),
    "request-to-join-written-back": (False, 500.0, asked_again),
    "started-twice": (False, 500.0, started_twice),
    "clock-jumps": (False, 500.0, clock_jumps),
}


def short(line: str) -> str:
    """A trace line without what a reader does not need: clocks' readings and names of fields that say themselves."""
    line = re.sub(r"\bat=[\d.]+(, )?", "", line)
    line = re.sub(r"Process\(machine='board', number=(\d+), started='1'\)", r"process \1", line)
    line = re.sub(r", load=Load\([^)]*\)|, sha256='plan'|, trace=''", "", line)
    line = re.sub(r"<(\w+)\.(\w+): '[^']*'>", r"\2", line)
    line = re.sub(r"(silent_s|after_s|pause_s)=(\d+\.\d)\d*", r"\1=\2", line)
    line = re.sub(r"(event|answer|hello|leave|suspicion|announcement|message|loss|beat|cause)=", "", line)
    return line.replace("frozenset(", "(").replace("RunEvent", "")


def transcript(name: str) -> str:
    spares, rejoin_s, cause = CASES[name]
    lines: list[str] = []

    def trace(line: str) -> None:
        if not line.endswith(f"-> {Announce()}") and " <- StoodStill" not in line:
            lines.append(short(line))

    cluster = Cluster(1, rules_of(3, spares, rejoin_s=rejoin_s), trace=trace)
    cluster.same_machine = True
    cluster.settle(30.0)
    lines.append(f"{cluster.now:7.2f} -- {cluster.num_results} results, then: {name.replace('-', ' ')}")
    cluster.faults_since_result += 1
    cause(cluster)
    cluster.run(ALL_THERE_S)
    if cluster.failure is None and not cluster.finished:
        calm(cluster)
        cluster.settle(bound_s(cluster))
        lines.append(f"{cluster.now:7.2f} -- results come; the stream ends")
        cluster.draining = True
        cluster.run(20.0)
        assert cluster.finished
    lines.append(f"{cluster.now:7.2f} -- {'ended well' if cluster.finished else 'ended badly'}")
    return "\n".join(without_repeats(lines)) + "\n"


def without_repeats(lines: list[str]) -> list[str]:
    """A tick that only repeats an announcement says nothing."""
    kept = []
    for index, line in enumerate(lines):
        following = lines[index + 1] if index + 1 < len(lines) else ""
        if " <- Tick(" in line and " rank 0 -> " not in following:
            continue
        kept.append(line)
    return kept


@pytest.mark.parametrize("name", CASES)
def test_transcript(name: str, request: Any) -> None:
    path, text = FOLDER / f"{name}.txt", transcript(name)
    if request.config.getoption("--rewrite-transcripts"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_each_transcript_has_its_case() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(CASES)
