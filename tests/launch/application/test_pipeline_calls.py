"""Futures, map, async iteration, timeouts, statistics and events of a Pipeline, in programs of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import launch_plans
import pytest
import served
from launch_harness import Running
from launch_plans import Written

pytestmark = pytest.mark.slow

START = """
import asyncio, itertools, os, signal, sys, threading, time
import concurrent.futures as cf
import numpy as np, edgelaunch
x = np.random.default_rng(0).random((5, 4), dtype=np.float32)
def expect(kind, text, call):
    try:
        call()
    except kind as error:
        assert text in str(error), error
    else:
        sys.exit('no error: ' + text)
"""


def good(code: str) -> None:
    ended = Running(["-c", START + code + "print('good')\n"], program=[sys.executable]).wait().expect(0)
    assert ended.out == "good\n"


def test_futures_and_map(two_stages: Written) -> None:
    good(f"""
with edgelaunch.Pipeline({str(two_stages.path)!r}, local=True) as p:
    futures = [p.submit(row) for row in x]
    for row, future in zip(x, futures):
        assert np.array_equal(future.result(30), 4 * row)
    expect(edgelaunch.UserError, 'item: x is float32 (5, 4), the model takes float32 (4,)', lambda: p.submit(x))
    assert np.array_equal(np.stack(list(p.map(x))), 4 * x)
    never = threading.Event()
    def camera():
        yield x[0]
        never.wait(60)
    results = p.map(camera(), timeout=0.3)
    assert np.array_equal(next(results), 4 * x[0])
    expect(TimeoutError, 'no result within 0.3 s', lambda: next(results))
    expect(TimeoutError, 'no result within 0.2 s', lambda: list(p.stream(camera(), timeout=0.2)))
    never.set()
    forgotten = p.map(x[0] for _ in range(10 ** 9))
    assert len(p._running.streams._open) >= 1
    del forgotten
    while p._running.streams._open:
        time.sleep(0.01)
    assert np.array_equal(p(x, timeout=30), 4 * x)
    waiting = [p.submit(x[0]) for _ in range(2000)]
    late = p.submit(x[1])
    assert late.cancel() and late.cancelled()
    done, undone = cf.wait([late], timeout=30)
    assert done == {{late}}
    cf.wait(waiting)
    assert p.statistics.num_waiting == 0
after = p.submit
expect(RuntimeError, 'closed', lambda: after(x[0]))
""")


def test_async_iteration(two_stages: Written) -> None:
    good(f"""
async def main(p):
    assert [y async for y in p.astream([])] == []
    assert np.array_equal(np.stack([y async for y in p.astream(list(x))]), 4 * x)
    frame, seen = asyncio.Event(), []
    async def camera():
        yield x[0]
        await frame.wait()
        yield x[1]
    async for y in p.astream(camera()):
        seen.append(y)
        frame.set()
    assert np.array_equal(np.stack(seen), 4 * x[:2])
    endless = p.astream(itertools.repeat(x[0]))
    assert np.array_equal(await anext(endless), 4 * x[0])
    await endless.aclose()
    both = await asyncio.gather(*(drain(p, number) for number in range(6)))
    assert all(both)
async def drain(p, number):
    rows = x + number
    return np.allclose([y async for y in p.astream(iter(rows))], 4 * rows)
async def wrong(p):
    try:
        async for y in p.astream([x[0], 'abc']):
            assert np.array_equal(y, 4 * x[0])
    except edgelaunch.UserError as error:
        assert 'item 1' in str(error), error
        return
    sys.exit('no error')
with edgelaunch.Pipeline({str(two_stages.path)!r}, local=True) as p:
    asyncio.run(wrong(p))
    asyncio.run(asyncio.wait_for(main(p), 60))
""")


def test_a_timeout_that_is_no_number_leaves_nothing_open(two_stages: Written) -> None:
    good(f"""
with edgelaunch.Pipeline({str(two_stages.path)!r}, local=True) as p:
    for wrong in ('1', float('nan')):
        for call in (lambda: p(x, timeout=wrong), lambda: list(p.map(x, timeout=wrong))):
            expect(edgelaunch.UserError, 'for timeout: expected a number of seconds', call)
    assert np.array_equal(p(x, timeout=np.float64(30)), 4 * x)
""")


def test_a_lost_rank_is_an_event_and_no_error(tmp_path: Path) -> None:
    path = launch_plans.floats(tmp_path, rejoin_s=30.0).path
    good(f"""
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from launch_harness import rank_process
plan = Path({str(path)!r})
p = edgelaunch.Pipeline(plan, local=True)
assert not p.ready
with p:
    assert p.ready
    assert np.array_equal(p(x), 4 * x)
    before = p.statistics
    assert (before.num_items, before.num_in_flight, before.num_ranks, before.num_epochs) == (5, 0, 2, 1), before
    assert before.latency.count == 5 and set(before.busy) <= {{'host-0', 'host-1'}}
    os.kill(rank_process(plan, 1), signal.SIGKILL)
    futures = [p.submit(row) for row in x]
    for row, future in zip(x, futures):
        assert np.array_equal(future.result(40), 4 * row)
    kinds = [event.kind for event in p.events]
    assert [event.rank for event in p.events if event.kind == 'rank-lost'] == [1], p.events
    assert 'epoch-ended' in kinds and 'rank-joined' in kinds, kinds
    assert kinds.count('epoch-began') == 2, kinds
    assert all(abs(event.at - time.time()) < 300 and event.text for event in p.events)
    assert p.statistics.num_epochs == 2 and p.ready
assert not p.ready
""")


def test_sentences_and_images(tmp_path: Path) -> None:
    texts, images = served.embedding_plan(tmp_path / "texts").path, served.image_plan(tmp_path / "images").path
    good(f"""
from PIL import Image
with edgelaunch.Pipeline({str(texts)!r}, local=True) as p:
    assert p(['the cat', 'mat']).tolist() == [[5, 2, 2], [6, 1, 6]]
    assert [y.tolist() for y in p.map(['mat'])] == [[6, 1, 6]] and p.submit('mat').result().tolist() == [6, 1, 6]
    expect(edgelaunch.UserError, 'it has one array', lambda: p('mat'))
with edgelaunch.Pipeline({str(images)!r}, local=True) as p:
    pixels = np.full((30, 40, 3), 255, np.uint8)
    assert np.allclose(p([Image.fromarray(pixels)])[0, 0], (1 - 0.5) / 0.5)
    expect(edgelaunch.UserError, 'item 0: pixels is', lambda: p(['a.png']))
""")


def test_a_rank_that_fails_fails_the_futures(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path, num_stages=3, middle=launch_plans.Failing())
    good(f"""
try:
    with edgelaunch.Pipeline({str(plan.path)!r}, local=True) as p:
        p.submit(-x[0]).result(30)
except edgelaunch.RankFailedError as error:
    assert 'the shard met a negative number' in str(error), error
else:
    sys.exit('no error')
""")


def test_a_host_that_is_told_its_share_computes_as_slowly(one_stage: Written) -> None:
    """As an emulated one is, whose quota alone would let short steps run at full speed."""
    good(f"""
import os
from edgelaunch.pipeline import stage_work
from edgelaunch.process.slower_cores import VARIABLE
os.environ[VARIABLE] = "0.5"
asked, slowed_down = [], stage_work.slowed_down
stage_work.slowed_down = lambda run, *more: asked.append(more) or slowed_down(run, *more)
with edgelaunch.Pipeline({str(one_stage.path)!r}, local=True) as p:
    assert np.array_equal(p.submit(x[0]).result(30), 2 * x[0])
assert asked == [(0.5, None)]
""")
