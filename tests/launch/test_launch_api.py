"""edgelaunch.Pipeline inside an application. Each test is a program of its own: torch's threads stay out of pytest."""

from __future__ import annotations

import sys
from pathlib import Path

import launch_plans
from launch_harness import Running, wait_gone
from launch_plans import Written

START = "import sys, numpy as np, edgelaunch\nx = np.random.default_rng(0).random((5, 4), dtype=np.float32)\n"


def program(code: str) -> Running:
    return Running(["-c", START + code], program=[sys.executable])


def test_stream_and_batches(two_stages: Written) -> None:
    code = f"""
with edgelaunch.Pipeline({str(two_stages.path)!r}, local=True) as p:
    assert np.array_equal(p(x), 4 * x)
    drawn = []
    def source():
        for row in x.repeat(100, 0):
            drawn.append(row)
            yield row
    for index, y in enumerate(p.stream(source())):
        assert np.array_equal(y, 4 * x[0])
        if index == 10:
            break
    assert len(drawn) < 100, len(drawn)
    assert np.array_equal(np.stack(list(p.stream(list(x)))), 4 * x)
    assert list(p.stream([])) == []
    try:
        list(p.stream([x[0], x]))
    except edgelaunch.api.UserError as error:
        assert 'item 1: x is float32 (5, 4), the model takes float32 (4,)' in str(error), error
    else:
        sys.exit('no error')
    def broken():
        yield x[0]
        raise KeyError('mine')
    try:
        list(p.stream(broken()))
    except KeyError as error:
        assert error.args == ('mine',)
    assert np.array_equal(p({{'x': x}}), 4 * x)
try:
    p(x)
except RuntimeError as error:
    assert 'closed' in str(error)
print('good')
"""
    assert program(code).wait().expect(0).out == "good\n"
    wait_gone(two_stages.path, 1.0)


def test_one_stage_and_several_outputs(one_stage: Written, three_stages: Written) -> None:
    code = f"""
with edgelaunch.Pipeline({str(one_stage.path)!r}, local=True) as p:
    assert np.array_equal(p(x), 2 * x)
with edgelaunch.Pipeline({str(three_stages.path)!r}, local=True) as p:
    y = p({{'ids': np.full((3, 6), 9), 'mask': np.ones((3, 6), bool)}})
    assert sorted(y) == ['big', 'raw', 'scores', 'total'], y
    assert y['total'].tolist() == [55, 55, 55] and y['big'].all() and y['raw'].dtype == np.float32
"""
    program(code).wait().expect(0)


def test_a_failing_rank_raises_in_the_caller(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path, num_stages=3, middle=launch_plans.Failing())
    code = f"""
try:
    with edgelaunch.Pipeline({str(plan.path)!r}, local=True) as p:
        list(p.stream(-x))
except edgelaunch.failures.RankFailedError as error:
    print(str(error).splitlines()[0])
"""
    ended = program(code).wait().expect(0)
    assert ended.out.startswith("rank 1 (host-1): ")
    assert "the shard met a negative number" in ended.out
    wait_gone(plan.path, 3.0)


def test_a_missing_shard_raises_at_once(copied: Written) -> None:
    (copied.path.parent / "shards" / "1.pt").unlink()
    code = f"""
try:
    with edgelaunch.Pipeline({str(copied.path)!r}, local=True) as p:
        pass
except edgelaunch.failures.RankFailedError as error:
    print(error)
"""
    assert "the shard of rank 1 (host-1) is missing" in program(code).wait(15).expect(0).out
