"""edgelaunch.Pipeline inside an application. Each test is a program of its own: torch's threads stay out of pytest."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import launch_plans
import pytest
from launch_harness import Running, wait_gone
from launch_plans import Written

from edgelaunch.common.items import Flush, Item
from edgelaunch.pipeline.callers import Streams

pytestmark = pytest.mark.slow

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


def test_one_stage_and_several_outputs(one_stage: Written, three_stages: Written, tmp_path: Path) -> None:
    """The three ranks share a secret of a file, which is handed on to those that are started."""
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef")
    secret.chmod(0o600)
    code = f"""
with edgelaunch.Pipeline({str(one_stage.path)!r}, local=True) as p:
    assert np.array_equal(p(x), 2 * x)
with edgelaunch.Pipeline({str(three_stages.path)!r}, local=True, secret_file={str(secret)!r}) as p:
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
except edgelaunch.common.failures.RankFailedError as error:
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
except edgelaunch.common.failures.RankFailedError as error:
    print(error)
"""
    assert "the shard of rank 1 (host-1) is missing" in program(code).wait(15).expect(0).out


def test_a_stream_that_waits_holds_up_nobody_and_callers_share_microbatches(two_stages: Written) -> None:
    code = f"""
import threading, time
with edgelaunch.Pipeline({str(two_stages.path)!r}, local=True) as p:
    asked, frame = threading.Event(), threading.Event()
    def camera():
        yield x[0]
        asked.set()
        frame.wait()
        yield x[1]
    waiting = p.stream(camera())
    assert np.array_equal(next(waiting), 4 * x[0])
    assert asked.wait(10)
    assert np.array_equal(p(x), 4 * x)
    idle = p.stream(x.repeat(1000, 0))
    next(idle)  # takes no more: draws no more, and holds up nobody
    assert np.array_equal(p(x), 4 * x)
    waiting.close()  # though its camera never shows another frame
    assert np.array_equal(p(x), 4 * x)
    frame.set()
    wrong = []
    def caller(number):
        for round in range(20):
            rows = x[:1 + (number + round) % 5] + number
            if not np.allclose(p(rows), 4 * rows):
                wrong.append(number)
    callers = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
    [thread.start() for thread in callers]
    [thread.join() for thread in callers]
    assert not wrong, wrong
print('good')
"""
    assert program(code).wait().expect(0).out == "good\n"


def test_callers_share_microbatches() -> None:
    """Two callers with one item each: one microbatch of two, no padding."""
    streams = Streams(8, lambda value, index: {"x": value})
    first, second = streams.open([1]), streams.open([2])
    deadline = time.monotonic() + 10
    while not (first.all_drawn and second.all_drawn) and time.monotonic() < deadline:
        time.sleep(0.001)
    fed = streams.items()
    one, two, flush = next(fed), next(fed), next(fed)
    assert isinstance(one, Item)
    assert isinstance(two, Item)
    assert {one.entry.stream, two.entry.stream} == {first.name, second.name}
    assert isinstance(flush, Flush)
    streams.give(two.entry.stream, "b")
    streams.give(one.entry.stream, "a")
    results = {stream.name: stream.take(lambda: None, 1.0) for stream in (first, second)}
    assert results == {one.entry.stream: (True, "a"), two.entry.stream: (True, "b")}
    assert [stream.take(lambda: None, 1.0) for stream in (first, second)] == [(False, None)] * 2
    streams.close()
    assert next(fed, None) is None


def test_forgotten_pipelines_end_with_the_program(two_stages: Written) -> None:
    code = f"""
import itertools
first = edgelaunch.Pipeline({str(two_stages.path)!r}, local=True).__enter__()
second = edgelaunch.Pipeline({str(two_stages.path)!r}, local=True).__enter__()
kept = second.stream(itertools.repeat(x[0]))
assert np.array_equal(first(x), 4 * x) and np.array_equal(next(kept), 4 * x[0])
print('good')
"""
    ended = program(code).wait(60).expect(0)
    assert ended.out == "good\n"
    assert ended.err == ""
    wait_gone(two_stages.path, 3.0)


def test_wrong_uses_are_told_in_words(two_stages: Written) -> None:
    code = f"""
p = edgelaunch.Pipeline({str(two_stages.path)!r}, local=True)
p.close()
p.close()
def expect(kind, text, call):
    try:
        call()
    except kind as error:
        assert text in str(error), error
    else:
        sys.exit('no error: ' + text)
expect(RuntimeError, 'was started before', p.__enter__)
p = edgelaunch.Pipeline({str(two_stages.path)!r}, local=True)
expect(RuntimeError, 'not been started', lambda: p(x))
with p:
    expect(RuntimeError, 'was started before', p.__enter__)
    for wrong in ({{}}, {{'y': x}}, {{'x': x, 'y': x}}):
        expect(edgelaunch.UserError, 'the model takes x', lambda: p(wrong))
    expect(edgelaunch.UserError, 'invalid batch of type int', lambda: p(3))
    expect(edgelaunch.UserError, 'invalid batch of type int', lambda: p({{'x': 3}}))
    expect(edgelaunch.UserError, 'it is empty', lambda: p([]))
    expect(edgelaunch.UserError, 'it is empty', lambda: p(x[:0]))
    for wrong in (3, None, 'abc', {{'x': x}}):
        expect(edgelaunch.UserError, 'invalid items of type', lambda: list(p.stream(wrong)))
    expect(edgelaunch.UserError, 'item 0: ', lambda: p(['abc']))
    assert np.array_equal(p(x), 4 * x)
expect(RuntimeError, 'closed', lambda: p(x))
assert issubclass(edgelaunch.RankFailedError, RuntimeError)
print('good')
"""
    assert program(code).wait().expect(0).out == "good\n"


def test_a_source_that_ends_by_something_else_than_an_exception_frees_its_caller(two_stages: Written) -> None:
    """asyncio's CancelledError and sys.exit are none; the caller waited for ever."""
    code = f"""
import asyncio
with edgelaunch.Pipeline({str(two_stages.path)!r}, local=True) as p:
    for error in (asyncio.CancelledError('mine'), SystemExit('mine'), KeyboardInterrupt('mine')):
        def broken():
            yield x[0]
            raise error
        try:
            list(p.stream(broken()))
        except BaseException as raised:
            assert raised is error, raised
        else:
            sys.exit('no error')
    assert np.array_equal(p(x), 4 * x)
print('good')
"""
    assert program(code).wait().expect(0).out == "good\n"


def test_a_forked_process_leaves_its_parents_pipeline_alone(two_stages: Written) -> None:
    """Its end, through atexit, waited for ever for threads that it does not have."""
    code = f"""
import os, signal
with edgelaunch.Pipeline({str(two_stages.path)!r}, local=True) as p:
    assert np.array_equal(p(x), 4 * x)
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        try:
            p(x)
        except RuntimeError as error:
            assert 'forked' in str(error), error
            sys.exit(7)
        sys.exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert np.array_equal(p(x), 4 * x)
print('good')
"""
    assert program(code).wait().expect(0).out == "good\n"
    wait_gone(two_stages.path, 1.0)


@pytest.mark.parametrize("ends_spare", [False, True])
def test_a_killed_rank_is_forked_again_or_started_where_nothing_forks_it(tmp_path: Path, ends_spare: bool) -> None:
    path = launch_plans.floats(tmp_path, rejoin_s=30.0).path
    code = f"""
import os, signal
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from launch_harness import processes_of, rank_process
plan = Path({str(path)!r})
with edgelaunch.Pipeline(plan, local=True, restarts=2) as p:
    for _ in range(2):
        assert np.array_equal(p(x), 4 * x)
        rank = rank_process(plan, 1)
        spare = [number for number in processes_of(plan) if number != rank]
        if {ends_spare}:
            [os.kill(number, signal.SIGKILL) for number in spare]
        else:
            assert len(spare) == 1
        os.kill(rank, signal.SIGKILL)
    assert np.array_equal(p(x), 4 * x)
try:
    edgelaunch.Pipeline(plan, restarts=-1)
except edgelaunch.UserError as error:
    print(error)
"""
    ended = program(code).wait().expect(0)
    assert ended.out == "invalid value -1 for restarts: expected a whole number of 0 or more\n"
    wait_gone(path, 1.0)
