"""The summary that a rank tells rank 0."""

from __future__ import annotations

import json

from edgelaunch.common.rank_summary import Durations, LinkSummary, RankSummary, StageSummary
from edgelaunch.transport.counters import StageClock


def test_a_summary_reads_back() -> None:
    clock = StageClock()
    for begin in range(0, 50, 10):
        clock.add(begin, begin + 1, begin + 4, begin + 5, begin + 9)
    sent = LinkSummary(busy=clock.pack.summary(), num_bytes=512)
    received = LinkSummary(busy=clock.compute.summary(), num_bytes=1024, share_timed=0.75)
    summary = RankSummary(machine="board", stage=clock.summary(), send={2: sent}, receive={0: received, 1: sent})
    assert RankSummary.from_json(summary.to_json()) == summary
    assert summary.stage.trace[0] == (0, 1, 4, 5, 9)
    assert json.loads(summary.to_json())["receive"]["0"]["share_timed"] == 0.75
    assert RankSummary.from_json(RankSummary().to_json()) == RankSummary()


def test_the_parts_of_a_stage_have_shares_of_its_time() -> None:
    stage = StageSummary(
        wait_input=Durations(mean_s=0.5), compute=Durations(mean_s=1.0), wait_output=Durations(mean_s=0.25),
        pack=Durations(mean_s=0.25),
    )  # fmt: skip
    assert stage.share(stage.compute) == 0.5
    assert stage.share(stage.pack) == 0.125
    assert StageSummary().share(Durations()) == 0.0
