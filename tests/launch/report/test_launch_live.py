"""Live sources: items at a rate or from standard input, what is dropped, what is told; and images as pixels."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import launch_plans
import numpy as np
import pytest
import torch
from launch_harness import Ended, Running, run
from launch_plans import Written
from PIL import Image

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import DataSpec, ImageSpec, Plan, TensorSpec
from edgecompile.contract.run_record import Percentiles
from edgelaunch.common.items import FLUSH, STDIN, Entry, Flush, Item, Source
from edgelaunch.inputs.images import prepare
from edgelaunch.inputs.live import Live
from edgelaunch.inputs.open_input import open_source
from edgelaunch.transport.counters import Latencies

IMAGE = ImageSpec(size=(24, 32), resize=36, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
DEADLINE_S = 30.0


def until(condition: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- between a source and the feeder -----------------------------------------------------------------------------


class Kept:
    """Results that are only counted."""

    def __init__(self) -> None:
        self.indices: list[int] = []
        self.finished = False

    def add(self, entry: Entry, outputs: Any) -> None:
        self.indices.append(entry.index)

    def finish(self) -> None:
        self.finished = True


def items(count: int, stream: str = "items") -> Iterator[Item | Flush]:
    return (Item(Entry(index=index, stream=stream), {}) for index in range(count))


def live(plan: Plan, values: Iterator[Item | Flush], rate: float | None = None, drop: bool = False) -> Live:
    source = Source(items=values, num_items=None, what="items")
    return Live(plan, source, Kept(), rate_per_s=rate, drop_oldest=drop)


def next_item(values: Iterator[Item | Flush]) -> Item:
    """The next item, past what flushes a slow machine may give."""
    return next(value for value in values if isinstance(value, Item))


def test_a_rate_sets_when_items_are_due(two_stages: Written) -> None:
    given = [item for item in live(two_stages.plan, items(5), rate=200.0).source.items if isinstance(item, Item)]
    assert [item.entry.index for item in given] == list(range(5))
    due = [item.due_ns for item in given if item.due_ns is not None]
    assert np.diff(due).tolist() == [5_000_000] * 4


def test_waiting_loses_nothing(two_stages: Written) -> None:
    source = live(two_stages.plan, items(20), rate=1e6)
    values = source.source.items
    next_item(values)
    until(lambda: source.num_taken == 4)  # one was fed, a microbatch of two waits, and one is at the door
    rest = [value.entry.index for value in values if isinstance(value, Item)]
    assert rest == list(range(1, 20))
    assert (source.num_taken, source.num_dropped) == (20, 0)
    assert source.report() == "live: 1 M items/s: 20 items, 20 done"


def test_the_oldest_waiting_items_are_dropped(two_stages: Written) -> None:
    gate = threading.Event()

    def values() -> Iterator[Item | Flush]:
        for item in items(10):
            yield item
            gate.wait(DEADLINE_S)

    source = live(two_stages.plan, values(), drop=True)
    given = source.source.items
    assert next_item(given).entry.index == 0
    gate.set()
    until(lambda: source._ended)
    assert [value.entry.index for value in given if isinstance(value, Item)] == [8, 9]
    assert source.num_dropped == 7
    assert source.report() == "live: items as they came: 10 items, 3 done, 7 dropped"


def test_golden_items_and_flushes_are_never_dropped(two_stages: Written) -> None:
    def values() -> Iterator[Item | Flush]:
        yield from items(5, "golden")
        yield FLUSH
        yield from items(6)

    source = live(two_stages.plan, values(), rate=1e6, drop=True)
    given = source.source.items
    golden = [next_item(given) for _ in range(5)]
    assert [item.entry.stream for item in golden] == ["golden"] * 5
    assert all(item.due_ns is None for item in golden)
    for item in golden:
        source.results.add(item.entry, {})
    rest = list(given)
    assert any(isinstance(value, Flush) for value in rest)
    numbers = [value.entry.index for value in rest if isinstance(value, Item)]
    assert len(numbers) + source.num_dropped == 6
    assert numbers == sorted(numbers)
    assert numbers[-1] == 5


def test_where_items_are_dropped_few_are_under_way(two_stages: Written) -> None:
    limit = (2 * 2 + 1) * 2  # of two stages, in microbatches of two
    gate = threading.Semaphore(0)

    def values() -> Iterator[Item | Flush]:
        for item in items(limit + 1):
            gate.acquire()
            yield item

    source = live(two_stages.plan, values(), drop=True)
    given = source.source.items
    for number in range(limit):
        gate.release()
        assert next_item(given).entry.index == number
    gate.release()
    until(lambda: source._ended)
    assert next(given) is FLUSH  # the last one waits for a result
    source.results.add(Entry(index=0), {})
    assert next_item(given).entry.index == limit
    source.results.finish()
    assert isinstance(source._next_results, Kept)
    assert source._next_results.indices == [0]
    assert source._next_results.finished


def test_a_partial_microbatch_does_not_wait_long(two_stages: Written) -> None:
    gate = threading.Event()

    def values() -> Iterator[Item | Flush]:
        yield from items(1)
        gate.wait(DEADLINE_S)

    given = live(two_stages.plan, values()).source.items
    next_item(given)
    assert next(given) is FLUSH
    gate.set()
    assert not [value for value in given if isinstance(value, Item)]


def test_what_the_source_raises_is_raised_to_the_feeder(two_stages: Written) -> None:
    def values() -> Iterator[Item | Flush]:
        yield from items(1)
        raise UserError("line 2 is invalid")

    given = live(two_stages.plan, values()).source.items
    with pytest.raises(UserError, match="line 2 is invalid"):
        list(given)


def test_percentiles() -> None:
    latencies = Latencies()
    assert latencies.summary() == Percentiles(count=0, p50_s=0.0, p95_s=0.0, p99_s=0.0, max_s=0.0)
    for milliseconds in range(1, 1001):
        latencies.add(milliseconds * 1_000_000)
    summary = latencies.summary()
    assert summary.p50_s == pytest.approx(0.5, rel=0.01)
    assert summary.p95_s == pytest.approx(0.95, rel=0.01)
    assert summary.p99_s == pytest.approx(0.99, rel=0.01)
    assert summary.max_s == 1.0
    latencies.add(10**17)  # past the last bucket
    assert latencies.summary().max_s == 1e8


# --- standard input ----------------------------------------------------------------------------------------------


def read(plan: Plan, monkeypatch: pytest.MonkeyPatch, content: bytes, limit: int | None = None) -> list[Item]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    source = open_source(plan, Path(), Path(STDIN), limit)
    assert source.num_items == limit
    return [item for item in source.items if isinstance(item, Item)]


def test_json_lines_of_arrays(two_stages: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b'\xef\xbb\xbf[1, 2, 3, 4]\n\n{"x": [0.5, 1, 2, 3], "label": 2}\n'
    first, second = read(two_stages.plan, monkeypatch, content)
    assert (first.entry, second.entry) == (Entry(index=0), Entry(index=1, label=2))
    assert first.arrays["x"].dtype == np.float32
    assert second.arrays["x"].tolist() == [0.5, 1.0, 2.0, 3.0]
    assert len(read(two_stages.plan, monkeypatch, content, limit=1)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", "standard input: holds no items"),
        (b"[1, 2, 3, 4]\n[1, 2", "standard input:2: not JSON"),
        (b"3", "standard input:1: must be an object with an array for each input: x"),
        (b'{"y": [1]}', "standard input:1: holds y, the model takes x"),
        (b"[1, 2, 3]", r"standard input:1: x holds 3 numbers where 4 are expected, the model takes float32 \(4,\)"),
        (b"[[1, 2], 3]", "standard input:1: x is not an array"),
        (b'["a", 2, 3, 4]', "standard input:1: x holds text where numbers are expected"),
        (b'{"x": [1, 2, 3, 4], "label": "cat"}', "label is 'cat', expected a class number"),
        (b"\xff", "standard input:1: byte 0 is not UTF-8 text"),
    ],
)
def test_lines_that_do_not_do(
    two_stages: Written, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(two_stages.plan, monkeypatch, content)


def test_a_line_that_never_ends(two_stages: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelaunch.inputs.stdin.MAX_LINE_BYTES", 8)
    with pytest.raises(UserError, match="standard input:1: a line of more than 8 bytes"):
        read(two_stages.plan, monkeypatch, b"[1, 2, 3, 4]")


def test_arrays_by_name(three_stages: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"ids": [1, 2, 3, 4, 5, 6], "mask": [True, True, True, False, False, False]}
    (item,) = read(three_stages.plan, monkeypatch, json.dumps(record).encode())
    assert {name: array.dtype.name for name, array in item.arrays.items()} == {"ids": "int64", "mask": "int64"}
    with pytest.raises(UserError, match="an array for each input: ids, mask"):
        read(three_stages.plan, monkeypatch, b"[1, 2, 3, 4, 5, 6]")


# --- images as pixels --------------------------------------------------------------------------------------------


@pytest.fixture
def pixels(two_stages: Written) -> Plan:
    inputs = (TensorSpec(name="pixels", shape=(2, 3, 24, 32), dtype="uint8"),)
    return replace(two_stages.plan, data=DataSpec(kind="image", image=IMAGE), inputs=inputs)


def picture(path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8)).save(path)
    return path


def normalised(image: np.ndarray) -> np.ndarray:
    mean, std = (np.float32(value).reshape(3, 1, 1) for value in (IMAGE.mean, IMAGE.std))
    return (image.astype(np.float32) / 255 - mean) / std


def test_images_stay_pixels_where_the_model_takes_uint8(
    pixels: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = picture(tmp_path / "a.png")
    (item,) = open_source(pixels, tmp_path, tmp_path, None).items
    assert isinstance(item, Item)
    given = item.arrays["pixels"]
    assert (given.shape, given.dtype) == ((3, 24, 32), np.uint8)
    np.testing.assert_allclose(normalised(given), prepare(file, IMAGE), atol=1e-6)
    (named,) = read(pixels, monkeypatch, f"{file}\n".encode())
    np.testing.assert_array_equal(named.arrays["pixels"], given)
    assert named.entry.name == str(file)
    (listed,) = read(pixels, monkeypatch, json.dumps(given.tolist()).encode())
    np.testing.assert_array_equal(listed.arrays["pixels"], given)
    with pytest.raises(UserError, match=r"standard input:1: nowhere\.png: no such image"):
        read(pixels, monkeypatch, b"nowhere.png")


@pytest.mark.parametrize("dtype", ["int64", "float32", "int8"])
def test_arrays_for_pixels_must_be_uint8(pixels: Plan, tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3, 24, 32), dtype))
    with pytest.raises(UserError, match=rf"pixels is {dtype} .*, the model takes uint8 .*: convert it first"):
        open_source(pixels, tmp_path, tmp_path / "x.npy", None)
    np.save(tmp_path / "x.npy", np.ones((2, 3, 24, 32), np.uint8))
    assert open_source(pixels, tmp_path, tmp_path / "x.npy", None).num_items == 2


class Normalise(torch.nn.Module):
    """What the first shard of such a plan begins with."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGE.mean, IMAGE.std))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
        return ((pixels.float() / 255 - self.mean) / self.std,)


# --- whole runs --------------------------------------------------------------------------------------------------


def piped(content: str, *arguments: object) -> Ended:
    """edgelaunch with `content` on its standard input."""
    script = f"printf '%s' '{content}' | '{sys.executable}' -m edgelaunch \"$@\""
    return Running(arguments, program=["sh", "-c", script, "sh"]).wait()


@pytest.mark.slow
def test_pixels_through_a_pipeline(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (2, 3, 24, 32), dtype=torch.uint8)
    data = DataSpec(kind="image", image=IMAGE)
    plan = launch_plans.write(tmp_path / "plan", {"pixels": image}, [launch_plans.Part(Normalise(), ["y"])], data=data)
    file = picture(tmp_path / "a.png")
    run(plan.path, "--input", file, "--output", tmp_path / "y.npy").expect(0)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy")[0], prepare(file, IMAGE), atol=1e-6)


@pytest.mark.slow
def test_standard_input_reaches_rank_0(two_stages: Written, tmp_path: Path) -> None:
    lines = '[1, 2, 3, 4]\n\n{"x": [0.5, 1, 1, 1]}\n[0, 0, 0, 1]\n'
    ended = piped(lines, two_stages.path, "--local", "--input", "-", "--output", tmp_path / "y.npy").expect(0)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), [[4, 8, 12, 16], [2, 4, 4, 4], [0, 0, 0, 4]])
    assert "live: items as they came: 3 items, 3 done" in ended.out
    ended = piped("[1, 2]", two_stages.path, "--local", "--input", "-")
    ended.expect_error("standard input:1", "x holds 2 numbers where 4 are expected")


@pytest.mark.slow
def test_a_rate_reports_latencies(one_stage: Written) -> None:
    out = run(one_stage.path, "--rate", 200, "--items", 20, "--verify").expect(0).out
    assert "live: 200 items/s: 20 items, 20 done" in out
    found = re.search(r"latency of 20 items, .*p50 ([\d.]+) ms, p95 ([\d.]+) ms, p99 ([\d.]+) ms, max ([\d.]+) ms", out)
    assert found is not None, out
    numbers = [float(value) for value in found.groups()]
    assert numbers == sorted(numbers)


@pytest.mark.slow
def test_dropped_items_leave_gaps_in_the_numbers(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path / "plan", middle=launch_plans.Heavy(), microbatch=1)
    words = ["--rate", 5000, "--items", 400, "--when-full", "drop-oldest", "--output", tmp_path / "y.jsonl"]
    out = run(plan.path, "--local", *words).expect(0).out
    indices = [json.loads(line)["index"] for line in (tmp_path / "y.jsonl").read_text().splitlines()]
    found = re.search(r"live: 5,000 items/s: 400 items, (\d+) done, (\d+) dropped", out)
    assert found is not None, out
    done, dropped = map(int, found.groups())
    assert (done, done + dropped) == (len(indices), 400)
    assert dropped > 0
    assert indices == sorted(set(indices))
    assert indices[-1] == 399


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--rate", "0"], "invalid value 0 for --rate"),
        (["--rate", "nan"], "invalid value nan for --rate"),
        (["--when-full", "wait"], "give --rate R, or --input -"),
        (
            ["--rate", "5", "--when-full", "drop-oldest", "--output", "y.npy"],
            "y.npy: cannot hold the items' numbers",
        ),
        (["--rate", "5", "--when-full", "drop"], "expected one of drop-oldest, wait"),
    ],
)
def test_arguments_that_do_not_do(one_stage: Written, words: list[str], part: str) -> None:
    run(one_stage.path, *words).expect_error(part)
