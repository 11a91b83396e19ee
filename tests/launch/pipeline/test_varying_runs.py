"""Plans whose messages vary in size: each item's result is that of the item alone, at its own extents and in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import launch_plans
import launch_varying
import numpy as np
import pytest
import run_words
from launch_harness import PROGRAM, Ended, Running, rank_process, run, wait_for_results
from launch_plans import Written
from launch_varying import Arrays


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return launch_varying.texts(tmp_path_factory.mktemp("varying"))


def fed(written: Written, items: list[Arrays], output: Path) -> list[dict[str, Any]]:
    """The rows that a run of these items, as JSON on standard input, writes."""
    lines = "".join(json.dumps(item) + "\n" for item in launch_varying.as_json(items))
    command = [*PROGRAM, str(written.path), "--local", "--input", "-", "--output", str(output)]
    ended = subprocess.run(command, input=lines, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def check_rows(written: Written, items: list[Arrays], rows: list[dict[str, Any]]) -> None:
    assert [row["index"] for row in rows] == list(range(len(items)))
    for item, row in zip(items, rows, strict=True):
        launch_varying.check(written, item, row["outputs"])


def check_arrays(written: Written, items: list[Arrays], output: Path) -> None:
    """Files of arrays have the largest shape, and zeros beyond an item's own."""
    arrays = np.load(output)
    assert {name: array.shape[0] for name, array in arrays.items()} == {"pooled": len(items), "tokens": len(items)}
    for index, item in enumerate(items):
        length = len(item["ids"])
        row = {"pooled": arrays["pooled"][index], "tokens": arrays["tokens"][index, :length]}
        launch_varying.check(written, item, row)
        assert not arrays["tokens"][index, length:].any()


def positions(written: Written) -> dict[str, int]:
    record = json.loads((written.path.parent / "run.json").read_text(encoding="utf-8"))
    return record["positions"]  # type: ignore[no-any-return]


def test_two_ranks(plan: Written, tmp_path: Path) -> None:
    items = launch_varying.sentences(101)
    check_rows(plan, items, fed(plan, items, tmp_path / "y.jsonl"))
    found = positions(plan)
    assert found["useful"] == sum(len(item["ids"]) for item in items)
    assert found["useful"] <= found["computed"] < 2 * found["useful"]


@pytest.mark.parametrize(
    ("options", "padding"),
    [
        ({"num_stages": 1}, True),
        ({"padded": False}, False),
        ({"runtime": {"batch_tokens": 30, "window": 2}}, True),
        ({"lengths": (9, 24)}, True),
        ({"least_batch": 3}, True),
    ],
)
def test_other_plans(tmp_path: Path, options: dict[str, Any], padding: bool) -> None:
    """In one process; equal lengths alone share a message; few tokens; less than the least length, or batch."""
    written = launch_varying.texts(tmp_path, **options)
    items = launch_varying.sentences(63)
    check_rows(written, items, fed(written, items, tmp_path / "y.jsonl"))
    found = positions(written)
    assert (found["computed"] > found["useful"]) is padding


def test_messages_of_as_many_items_as_there_are(tmp_path: Path) -> None:
    written = launch_varying.batches(tmp_path)
    x = np.random.default_rng(0).random((10, 4), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    words = ["--verify", "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"]
    run(written.path, "--local", *words).expect(0)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), 4 * x, rtol=1e-6)
    assert "positions" not in json.loads((tmp_path / "run.json").read_text(encoding="utf-8")), "nothing is padded"


def test_golden_items_are_the_largest(plan: Written) -> None:
    ended = run(plan.path, "--local", "--verify").expect(0)
    assert "verified: 6 items equal the unsplit model's" in ended.out


def test_golden_items_share_no_message_with_others(plan: Written, tmp_path: Path) -> None:
    path, output = tmp_path / "x.npz", tmp_path / "y.npz"
    items = [item for item in launch_varying.sentences(200) if len(item["ids"]) == 7]
    np.savez(path, **{name: np.stack([item[name] for item in items]) for name in ("ids", "mask")})  # type: ignore[arg-type]
    run(plan.path, "--local", "--verify", "--input", path, "--output", output).expect(0)
    check_arrays(plan, items, output)


@pytest.mark.parametrize("length", [25, 0])
def test_arrays_of_lengths_that_the_plan_has_not(plan: Written, tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.npz"
    ids = np.ones((3, length), dtype=np.int64)
    np.savez(path, ids=ids, mask=ids)
    ended = run(plan.path, "--local", "--input", path)
    ended.expect_error(f"ids is int64 (3, {length}), the model takes int64 (items, 1 to 24)")


def test_inputs_that_differ_in_their_length(plan: Written, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, ids=np.ones((3, 5), dtype=np.int64), mask=np.ones((3, 6), dtype=np.int64))
    ended = run(plan.path, "--local", "--input", path)
    ended.expect_error("item 0: the inputs differ in their length: ids (5,), mask (6,)")


# --- sentences ------------------------------------------------------------------------------------------------------


def test_sentences_are_not_padded(tmp_path: Path) -> None:
    written = launch_varying.texts(tmp_path, tokenizer=True)
    items = launch_varying.sentences(40)
    nothing = {"ids": np.zeros(1, dtype=np.int64), "mask": np.zeros(1, dtype=np.int64)}
    lines = [*launch_varying.in_words(items), "", " ".join(["w5"] * 30)]
    long = {"ids": np.full(24, 5), "mask": np.ones(24, dtype=np.int64)}
    (tmp_path / "x.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run(written.path, "--local", "--input", tmp_path / "x.txt", "--output", tmp_path / "y.jsonl").expect(0)
    rows = [json.loads(line) for line in (tmp_path / "y.jsonl").read_text(encoding="utf-8").splitlines()]
    check_rows(written, [*items, nothing, long], rows)


@pytest.mark.parametrize("lengths", [(1, 24), (9, 24)])
def test_every_item_is_compared_with_the_unsplit_model(tmp_path: Path, lengths: tuple[int, int]) -> None:
    """At its own extents, or at the least that the plan has."""
    written = launch_varying.texts(tmp_path, tokenizer=True, reference=True, lengths=lengths)
    lines = launch_varying.in_words(launch_varying.sentences(50))
    (tmp_path / "x.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ended = run(written.path, "--local", "--verify", "--input", tmp_path / "x.txt").expect(0)
    assert "verified: 50 items equal the unsplit model's" in ended.out
    assert "positions of items" in ended.out


def test_a_live_source_and_items_that_cannot_be_read(tmp_path: Path) -> None:
    written = launch_varying.texts(tmp_path, tokenizer=True, runtime={"window": 100})
    items, output = launch_varying.sentences(30), tmp_path / "y.jsonl"
    lines = [line.encode() for line in launch_varying.in_words(items)]
    (tmp_path / "x.txt").write_bytes(b"\n".join([*lines[:10], b"\xff\xfe", *lines[10:]]) + b"\n")
    words = ["--input", tmp_path / "x.txt", "--output", output, "--on-bad-item", "gap", "--rate", "300"]
    run(written.path, "--local", *words).expect(0)
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["index"] for row in rows] == list(range(31))
    assert "error" in rows.pop(10)
    for item, row in zip(items, rows, strict=True):
        launch_varying.check(written, item, row["outputs"])


def trickle(written: Written, count: int, pause_s: float, *arguments: object) -> Ended:
    """A run whose items come one by one."""
    program = (
        "import sys, time\n"
        f"for number in range({count}):\n"
        "    print(' '.join(['w3'] * (1 + number % 5)), flush=True)\n"
        f"    time.sleep({pause_s})\n"
    )
    words = " ".join([*PROGRAM, str(written.path), "--local", "--input", "-", *map(str, arguments)])
    return Running(["-c", f'{sys.executable} -c "$FEED" | {words}'], program=("/bin/sh",), FEED=program).wait()


def test_an_item_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    """A window of 400 items never fills: without the limit the first result would come after the last item."""
    output = tmp_path / "y.jsonl"
    written = launch_varying.texts(tmp_path, tokenizer=True, runtime={"window": 100})
    trickle(written, 40, 0.05, "--output", output).expect(0)
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert record["num_items"] == 40
    assert record["latency"]["p50_s"] < 1.0
    assert len(output.read_text(encoding="utf-8").splitlines()) == 40


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("slow")
    return launch_varying.texts(
        folder, tokenizer=True, rounds=15, microbatch=2, detect_s=1.5, rejoin_s=30.0, runtime={"window": 8}
    )


@pytest.fixture(scope="module")
def many(slow: Written) -> tuple[list[Arrays], Path]:
    items, path = launch_varying.sentences(240, seed=5), slow.path.parent / "x.txt"
    path.write_text("\n".join(launch_varying.in_words(items)) + "\n", encoding="utf-8")
    return items, path


@pytest.mark.slow
def test_a_rank_that_is_killed_loses_nothing(slow: Written, many: tuple[list[Arrays], Path], tmp_path: Path) -> None:
    items, path = many
    output = tmp_path / "y.npz"
    running = Running([slow.path, "--local", "--input", path, "--output", output])
    wait_for_results(running, output, 20, row_bytes=32)
    os.kill(rank_process(slow.path, 1), signal.SIGKILL)
    ended = running.wait().expect(0)
    assert run_words.continues(slow.plan) in ended.err
    check_arrays(slow, items, output)


@pytest.mark.slow
def test_the_others_go_on_without_it(tmp_path: Path) -> None:
    """By the plan for its loss, whose links have other tensors."""
    written = launch_varying.batches(
        tmp_path, 2, num_stages=3, middle=launch_plans.Heavy(), detect_s=1.5, rejoin_s=30.0
    )
    written = launch_plans.with_contingencies(written)
    x, output = np.random.default_rng(0).random((161, 4), dtype=np.float32), tmp_path / "y.npy"
    np.save(tmp_path / "x.npy", x)
    running = Running([written.path, "--local", "--input", tmp_path / "x.npy", "--output", output])
    wait_for_results(running, output, 20)
    os.kill(rank_process(written.path, 2), signal.SIGKILL)
    ended = running.wait().expect(0)
    assert run_words.continues(written.plan, without="host-2") in ended.err
    np.testing.assert_allclose(np.load(output), 4 * x, rtol=1e-6)


@pytest.mark.slow
def test_a_run_that_was_stopped_is_resumed(slow: Written, many: tuple[list[Arrays], Path], tmp_path: Path) -> None:
    items, path = many
    output = tmp_path / "y.npz"
    command = [slow.path, "--local", "--input", path, "--output", output, "--resume"]
    running = Running(command)
    wait_for_results(running, output, 20, row_bytes=32)
    running.process.send_signal(signal.SIGINT)
    assert running.wait().code != 0
    ended = run(*command).expect(0)
    assert "resuming after item" in ended.err
    check_arrays(slow, items, output)


# --- the API --------------------------------------------------------------------------------------------------------


def test_a_pipeline_takes_any_lengths(plan: Written, tmp_path: Path) -> None:
    items = launch_varying.sentences(50)
    (tmp_path / "items.json").write_text(json.dumps(launch_varying.as_json(items)), encoding="utf-8")
    code = f"""
import json, threading
from pathlib import Path
import numpy as np
import edgelaunch
from edgecompile.contract.errors import UserError

given = json.loads(Path({str(tmp_path / "items.json")!r}).read_text())
items = [{{name: np.array(ids) for name, ids in item.items()}} for item in given]
with edgelaunch.Pipeline({str(plan.path)!r}, local=True) as pipeline:
    results = list(pipeline.stream(items))
    other = []
    threads = [threading.Thread(target=lambda: other.append(list(pipeline.stream(items)))) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    for run in other:
        for one, two in zip(results, run, strict=True):
            assert all(np.allclose(one[name], two[name], atol=1e-6) for name in one)
    batch = pipeline({{"ids": np.ones((5, 9), dtype=int), "mask": np.ones((5, 9), dtype=int)}})
    assert batch["tokens"].shape == (5, 9, 3)
    try:
        list(pipeline.stream([{{"ids": np.ones(25, dtype=int), "mask": np.ones(25, dtype=int)}}]))
    except UserError as error:
        print(error)
print(json.dumps([{{name: value.tolist() for name, value in result.items()}} for result in results]))
"""
    ended = Running(["-c", code], program=(sys.executable,)).wait().expect(0)
    told, results = ended.out.splitlines()
    assert told == "item 0: ids is int64 (25,), the model takes int64 (1 to 24,)"
    for item, result in zip(items, json.loads(results), strict=True):
        launch_varying.check(plan, item, result)
