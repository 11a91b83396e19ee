"""What a run writes: never over what it reads, and nothing is deleted that was not made by edgelaunch."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from launch_harness import run
from launch_plans import Written
from PIL import Image

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.commands.check_request import check_run
from edgelaunch.commands.links_command import check_links
from edgelaunch.common.items import Entry
from edgelaunch.outputs.partial_results import Origin, left_behind
from edgelaunch.outputs.result_files import open_writer
from edgelaunch.report.run_file import check_record
from edgelaunch.request.links_request import LinksRequest
from edgelaunch.request.parsers import parse_run

ORIGIN = Origin("plan", {"path": "x"})


def check(written: Written, *words: object) -> None:
    """As the command checks them before anything runs."""
    check_run(parse_run([str(written.path), "--local", *map(str, words)]), written.plan)


@pytest.fixture
def x(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.ones((3, 4), np.float32))
    return tmp_path / "x.npy"


@pytest.mark.parametrize("way", ["itself", "relative", "link", "hard link", "link to the folder"])
def test_an_output_is_not_the_input(
    copied: Written, x: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.chdir(tmp_path)
    output = {
        "itself": x, "relative": Path("plan/../x.npy"), "link": tmp_path / "l.npy", "hard link": tmp_path / "h.npy",
        "link to the folder": tmp_path / "f" / "x.npy",
    }[way]  # fmt: skip
    (tmp_path / "l.npy").symlink_to("x.npy")
    os.link(x, tmp_path / "h.npy")
    (tmp_path / "f").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"--output would overwrite --input: name another file"):
        check(copied, "--input", x, "--output", output)
    with pytest.raises(UserError, match=r"--run would overwrite --input: name another file"):
        check(copied, "--input", x, "--run", output)


def test_a_record_is_not_the_plan_nor_a_file_of_it_nor_the_output(copied: Written, tmp_path: Path) -> None:
    folder = copied.path.parent
    for name, what in (("plan.yaml", "the plan"), ("shards/1.pt", "a shard of the plan"),
                       ("golden.safetensors", "the plan's golden file")):  # fmt: skip
        with pytest.raises(UserError, match=f"--run would overwrite {what}: name another file"):
            check(copied, "--run", folder / name)
    output = tmp_path / "y.npy"  # which is not there yet
    (tmp_path / "l").symlink_to("y.npy")
    for record in (output, tmp_path / "plan" / ".." / "y.npy", tmp_path / "l"):
        with pytest.raises(UserError, match="--run would overwrite --output"):
            check(copied, "--output", output, "--run", record)
    for record in (tmp_path / "y.npy.partial", tmp_path / "y.npy.partial" / "run.json"):
        (tmp_path / "y.npy.partial").mkdir(exist_ok=record.name == "run.json")
        with pytest.raises(UserError, match=r"is a folder|--run is inside the folder for partial results of y.npy"):
            check(copied, "--output", output, "--run", record)
    check(copied, "--output", output, "--run", tmp_path / "run.json")


def test_other_files_that_are_read(copied: Written, x: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with x.open() as file:
        saved = os.dup(0)
        os.dup2(file.fileno(), 0)
        try:
            with pytest.raises(UserError, match="--output would overwrite the file that standard input comes from"):
                check(copied, "--input", "-", "--output", x)
        finally:
            os.dup2(saved, 0)
            os.close(saved)
    (tmp_path / "in").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "in" / "a.png")
    with pytest.raises(UserError, match="--run would overwrite an image of --input"):
        check(copied, "--input", tmp_path / "in", "--run", tmp_path / "in" / "a.png")
    os.mkfifo(tmp_path / "y.npy")
    with pytest.raises(UserError, match="is a pipe, and --output is a file"):
        check(copied, "--output", tmp_path / "y.npy")
    with pytest.raises(UserError, match="--output would overwrite the plan"):
        check_links(LinksRequest(plan_path=copied.path, local=True, output=copied.path), copied.plan)


def test_the_command_refuses_and_leaves_all_as_it_was(copied: Written, x: Path) -> None:
    before = {path: path.read_bytes() for path in (copied.path, x)}
    run(copied.path, "--local", "--input", x, "--output", x).expect_error("--output would overwrite --input")
    run(copied.path, "--local", "--run", copied.path).expect_error("--run would overwrite the plan")
    assert {path: path.read_bytes() for path in (copied.path, x)} == before


# --- the folder of results that are not complete ------------------------------------------------------------------


@pytest.mark.parametrize("content", ["notes.txt", "run.json", "0.npy"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_of_somebody_else_s_keeps_what_it_holds(
    one_stage: Written, tmp_path: Path, content: str, linked: bool
) -> None:
    folder = tmp_path / "y.npy.partial"
    real = tmp_path / "real" if linked else folder
    real.mkdir()
    (real / content).write_text(json.dumps({"version": 1, "plan": "plan", "input": {"path": "x"}, "mine": True}))
    if linked:
        folder.symlink_to("real")
    before = (real / content).read_bytes()
    for resume in (False, True):
        with pytest.raises(UserError, match=r"y.npy.partial: was not made by edgelaunch, .*: move it, or name another"):
            open_writer(one_stage.plan, tmp_path / "y.npy", ORIGIN, resume=resume)
    with pytest.raises(UserError, match="was not made by edgelaunch"):
        check(one_stage, "--output", tmp_path / "y.npy")
    assert left_behind(tmp_path / "y.npy") is None
    assert [file.name for file in real.iterdir()] == [content]
    assert (real / content).read_bytes() == before


def test_links_to_nothing_and_to_our_folder_are_refused_too(one_stage: Written, tmp_path: Path) -> None:
    ours = open_writer(one_stage.plan, tmp_path / "a.npy", ORIGIN)
    ours.add(Entry(index=0), {"y": torch.rand(4)})
    ours.discard()
    for target in ("missing", "a.npy.partial"):
        (tmp_path / "y.npy.partial").symlink_to(target)
        with pytest.raises(UserError, match="was not made by edgelaunch"):
            open_writer(one_stage.plan, tmp_path / "y.npy", ORIGIN)
        (tmp_path / "y.npy.partial").unlink()
    (tmp_path / "mine.jsonl").write_text("mine\n")  # a file of ours that is a link to one of theirs
    (tmp_path / "a.npy.partial" / "0.npy").unlink()
    (tmp_path / "a.npy.partial" / "0.npy").symlink_to(tmp_path / "mine.jsonl")
    with pytest.raises(UserError, match="was not made by edgelaunch"):
        open_writer(one_stage.plan, tmp_path / "a.npy", ORIGIN, resume=True)
    assert (tmp_path / "mine.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize("how", ["finish", "discard", "start over", "left behind"])
def test_what_somebody_put_into_our_folder_stays(one_stage: Written, tmp_path: Path, how: str) -> None:
    path = tmp_path / "y.npy"
    origin = Origin("plan", None) if how == "left behind" else ORIGIN
    writer = open_writer(one_stage.plan, path, origin)
    writer.add(Entry(index=0), {"y": torch.rand(4)})
    (tmp_path / "y.npy.partial" / "notes.txt").write_text("mine")
    if how == "finish":
        writer.finish()
        assert np.load(path).shape == (1, 4)
    else:
        writer.discard(keep=how != "discard")
    if how == "start over":
        open_writer(one_stage.plan, path, ORIGIN).discard()
    if how == "left behind":
        assert left_behind(path) is None
    assert (tmp_path / "y.npy.partial" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "y.npy.partial" / "0.npy").exists()
    again = open_writer(one_stage.plan, path, ORIGIN)  # the folder is still known as ours
    (tmp_path / "y.npy.partial" / "notes.txt").unlink()
    again.discard()
    assert not (tmp_path / "y.npy.partial").exists()


@pytest.mark.parametrize("left", ["nothing", "an empty record"])
def test_a_run_killed_at_its_beginning_is_no_obstacle(one_stage: Written, tmp_path: Path, left: str) -> None:
    (tmp_path / "y.npy.partial").mkdir()
    if left == "an empty record":
        (tmp_path / "y.npy.partial" / "run.json").touch()
    writer = open_writer(one_stage.plan, tmp_path / "y.npy", ORIGIN, resume=True)
    writer.add(Entry(index=0), {"y": torch.rand(4)})
    writer.finish()
    assert [file.name for file in tmp_path.iterdir()] == ["y.npy"]


def test_an_input_inside_that_folder_is_refused(one_stage: Written, tmp_path: Path) -> None:
    writer = open_writer(one_stage.plan, tmp_path / "y.npy", ORIGIN)
    writer.add(Entry(index=0), {"y": torch.rand(4)})
    writer.discard()
    inside = tmp_path / "y.npy.partial" / "0.npy"
    with pytest.raises(UserError, match=r"--input is inside the folder for partial results of y.npy"):
        check(one_stage, "--input", inside, "--output", tmp_path / "y.npy")
    assert inside.exists()


@pytest.mark.slow
def test_a_run_json_that_is_none_of_ours_stays(copied: Written) -> None:
    mine = copied.path.parent / "run.json"
    mine.write_text('{"version": 1, "configurations": []}')
    ended = run(copied.path, "--local", "--items", "2").expect(0)
    assert "run.json: is not a record of a run, and would be overwritten: move it away, or name a file with --run" in (
        ended.err
    )
    assert mine.read_text() == '{"version": 1, "configurations": []}'
    mine.unlink()
    run(copied.path, "--local", "--items", "2").expect(0)
    check_record(mine)  # and the next run may write over it


def test_plans_of_replaced_names_are_checked_by_name(copied: Written) -> None:
    """A path of the plan's own files is seen from the plan's folder, not from the working directory."""
    plan: Plan = replace(copied.plan, golden=replace(copied.plan.golden, file="other.safetensors"))
    request = parse_run([str(copied.path), "--run", str(copied.path.parent / "other.safetensors")])
    with pytest.raises(UserError, match="the plan's golden file"):
        check_run(request, plan)
